"""Self-describing checkpoints in two Orbax managers: `latest` to resume from, and `best` by score.

There are two managers because one that keeps the best steps would delete the newest.
"""

import contextlib
import errno
import functools
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
from bt_jax.training.train_state import PyTree, tree_hash

_KEEP = 2  # the previous one is kept as a fallback
_CORRUPT = ".corrupt"
_SEAL = "record_sha256"
_FORMAT = 1  # of arrays and records; incremented when earlier versions could not read them
_NOTES = "_CHECKPOINT_METADATA"
_LATE = ("Event loop is closed", "TensorStore", "OCDBT")  # texts of errors from reads or saves that nothing awaits
AS_SAVED = object()
# These say that a file is missing or not a file; all other system errors come from the disk or from permissions.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def _handlers() -> dict[str, Any]:
  return {"arrays": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences Orbax, which logs every error it raises in hundreds of lines, and warns when a checkpoint is only read."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def _silence_what_ends_late() -> None:
  """Silences Orbax's late errors: if one array fails, it does not await the others, which print stack traces."""
  if getattr(sys.unraisablehook, "func", None) is not _unless_late:
    sys.unraisablehook = functools.partial(_unless_late, sys.unraisablehook)
  for logger in (logging.get_absl_logger(), standard_logging.getLogger("asyncio")):
    logger.addFilter(_is_not_late)  # adding it again has no effect


def _unless_late(otherwise: Callable[[Any], None], unraisable: Any) -> None:
  if not _is_late(unraisable.exc_value):
    otherwise(unraisable)


def _is_not_late(record: standard_logging.LogRecord) -> bool:
  of_orbax = record.levelno >= standard_logging.ERROR and "orbax" in record.pathname
  return not of_orbax and not _is_late(record.exc_info and record.exc_info[1])


def _is_late(error: BaseException | None) -> bool:
  """Whether an error is from a read or save that nothing awaits, by its text: its type could be any."""
  return any(text in str(error) for text in _LATE)


class Checkpoints:
  """The checkpoints in one folder, each a tree of arrays with a JSON record that describes them.

  Args:
    folder: folder of the checkpoints.
    read_only: for a trained network that is only used: nothing in the folder is changed, and only the newest checkpoint
      is accepted. Otherwise a corrupt checkpoint is renamed, and the one before it is used.
  """

  def __init__(self, folder: str | pathlib.Path, *, read_only: bool = False):
    self.folder = pathlib.Path(folder).absolute()
    self._read_only = read_only
    self._manager: ocp.CheckpointManager | None = None

  def _open(self) -> ocp.CheckpointManager:
    """The manager for saving; reading does not need one."""
    if self._manager is None:
      options = ocp.CheckpointManagerOptions(max_to_keep=_KEEP, enable_async_checkpointing=False)
      make = functools.partial(ocp.CheckpointManager, self.folder, options=options, item_handlers=_handlers())
      with _quiet():
        try:
          self._manager = make()
        except ValueError:  # Orbax's own metadata is damaged, which we do not read
          for path in self.folder.glob(f"*/{_NOTES}"):
            path.unlink(missing_ok=True)
          self._manager = make()
    return self._manager

  @property
  def _steps(self) -> list[int]:
    return [int(path.name) for path in self.folder.iterdir() if path.name.isdigit()] if self.folder.is_dir() else []

  @property
  def exist(self) -> bool:
    """Whether there is any checkpoint, by folder names alone."""
    return bool(self._steps)

  def save(self, step: int, tree: PyTree, record: dict[str, Any]) -> None:
    """Writes one checkpoint atomically, and deletes all but the last two. An existing checkpoint is not overwritten.

    Raises:
      UserError: the disk is full, not writable or faulty, or the folder was removed since it was opened.
    """
    _silence_what_ends_late()
    manager, opened = self._manager or self._open(), self._manager is not None
    if opened and not self.folder.is_dir():
      raise UserError(
        f"{self.folder} was removed while a run worked in it: start the run again, in a folder that stays"
      )
    if step in manager.all_steps():
      return
    # Every device holds all of it. Of device arrays Orbax would save a slice from each, which takes three times as long.
    tree = jax.tree.map(np.asarray, tree)
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
      like: a tree of arrays, or of abstract shapes and shardings, with the structure of the saved one, or a function that
        makes it, which is called only where there is a checkpoint; None reads only the record; `AS_SAVED` restores any
        tree as nested dictionaries of NumPy arrays.
      step: accept only the checkpoint of this step.

    Raises:
      UserError: a file cannot be read, in which case nothing is renamed; the checkpoint is corrupt and no other is
        accepted; or there are checkpoints, but none is intact.
    """
    steps = sorted(self._steps, reverse=True) if step is None else [step]
    if steps and callable(like):  # here, so that its errors are not taken for damage
      like = like()
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
        shutil.rmtree(renamed, ignore_errors=True)  # an earlier corrupt checkpoint of this step
        path.rename(renamed)
      hosts.gather(None)  # the other hosts wait for the renaming
      if self._manager is not None:
        self._manager.reload()
    if list(self.folder.glob(f"*{_CORRUPT}")):
      raise UserError(
        f"no checkpoint in {self.folder} can be read: put one back from a copy, or remove the run's folder to start over"
      )
    return None

  def _try(self, step: int, like: PyTree) -> tuple[tuple[PyTree, dict[str, Any]] | None, str | None]:
    """The restored checkpoint, or how it is damaged on any host; it is damaged only if all its files can be read."""
    restored, problem, damage = None, None, None
    for _ in range(2):  # a network file system may fail once
      try:
        with _quiet():
          restored, problem, damage = self._read(step, like), None, None
        break
      except (MemoryError, jax.errors.JaxRuntimeError, UserError):  # a fault of the machine, or a newer format
        raise
      except Exception as error:  # Orbax raises many types for a broken checkpoint
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
    # Before the arrays, which another format may store differently.
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
    """Closes the manager, if there is one."""
    if self._manager is not None:
      self._manager.close()


def _system_error(error: BaseException | None) -> str | None:
  """The operating system's message behind an error and its causes; None if no system error is among them."""
  while error is not None:
    of_tensorstore = re.search(r"os_error_code='(\d+)'", str(error))
    number = error.errno if isinstance(error, OSError) else int(of_tensorstore[1]) if of_tensorstore else None
    if number is not None and number not in _NO_FILE:
      return os.strerror(number)
    error = error.__cause__ or error.__context__
  return None


def _unreadable(folder: pathlib.Path) -> str | None:
  """Why some file in this folder cannot be read to its end; None if all can."""

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
  """The error for a run without a best checkpoint: that it was lost, if the run was trained; else `otherwise`."""
  folder = workdir / "checkpoints"
  if not Checkpoints(folder / "latest").exist:
    return otherwise
  return UserError(
    f"{folder / 'best'} holds no checkpoint, although {workdir} was trained: put it back from a copy, or remove {folder} "
    "and train again from the start",
    "mode=train",
  )
