"""The flags of launch.py; a mistake in them is told in one line, before JAX is imported."""

import re
import sys
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from bt_jax.errors import UserError

# What each mode takes beside --workdir: a configuration, and flags of its own.
_SEVERAL_HOSTS = ("coordinator", "hosts", "host")
_TAKES = {
  "build": ("config",),
  "train": ("config", *_SEVERAL_HOSTS),
  "evaluate": ("config", *_SEVERAL_HOSTS),
  "crossval": ("config", "runs"),
  "convert": ("config",),
  "cascade": ("classifier", "segmenter", "sensitivity"),
  "compare": ("runs",),
  "report": ("show_slices",),
}
WIDE = tuple(mode for mode, takes in _TAKES.items() if "hosts" in takes)  # those for several hosts

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file and preset, e.g. configs/seg.py:small.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default one under runs/, named after it.")
MODE = flags.DEFINE_enum(
  "mode",
  "train",
  list(_TAKES),
  "build: the data set; train: and evaluate; evaluate: again; crossval: all patient folds, pooled; report: the page of a run "
  "again; compare: two runs of one split; cascade: a classifier and a segmenter as one; convert: published weights.",
)
RUNS = flags.DEFINE_list(
  "runs", [], "compare: folders of two runs. crossval: folders of finished folds, or patterns of them, to pool."
)
CLASSIFIER = flags.DEFINE_string("classifier", None, "cascade: folder of the classifier's run.")
SEGMENTER = flags.DEFINE_string("segmenter", None, "cascade: folder of the segmenter's run.")
SENSITIVITY = flags.DEFINE_float(
  "sensitivity", 0.98, "cascade: share of the validation slices with a tumour that the gate lets through."
)
SHOW_SLICES = flags.DEFINE_bool("show_slices", None, "report: whether it shows slices; by default as the run was told.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "Several hosts: address:port of the first; auto on a TPU pod.")
HOSTS = flags.DEFINE_integer("hosts", None, "Several hosts: how many processes there are.")
HOST = flags.DEFINE_integer("host", None, "Several hosts: which of them this is, from 0.")
TIMEOUT = flags.DEFINE_integer("connect_timeout", 300, "Several hosts: seconds to wait for the others.")


def parse(argv: list[str]) -> list[str]:
  """Parses the flags, as `app.run` wants it; leaves with status 1 where they are wrong."""
  try:
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
      raise UserError(f"{rest[1]!r} is not a flag: flags are --config, --config.<field>=value and those of --help")
    _check_taken(MODE.value)
    if CONFIG.value is not None:
      CONFIG.value.lock()  # a file that is not there is told on the first touch
    return rest
  except (AttributeError, KeyError) as error:
    fail(_misspelt(argv) or f"the configuration cannot be read ({error})")
  except (UserError, flags.Error, OSError, TypeError, ValueError) as error:
    fail(" ".join(str(error).split()))


def fail(message: str) -> NoReturn:
  """Leaves with status 1 and one line."""
  sys.exit(f"error: {message}")


def _check_taken(mode: str) -> None:
  for name in dict.fromkeys(name for takes in _TAKES.values() for name in takes):
    takers = [f"--mode={taker}" for taker, takes in _TAKES.items() if name in takes]
    if name not in _TAKES[mode] and flags.FLAGS[name].present:
      cure = "its runs have theirs" if name == "config" else f"it is for {', '.join(takers)}"
      raise UserError(f"--mode={mode} takes no --{name}: {cure}")
  if "config" in _TAKES[mode] and CONFIG.value is None:
    raise UserError("no configuration: pass e.g. --config=configs/seg.py:phantom")


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
