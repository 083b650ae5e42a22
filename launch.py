"""Trains and evaluates tumour segmentation and classification of brain MRI slices.

  python launch.py --config=configs/seg.py:phantom                        try it on synthetic data
  python launch.py --config=configs/seg.py --config.data.root=DIR         the real data; DIR holds kaggle_3m/
  python launch.py --config=configs/cls.py:small --config.split.fold=7    any field of the configuration as a flag
  python launch.py --config=configs/seg.py --mode=crossval                all 22 patient folds, pooled; goes on where it stopped
  python launch.py --mode=compare --runs=RUN,RUN                          two runs of one split, patient by patient
  python launch.py --mode=report --workdir=RUN                            the page of a run again, from its tables
  python launch.py --mode=cascade --classifier=RUN --segmenter=RUN        two runs of one split as one system
  python launch.py --mode=convert --config=configs/cls.py --config.model.pretrained=FILE --workdir=DIR
  python launch.py --mode=predict --checkpoint=RUN --input=SCAN --output=DIR     a mask for a scan of any kind
  python launch.py --mode=export --checkpoint=RUN --output=FILE           one file that runs with jax alone
  python launch.py --mode=serve --checkpoint=RUN                          a page to drop scans on

Fields are listed, with their meaning, in configs/common.py; presets at the top of each configuration file.
For research only, never clinical use.
"""

import importlib
import os
import signal
import sys

from absl import app, flags, logging

from bt_jax import command_line as given
from bt_jax.distributed import allocator
from bt_jax.errors import Stopped, UserError

if __name__ == "__main__":
  allocator.use_huge_pages()

flags.adopt_module_key_flags(given)  # so that --help shows them


def _run() -> None:
  """Runs the mode; JAX and all that needs it are imported once the flags are right and the other hosts are there."""
  mode, told = given.MODE.value, given.told()
  if "hosts" in told:
    from bt_jax.distributed import setup

    setup.prepare(told["config"])
    place = {name: told.pop(name) for name in ("coordinator", "hosts", "host")}
    if not setup.connect(**place, timeout=told.pop("connect_timeout")):
      sys.stdout = open(os.devnull, "w")  # noqa: SIM115
      os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, further down
  if "config" in told and told["workdir"] is None:
    from bt_jax.modes import train

    told["workdir"] = train.default_workdir(told["config"], mode)
  getattr(importlib.import_module(f"bt_jax.{given.MODES[mode].module}"), mode)(**told)


def main(argv: list[str]) -> None:
  """Runs the mode."""
  del argv
  sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.ERROR)  # Orbax tells every step of every save otherwise
  try:
    _run()
    sys.stdout.flush()
  except BrokenPipeError:  # who read the output, as `head` does, has enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
    sys.exit(128 + signal.SIGPIPE)
  except UserError as error:
    given.fail(str(error))
  except OSError as error:
    where = error.filename or given.told().get("workdir") or given.told().get("output") or "a file"
    given.fail(f"cannot read or write {where} ({error.strerror or error}): free some space or fix the folder")
  except Stopped as stop:
    print(stop)
    sys.exit(stop.exit_code)
  except KeyboardInterrupt:
    print("stopped; the same command starts again from what is saved")
    sys.exit(130)


if __name__ == "__main__":
  app.run(main, flags_parser=given.parse)
