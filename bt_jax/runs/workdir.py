"""The folder of a run: which configuration it belongs to, and a lock so that only one run works in it at a time."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import filelock
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from bt_jax import files
from bt_jax.datasets import splits
from bt_jax.distributed import hosts
from bt_jax.errors import UserError
from configs import saved

_CONFIG = "config.json"
_LISTED = 8  # most differences listed in one message
# Fields and sections that may always differ between two starts of one run: they say where and how, not what.
_HOW = (
  "data.root",
  "data.dir",
  "data.workers",
  "parallel",
  "feed",
  "host_timeout",
  "train.steps_per_dispatch",
  "train.remat",
  "crossval",
  "report",
  "log",
)


@contextlib.contextmanager
def claim(
  workdir: pathlib.Path, config: dict[str, Any], *, new: bool, may_differ: str | None = None, host_timeout: int = 60
) -> Iterator[None]:
  """Locks the folder for this process; if no run was begun in it, it is restored to its previous state on exit.

  Args:
    workdir: the folder of the run.
    config: the configuration as nested dictionaries.
    new: whether a new run may start here.
    may_differ: the field or section that may differ from that of the run; those in `_HOW` always may.
    host_timeout: seconds of silence after which another host counts as lost.

  Raises:
    UserError: the folder is in use or not writable, holds a run of another configuration, or holds none and `new` is
      false.
  """
  with hosts.together():
    if len({json.dumps(_what(given)) for given in hosts.gather(config)}) > 1:
      raise UserError("the hosts were started with different configurations: start the same command on all of them")
    release = _claim(workdir, config, new=new, may_differ=may_differ) if hosts.is_first() else lambda: None
  try:
    with hosts.watch(workdir / ".hosts", timeout=host_timeout), _report_removed(workdir):
      yield
    if new:
      check_there(workdir)
  finally:
    release()


@contextlib.contextmanager
def _report_removed(workdir: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except FileNotFoundError as error:  # between two steps of writing a file, which makes the folder that it needs
    if error.filename and workdir in pathlib.Path(error.filename).parents:
      check_there(workdir)
    raise


def _claim(workdir: pathlib.Path, config: dict[str, Any], *, new: bool, may_differ: str | None) -> Callable[[], None]:
  """Locks the folder; returns a function that releases it."""
  path = workdir / _CONFIG
  if not new and not is_begun(workdir):
    raise UserError(f"{workdir} holds no run: train one, or name its folder as workdir", "mode=train", "workdir")
  lock = filelock.FileLock(workdir / ".lock", timeout=0)
  was_there = workdir.exists()
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock.acquire()
  except filelock.Timeout as error:
    raise UserError(
      f"{workdir} is in use by another process: wait for it, or choose another workdir", "workdir"
    ) from error
  except OSError as error:
    raise UserError(f"cannot write to {workdir} ({error.strerror}): choose another workdir", "workdir") from error

  def release() -> None:
    lock.release()
    if not path.is_file():
      shutil.rmtree(workdir / ".hosts", ignore_errors=True)
      pathlib.Path(lock.lock_file).unlink(missing_ok=True)
      if not was_there:
        with contextlib.suppress(OSError):  # another host's file may be there
          workdir.rmdir()

  try:
    if path.is_file():
      _check_same(workdir, saved.read(workdir), config, may_differ)
  except UserError:
    release()
    raise
  return release


def plain(config: ConfigDict) -> dict[str, Any]:
  """The configuration as nested dictionaries, as it would be read back from JSON."""
  return json.loads(json.dumps(config.to_dict()))


def default_workdir(config: ConfigDict, part: str = "") -> pathlib.Path:
  """The default folder, `runs/<model>_<preset>_<split>`; `part`, if given, replaces the name of the split."""
  named = {"random": splits.RANDOM_NAME, "buda10": splits.BUDA_NAME, "all": splits.ALL_NAME}
  part = part or named.get(config.split.kind) or splits.folder_name(splits.tested_folds(config.split))
  return pathlib.Path("runs") / "_".join(filter(None, (config.model.name, config.preset, part)))


def begin(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Writes the configuration to the folder, which is from now on that of its run."""
  if hosts.is_first():
    files.write_json(workdir / _CONFIG, config)


def is_begun(workdir: pathlib.Path) -> bool:
  """Whether a run was begun in this folder."""
  return (workdir / _CONFIG).is_file()


def check_there(workdir: pathlib.Path) -> None:
  """Raises UserError if the folder of a run was removed or moved since the run began."""
  if hosts.is_first() and not is_begun(workdir):
    raise UserError(
      f"{workdir} was removed or moved while this run worked in it, and what was written since is incomplete: remove it and "
      "start the run again, in a folder that stays"
    )


def _what(config: dict[str, Any]) -> dict[str, Any]:
  return {
    name: value for name, value in flatten_dict(config, sep=".").items() if not {name, name.split(".")[0]} & {*_HOW}
  }


def differences(there: dict[str, Any], here: dict[str, Any], may_differ: str | None = None) -> dict[str, str]:
  """The fields that make two configurations different runs, each with a text that shows both values.

  Args:
    there: configuration of the existing run, as read by `configs.saved`, as nested dictionaries.
    here: configuration of this start.
    may_differ: a field or section that is not compared; those in `_HOW` never are.
  """
  there, here = _what(there), _what(here)
  return {
    name: f"{name} ({there.get(name)!r} there, {here.get(name)!r} now)"
    for name in sorted(here.keys() | there.keys())
    if here.get(name) != there.get(name) and may_differ not in (name, name.split(".")[0])
  }


def listed(differ: dict[str, str]) -> str:
  """The first of these differences as text, and the number of further ones."""
  more = len(differ) - _LISTED
  return ", ".join([*differ.values()][:_LISTED]) + (f" and {more} more fields" if more > 0 else "")


def _check_same(workdir: pathlib.Path, there: dict[str, Any], here: dict[str, Any], may_differ: str | None) -> None:
  differ = differences(there, here, may_differ)
  if differ:
    evaluated = all(name.startswith("eval.") for name in differ)
    remedy, argument = ("evaluate it again", "mode=evaluate") if evaluated else ("choose another workdir", "workdir")
    raise UserError(
      f"{workdir} holds the run of another configuration, which differs in {listed(differ)}: {remedy}", argument
    )
