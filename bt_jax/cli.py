"""Trains and evaluates tumour segmentation and classification of brain MRI slices.

  python launch.py --config=configs/seg.py:phantom                        try it on synthetic data
  python launch.py --config=configs/seg.py --config.data.root=DIR         the real data; DIR holds kaggle_3m/
  python launch.py --config=configs/cls.py:small --config.split.fold=7    any field of the configuration as a flag
  python launch.py --config=configs/seg.py --mode=crossval                all patient folds, pooled; resumes where it stopped
  python launch.py --mode=compare --runs=RUN,RUN                          two runs of one split, patient by patient
  python launch.py --mode=report --workdir=RUN                            a run's report again, from its tables
  python launch.py --mode=cascade --classifier=RUN --segmenter=RUN        two runs of one split as one system
  python launch.py --mode=convert --config=configs/cls.py --config.model.pretrained=FILE --workdir=DIR
  python launch.py --mode=predict --checkpoint=lgg --input=SCAN --output=DIR     a mask for a scan of any kind; or a run
  python launch.py --mode=export --checkpoint=RUN --output=FILE           one file that runs with jax alone
  python launch.py --mode=serve                                           a web page to drop scans on

The fields and their meaning are in configs/common.py, the presets at the top of each configuration file. Exit status: 0 done, 1 bad
input or a full disk, 2 some studies could not be predicted, 75 another host is lost, 130 Ctrl-C, 143 SIGTERM.
For research only, never clinical use.
"""

import contextlib
import importlib
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from bt_jax.distributed import allocator
from bt_jax.errors import Stopped, UserError, check_local, needs
from bt_jax.evaluation import SENSITIVITY
from configs import arguments, common

_RUN, _SEVERAL_HOSTS = ("config", "workdir"), ("coordinator", "hosts", "host", "connect_timeout")
_NETWORKS = ("checkpoint", "classifier", "sensitivity", "tta", "threshold")


