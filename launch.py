"""Trains and evaluates tumour segmentation and classification of brain MRI slices.

  python launch.py --config=configs/seg.py:phantom                        try it on synthetic data
  python launch.py --config=configs/seg.py --config.data.root=DIR         the real data; DIR holds kaggle_3m/
  python launch.py --config=configs/cls.py:small --config.split.fold=7    any field of the configuration as a flag
  python launch.py --mode=cascade --classifier=RUN --segmenter=RUN        two runs of one split as one system
  python launch.py --mode=convert --config=configs/cls.py --config.model.pretrained=FILE --workdir=DIR

Fields are listed, with their meaning, in configs/common.py; presets at the top of each configuration file.
For research only, never clinical use.
"""

import os
import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from bt_jax.errors import Stopped, UserError

# JAX and all that needs it are imported once the flags are right and the other hosts are there.
_MODES = ("build", "train", "evaluate", "convert")  # functions of bt_jax.experiment
_WIDE = ("train", "evaluate")  # those for several hosts
_CASCADE = "cascade"  # the one mode without a configuration: its runs have theirs

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file and preset, e.g. configs/seg.py:small.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default one under runs/, named after it.")
_MODE = flags.DEFINE_enum(
  "mode",
  "train",
  [*_MODES, _CASCADE],
  "build: the data set; train: and evaluate; evaluate: again; convert: published weights; cascade: two runs as one.",
)
_CLASSIFIER = flags.DEFINE_string("classifier", None, "cascade: folder of the classifier's run.")
_SEGMENTER = flags.DEFINE_string("segmenter", None, "cascade: folder of the segmenter's run.")
_SENSITIVITY = flags.DEFINE_float(
  "sensitivity", 0.98, "cascade: share of the validation slices with a tumour that the gate lets through."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Several hosts: address:port of the first; auto on a TPU pod.")
_HOSTS = flags.DEFINE_integer("hosts", None, "Several hosts: how many processes there are.")
_HOST = flags.DEFINE_integer("host", None, "Several hosts: which of them this is, from 0.")
_TIMEOUT = flags.DEFINE_integer("connect_timeout", 300, "Several hosts: seconds to wait for the others.")


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; a mistake in them is told in one line."""
  try:
    rest = flags.FLAGS(argv)
    if _MODE.value not in _WIDE and (_COORDINATOR.value, _HOSTS.value, _HOST.value) != (None,) * 3:
      raise UserError(f"--mode={_MODE.value} is for one host: leave --coordinator, --hosts and --host out")
    if len(rest) > 1:
      raise UserError(f"{rest[1]!r} is not a flag: flags are --config, --config.<field>=value and those of --help")
    if _MODE.value == _CASCADE:
      if _CONFIG.value is not None:
        raise UserError(
          "--mode=cascade takes no --config: its two runs have theirs; name them with --classifier, --segmenter"
        )
      return rest
    if _CLASSIFIER.value or _SEGMENTER.value:
      raise UserError("--classifier and --segmenter are for --mode=cascade")
    if _CONFIG.value is None:
      raise UserError("no configuration: pass e.g. --config=configs/seg.py:phantom")
    _CONFIG.value.lock()  # a file that is not there is told on the first touch
    return rest
  except (AttributeError, KeyError) as error:
    _fail(_misspelt(argv) or f"the configuration cannot be read ({error})")
  except (UserError, flags.Error, OSError, TypeError, ValueError) as error:
    _fail(" ".join(str(error).split()))


def _misspelt(argv: list[str]) -> str | None:
  """What to say of the first --config.<field> that does not exist; None if all do."""
  path = re.search(r"(?:^|\0)--?config[=\0]([^\0]+)", "\0".join(argv))
  known = _fields(flags.FLAGS["config"].parser.parse(path[1])) if path else []
  asked = [match[1] for argument in argv if (match := re.match(r"--?(?:no)?config\.([^=]+)", argument))]
  wrong = [name for name in asked if name not in known]
  return f"there is no field {wrong[0]!r} in the configuration: there are {', '.join(known)}" if wrong else None


def _fields(config: ConfigDict, prefix: str = "") -> list[str]:
  names = []
  for name in config:
    names += _fields(config[name], f"{prefix}{name}.") if isinstance(config[name], ConfigDict) else [prefix + name]
  return names


def _fail(message: str) -> None:
  sys.exit(f"error: {message}")


def _run() -> None:
  from bt_jax import machine

  if _MODE.value in _WIDE:
    machine.prepare(_CONFIG.value)
    if not machine.connect(
      coordinator=_COORDINATOR.value, hosts=_HOSTS.value, host=_HOST.value, timeout=_TIMEOUT.value
    ):
      sys.stdout = open(os.devnull, "w")  # noqa: SIM115
      os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, further down
  workdir = pathlib.Path(_WORKDIR.value).expanduser() if _WORKDIR.value else None
  if _MODE.value == _CASCADE:
    from bt_jax import cascade

    cascade.evaluate(
      classifier=_CLASSIFIER.value, segmenter=_SEGMENTER.value, sensitivity=_SENSITIVITY.value, workdir=workdir
    )
  else:
    from bt_jax import experiment

    mode = getattr(experiment, _MODE.value)
    mode(_CONFIG.value, workdir or experiment.default_workdir(_CONFIG.value, _MODE.value))


def main(argv: list[str]) -> None:
  """Runs the mode."""
  del argv
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.ERROR)  # Orbax tells every step of every save otherwise
  try:
    _run()
  except UserError as error:
    _fail(str(error))
  except OSError as error:
    where = error.filename or _WORKDIR.value or "a file"
    _fail(f"cannot read or write {where} ({error.strerror or error}): free some space or mend the folder")
  except Stopped as stop:
    print(stop)
    sys.exit(stop.exit_code)
  except KeyboardInterrupt:
    print("stopped; the same command starts again from what is saved")
    sys.exit(130)


if __name__ == "__main__":
  app.run(main, flags_parser=_parse)
