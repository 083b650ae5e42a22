"""Checkpoints that explain themselves, in two Orbax managers: `latest` to resume from, `best` by score.

Two managers, as one that keeps the best steps would delete the newest.
"""

import contextlib
import errno
import functools
import hashlib
import logging as standard_logging
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from bt_jax import files
from bt_jax.distributed import hosts
from bt_jax.errors import UserError, one_line

PyTree = Any
_KEEP = 2  # the one before stays, to fall back to
_CORRUPT = ".corrupt"
_SEAL = "record_sha256"
_FORMAT = 1  # of arrays and records; one more where a version before could not read them
_NOTES = "_CHECKPOINT_METADATA"
_LATE = ("Event loop is closed", "TensorStore", "OCDBT")  # what ends so was waited for by nothing
AS_SAVED = object()
# What says that a file is not there, or is not a file: all other errors of the system are of the disk or of permissions.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def tree_hash(tree: PyTree) -> str:
  """SHA-256 over the bytes of every array and its place: equal only where two trees are equal bit for bit."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def _handlers() -> dict[str, Any]:
  return {"arrays": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Orbax logs what it raises, in hundreds of lines, and warns that what is opened to be read is not written."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def _silence_what_ends_late() -> None:
  """Where an array cannot be read or saved, Orbax waits for none of the others: each would print a stack trace as it ends."""
  if getattr(sys.unraisablehook, "func", None) is not _unless_late:
    sys.unraisablehook = functools.partial(_unless_late, sys.unraisablehook)
  for logger in (logging.get_absl_logger(), standard_logging.getLogger("asyncio")):
    logger.addFilter(_is_not_late)  # once, however often


def _unless_late(otherwise: Callable[[Any], None], unraisable: Any) -> None:
  if not _is_late(unraisable.exc_value):
    otherwise(unraisable)


def _is_not_late(record: standard_logging.LogRecord) -> bool:
  of_orbax = record.levelno >= standard_logging.ERROR and "orbax" in record.pathname
  return not of_orbax and not _is_late(record.exc_info and record.exc_info[1])


def _is_late(error: BaseException | None) -> bool:
  """Whether it is of a read or save that nothing waited for, by its words: the types are those of any error."""
  return any(text in str(error) for text in _LATE)


class Checkpoints:
  """The checkpoints in one folder, each of a tree of arrays and a JSON record of what they are.

  Args:
    folder: of the checkpoints.
    read_only: of networks that are used as they are: nothing there is touched, and the newest is the only one that will
      do. Otherwise a corrupt one is renamed, and the one before it takes its place.
  """

  def __init__(self, folder: str | pathlib.Path, *, read_only: bool = False):
    self.folder = pathlib.Path(folder).absolute()
    self._read_only = read_only
    self._manager: ocp.CheckpointManager | None = None

  def _open(self) -> ocp.CheckpointManager:
    """The manager that saves; reading needs none."""
    if self._manager is None:
      options = ocp.CheckpointManagerOptions(max_to_keep=_KEEP, enable_async_checkpointing=False)
      make = functools.partial(ocp.CheckpointManager, self.folder, options=options, item_handlers=_handlers())
      with _quiet():
        try:
          self._manager = make()
        except ValueError:  # Orbax's notes beside arrays and record, of which nothing is read, are damaged
          for path in self.folder.glob(f"*/{_NOTES}"):
            path.unlink(missing_ok=True)
          self._manager = make()
    return self._manager

  @property
  def _steps(self) -> list[int]:
    return [int(path.name) for path in self.folder.iterdir() if path.name.isdigit()] if self.folder.is_dir() else []

  @property
  def exist(self) -> bool:
    """Whether there is any; looks at names alone."""
    return bool(self._steps)

  def save(self, step: int, tree: PyTree, record: dict[str, Any]) -> None:
    """Writes one checkpoint, whole or not at all, and drops those before the last two. One that exists is kept.

    Raises:
      UserError: the disk is full, may not be written or fails, or the folder was removed since it was opened.
    """
    _silence_what_ends_late()
    manager, opened = self._manager or self._open(), self._manager is not None
    if opened and not self.folder.is_dir():
      raise UserError(
        f"{self.folder} was removed while a run worked in it: start the run again, in a folder that stays"
      )
    if step in manager.all_steps():
      return
    record = {**record, "format": _FORMAT, "step": step, "arrays_sha256": tree_hash(tree)}
    items = ocp.args.Composite(
      arrays=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(files.sealed(record, _SEAL))
    )
    try:
      with _quiet():
        saved = manager.save(step, args=items, force=True)
    except Exception as error:  # TensorStore raises ValueError where the disk is full
      if (reason := _system_error(error)) is None:
        raise
      raise UserError(
        f"checkpoint {step} cannot be saved in {self.folder} ({reason}): free some space or repair the folder; the same "
        "command then resumes from the checkpoint before it"
      ) from error
    if not saved:
      raise RuntimeError(f"checkpoint {step} was not saved in {self.folder}")

  def restore(self, like: PyTree = None, *, step: int | None = None) -> tuple[PyTree, dict[str, Any]] | None:
    """The newest checkpoint, as (arrays, record); None if there is none.

    Args:
      like: arrays, or their abstract shapes and shardings, of the same tree; None reads the record alone; `AS_SAVED`
        is for who does not know the tree and gives nested dictionaries of NumPy arrays.
      step: only this one will do.

    Raises:
      UserError: a file cannot be read, in which case nothing is renamed; the checkpoint is corrupt, and no other may take
        its place; or there are checkpoints, and none is whole.
    """
    steps = sorted(self._steps, reverse=True) if step is None else [step]
    for step in steps:
      restored, damage = self._try(step, like)
      if damage is None:
        return restored
      path = self.folder / str(step)
      if self._read_only:
        raise UserError(f"checkpoint {path} is corrupt ({damage}): put it back from a copy, or train its run again")
      print(f"checkpoint {path} is corrupt ({damage}): renamed to {path}{_CORRUPT}, trying the one before")
      if hosts.is_first():
        renamed = path.with_name(f"{step}{_CORRUPT}")
        shutil.rmtree(renamed, ignore_errors=True)  # of the same step, corrupt before
        path.rename(renamed)
      hosts.gather(None)  # only then
      if self._manager is not None:
        self._manager.reload()
    if list(self.folder.glob(f"*{_CORRUPT}")):
      raise UserError(
        f"no checkpoint in {self.folder} can be read: put one back from a copy, or remove the run's folder to start over"
      )
    return None

  def _try(self, step: int, like: PyTree) -> tuple[tuple[PyTree, dict[str, Any]] | None, str | None]:
    """What was restored, or on any host how it is damaged: only where every file of it could be read, twice."""
    restored, problem, damage = None, None, None
    for _ in range(2):  # a network's file system may fail once
      try:
        with _quiet():
          restored, problem, damage = self._read(step, like), None, None
        break
      except (MemoryError, jax.errors.JaxRuntimeError, UserError):  # the machine's trouble, or of a newer version
        raise
      except Exception as error:  # Orbax raises many kinds for a broken checkpoint
        damage = one_line(error)
        problem = _system_error(error) or _unreadable(self.folder / str(step))
    outcomes = hosts.gather({"problem": problem, "damage": damage})
    for reason in filter(None, (outcome["problem"] for outcome in outcomes)):
      raise UserError(
        f"checkpoint {self.folder / str(step)} cannot be read ({reason}): nothing was changed; repair the disk or the "
        "permissions, and start the same command again"
      )
    return restored, next(filter(None, (outcome["damage"] for outcome in outcomes)), None)

  def _read(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    folder, handlers = self.folder / str(step), _handlers()
    _silence_what_ends_late()
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))
    read = lambda **items: checkpointer.restore(folder, args=ocp.args.Composite(**items))
    record = read(record=ocp.args.JsonRestore()).record
    if record["step"] != step or not files.is_sealed(record, _SEAL):
      raise ValueError("its record is not the one that was saved")
    # Before the arrays, which another format may keep in another way.
    files.check_format(record, _FORMAT, folder, record.get("bt_jax", "?"), "train the run again")
    kept = {name: value for name, value in record.items() if name != _SEAL}
    if like is None:
      return None, kept
    if like is AS_SAVED:
      metadata = handlers["arrays"].metadata(folder / "arrays").tree
      like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata)
    arrays = read(arrays=ocp.args.StandardRestore(like)).arrays
    if tree_hash(arrays) != record["arrays_sha256"]:
      raise ValueError("its arrays are not those that were saved")
    return arrays, kept

  def close(self) -> None:
    """Lets go of the folder."""
    if self._manager is not None:
      self._manager.close()


def _system_error(error: BaseException | None) -> str | None:
  """What the operating system said, out of an error and those that it came from; None if it is of another kind."""
  while error is not None:
    of_tensorstore = re.search(r"os_error_code='(\d+)'", str(error))
    number = error.errno if isinstance(error, OSError) else int(of_tensorstore[1]) if of_tensorstore else None
    if number is not None and number not in _NO_FILE:
      return os.strerror(number)
    error = error.__cause__ or error.__context__
  return None


def _unreadable(folder: pathlib.Path) -> str | None:
  """Why a file in this folder cannot be read to its end; None if all can."""

  def give_up(error: OSError) -> None:
    raise error

  try:
    for path, _, names in os.walk(folder, onerror=give_up):
      for name in names:
        with open(pathlib.Path(path) / name, "rb") as file:
          while file.read(2**20):
            pass
  except OSError as error:
    return None if error.errno in _NO_FILE else f"{error.filename}: {error.strerror}"
  return None


def no_best(workdir: pathlib.Path, otherwise: UserError) -> UserError:
  """The refusal of a run without a best checkpoint: where it was trained, that is lost; `otherwise` where it was not."""
  folder = workdir / "checkpoints"
  if not Checkpoints(folder / "latest").exist:
    return otherwise
  return UserError(
    f"{folder / 'best'} holds no checkpoint, although {workdir} was trained: put it back from a copy, or remove {folder} "
    "and train again from the start",
    "mode=train",
  )