# The flags that each mode takes. Mode `x` is the function `bt_jax.modes.x.x`.
MODES = {
  "build": _RUN,
  "train": (*_RUN, *_SEVERAL_HOSTS),
  "evaluate": (*_RUN, *_SEVERAL_HOSTS),
  "crossval": (*_RUN, "runs"),
  "convert": _RUN,
  "cascade": ("classifier", "segmenter", "sensitivity", "workdir"),
  "compare": ("runs", "workdir"),
  "report": ("workdir", "show_slices"),
  "predict": (
    *_NETWORKS,
    "input",
    "pre",
    "flair",
    "post",
    "output",
    "probabilities",
    "uncertainty",
    "also",
    "shard",
    "layout",
  ),
  "export": (*_NETWORKS, "output", "runs"),
  "serve": (*_NETWORKS, "bind", "port", "limit_mb", "keep"),
  "check": ("config", "output"),
}
# Flags that are required by every mode that takes them, except by those in `_CHOICE`, where they are optional.
_NEEDED = {"checkpoint": "lgg, the weights that ship, or the folder of a run", "output": "where to write"}
_CHOICE = {"check": ("output",), "serve": ("checkpoint",)}
_PATHS = ("workdir", "input", "output", "keep")
_MORE_PATHS = (*_PATHS, "pre", "flair", "post", "checkpoint", "classifier", "segmenter", "runs")  # or UIDs or patterns
_FLAGS = {"mode", *(name for takes in MODES.values() for name in takes)}

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file and preset, e.g. configs/seg.py:small.")
flags.DEFINE_string("workdir", None, "Folder of the run; by default one under runs/, named after the run.")
MODE = flags.DEFINE_enum(
  "mode",
  "train",
  list(MODES),
  "check: inspect a folder of your own data before training; build: build the data set; train: train and evaluate; "
  "evaluate: evaluate a run again; crossval: all patient folds, pooled; report: write a run's report again; compare: two "
  "runs of one split; cascade: a classifier and a segmenter as one system; convert: convert published weights; predict: "
  "predict scans without ground truth; export: write networks to one file; serve: a web page to predict and view scans.",
)
flags.DEFINE_list(
  "runs",
  [],
  "compare: folders of two runs. crossval: folders of finished folds to pool, or glob patterns. export, to .safetensors: "
  "folders of finished folds that choose the threshold of a network trained on all patients.",
)
flags.DEFINE_string(
  "classifier",
  None,
  "cascade, predict, export, serve: folder of the classifier's run; slices that it takes for healthy stay empty.",
)
flags.DEFINE_string("segmenter", None, "cascade: folder of the segmenter's run.")
flags.DEFINE_float(
  "sensitivity",
  SENSITIVITY,
  "Share of the validation slices with a tumour that the classifier lets through.",
)
flags.DEFINE_bool("show_slices", None, "report: whether the report shows slices; by default as in the configuration.")
flags.DEFINE_list(
  "checkpoint",
  [],
  "predict, export, serve: lgg, the weights that ship (serve: by default); folders of segmenters' runs, glob patterns, a "
  "published U-Net's weights, or one exported file.",
)
flags.DEFINE_bool(
  "tta", False, "predict, export, serve: average predictions over mirrored and slightly rotated copies of each slice."
)
flags.DEFINE_float(
  "threshold",
  None,
  "predict, export, serve: threshold on a pixel's probability; by default as chosen on the validation set.",
)
flags.DEFINE_string(
  "input", None, "predict: a file (TIFF, PNG, JPEG, NIfTI, DICOM, zip), or a folder of one study or of many."
)
flags.DEFINE_string("pre", None, "predict: file of the pre-contrast sequence, or its SeriesInstanceUID in --input.")
flags.DEFINE_string("flair", None, "predict: file of the FLAIR sequence, or its SeriesInstanceUID in --input.")
flags.DEFINE_string("post", None, "predict: file of the post-contrast sequence, or its SeriesInstanceUID in --input.")
flags.DEFINE_string(
  "output",
  None,
  "predict: output folder. export: output file (.onnx: ONNX, .safetensors: weights). check: image of some cases (.png).",
)
flags.DEFINE_bool("probabilities", False, "predict: write probabilities beside masks.")
flags.DEFINE_bool(
  "uncertainty", False, "predict: write maps of entropy beside masks, and of how far several passes disagree."
)
flags.DEFINE_list(
  "also",
  [],
  "predict: what else to write of DICOM scans, separated by commas: sc, secondary captures with outline and volume; sr, a structured "
  "report of volume and diameter.",
)
flags.DEFINE_string("shard", None, "predict: i/n, every n-th study from the i-th on, to share work among n machines.")
flags.DEFINE_enum(
  "layout", None, ["nnunet", "bids"], "predict: also write the masks under nnU-Net's names, or as BIDS derivatives."
)
flags.DEFINE_string("bind", "127.0.0.1", "serve: address to listen on; any other opens the server to the network.")
flags.DEFINE_integer("port", 8000, "serve: port; 0 picks a free one.")
flags.DEFINE_integer("limit_mb", 512, "serve: largest total size of one upload's files, in MB.", lower_bound=1)
flags.DEFINE_string(
  "keep",
  None,
  "serve: folder in which every prediction is kept, and corrections of masks as data to train from; by default none is.",
)
flags.DEFINE_string("coordinator", None, "Several hosts: address:port of the first host; auto on a TPU pod.")
flags.DEFINE_integer("hosts", None, "Several hosts: number of processes.")
flags.DEFINE_integer("host", None, "Several hosts: index of this process, from 0.")
flags.DEFINE_integer("connect_timeout", 300, "Several hosts: seconds to wait for the others.")


def main() -> None:
  """Runs the mode that the command line names; the console script `bt-jax`."""
  allocator.use_huge_pages()
  program = sys.modules["__main__"]
  program.__doc__ = __doc__  # --help prints it, then the flags of this module
  for flag in flags.FLAGS.get_key_flags_for_module(__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  with _until_unread():
    app.run(_main, flags_parser=parse)


@contextlib.contextmanager
def _until_unread() -> Iterator[None]:
  """Exits silently when the reader of the output closes the pipe, as `head` does."""
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
    sys.exit(128 + signal.SIGPIPE)


def _main(argv: list[str]) -> None:
  del argv
  sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold characters that the terminal cannot show
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.ERROR)  # Orbax logs every step of every save otherwise
  try:
    _run()
    sys.stdout.flush()
  except BrokenPipeError:
    raise
  except UserError as error:
    fail(with_flags(error), error.exit_code)
  except OSError as error:
    values = flag_values()
    path = error.filename or values.get("workdir") or values.get("output") or "a file"
    fail(f"cannot read or write {path} ({error.strerror or error}): free some space or fix the folder")
  except Stopped as stop:
    print(stop)
    sys.exit(stop.exit_code)
  except KeyboardInterrupt:
    print("stopped; the same command starts again from what is saved")
    sys.exit(130)


def _run() -> None:
  """Runs the mode. JAX is imported only once the flags are valid, and used only once the other hosts have joined."""
  mode, values = MODE.value, flag_values()
  changed = common.suit_own_data(CONFIG.value) if CONFIG.value is not None else []
  if changed and mode in ("train", "crossval"):
    print(f"changed, as the preset is for LGG's sequences: {', '.join(changed)}")
  if "hosts" in values:
    from bt_jax.distributed import setup

    setup.prepare(values["config"])
    host = {name: values.pop(name) for name in ("coordinator", "hosts", "host")}
    if not setup.connect(**host, timeout=values.pop("connect_timeout")):
      sys.stdout = open(os.devnull, "w")  # noqa: SIM115
      os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, further down
  trains = "checkpoint" not in values and mode not in ("build", "check")
  with needs("train" if trains else "predict", f"--mode={mode}"):
    getattr(importlib.import_module(f"bt_jax.modes.{mode}"), mode)(**values)


def parse(argv: list[str]) -> list[str]:
  """Parses the flags, as `app.run` requires; exits with status 1 if they are wrong."""
  try:
    if argv[1:] and argv[1] in MODES:  # `bt-jax build` is `bt-jax --mode=build`
      argv[1] = f"--mode={argv[1]}"
    arguments.find_config(argv)
    argv, unset = arguments.without_none(argv)
    rest = _parse_flags(argv)
    if len(rest) > 1:
      raise UserError(f"{rest[1]!r} is not a flag: flags are --config, --config.<field>=value and those of --help")
    _check_taken(MODE.value)
    if CONFIG.value is not None:
      CONFIG.value.lock()  # a missing file raises at the first access
      CONFIG.value.update_from_flattened_dict(dict.fromkeys(unset))
    _check_local()
    return rest
  except BrokenPipeError:  # --help prints during parsing
    raise
  except (AttributeError, KeyError) as error:
    fail(arguments.misspelt(argv, flags.FLAGS["config"].parser.parse) or f"the configuration cannot be read ({error})")
  except (UserError, flags.Error, OSError, TypeError, ValueError) as error:
    fail(" ".join(with_flags(_first(error)).split()))


def _parse_flags(argv: list[str]) -> list[str]:
  """What is left of the arguments without flags; --help exits with status 0, where absl would exit with 1."""
  try:
    return flags.FLAGS(argv)
  except SystemExit as help_shown:
    sys.exit(0 if help_shown.code == 1 else help_shown.code)


def _first(error: Exception) -> Exception:
  """The UserError at the root of an error, if there is one: ml_collections wraps it, with a stack trace as its text."""
  reasons = [error]
  while reason := reasons[-1].__cause__ or reasons[-1].__context__:
    reasons.append(reason)
  return next((reason for reason in reversed(reasons) if isinstance(reason, UserError)), error)


def flag_values() -> dict[str, Any]:
  """The values of the flags that the mode takes, by name; paths as `pathlib.Path`."""
  values = {name: flags.FLAGS[name].value for name in MODES[MODE.value]}
  paths = {name: pathlib.Path(values[name]).expanduser() if values[name] else None for name in _PATHS if name in values}
  return values | paths


def with_flags(error: Exception) -> str:
  """The message of an error, followed, for a `UserError`, by the flags of the arguments that its remedy names."""
  names = error.arguments if isinstance(error, UserError) else ()
  named = ", ".join(f"--{one}" if one.partition("=")[0] in _FLAGS else f"--config.{one}" for one in names)
  return f"{error} ({named})" if named else str(error)


def fail(message: str, status: int = 1) -> NoReturn:
  """Exits with this status and one line."""
  print(f"error: {message}", file=sys.stderr)
  sys.exit(status)


def _check_local() -> None:
  """Raises UserError if a path is a remote address: it would become a local folder of that name."""
  config = (
    {}
    if CONFIG.value is None
    else {name: arguments.value_of(CONFIG.value, name) for name in arguments.fields_of(CONFIG.value)}
  )
  given = {name: flags.FLAGS[name].value for name in _MORE_PATHS}
  for name, value in {**given, **config}.items():
    for text in value if isinstance(value, list) else [value]:
      if isinstance(text, str):
        check_local(text, name)


def _check_taken(mode: str) -> None:
  takes = MODES[mode]
  for name in dict.fromkeys(name for other in MODES.values() for name in other):
    takers = [f"--mode={other}" for other in MODES if name in MODES[other]]
    if name not in takes and flags.FLAGS[name].present:
      remedy = "its runs have theirs" if name == "config" else f"it is for {', '.join(takers)}"
      raise UserError(f"--mode={mode} takes no --{name}: {remedy}")
    if name in takes and name in _NEEDED and name not in _CHOICE.get(mode, ()) and not flags.FLAGS[name].value:
      raise UserError(f"--mode={mode} needs --{name}=PATH, {_NEEDED[name]}")
  if "config" in takes and CONFIG.value is None:
    raise UserError("no configuration: pass e.g. --config=configs/seg.py:phantom")
