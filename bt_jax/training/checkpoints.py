"""Checkpoints that explain themselves, in two Orbax managers: `latest` to resume from, `best` by score.

Two managers, as one that keeps the best steps would delete the newest.
"""

import contextlib
import hashlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from bt_jax.errors import UserError
from bt_jax.training import hosts

PyTree = Any
_KEEP = 2  # the one before stays, to fall back to
_CORRUPT = ".corrupt"
AS_SAVED = object()


def tree_hash(tree: PyTree) -> str:
  """SHA-256 over the bytes of every array and its place: equal only where two trees are equal bit for bit."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Orbax warns that what is opened to be read is not written."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


class Checkpoints:
  """The checkpoints in one folder, each of a tree of arrays and a JSON record of what they are."""

  def __init__(self, folder: str | pathlib.Path, *, read_only: bool = False):
    self.folder = pathlib.Path(folder).absolute()
    self._read_only = read_only  # of a run that is another's: nothing there is touched
    self._manager: ocp.CheckpointManager | None = None

  def _open(self) -> ocp.CheckpointManager:
    if self._manager is None:
      with _quiet():
        options = ocp.CheckpointManagerOptions(
          max_to_keep=None if self._read_only else _KEEP, enable_async_checkpointing=False, read_only=self._read_only
        )
        self._manager = ocp.CheckpointManager(
          self.folder,
          options=options,
          item_handlers={"arrays": ocp.StandardCheckpointHandler(), "record": ocp.JsonCheckpointHandler()},
        )
    return self._manager

  @property
  def exist(self) -> bool:
    """Whether there is any; looks at names alone."""
    return self.folder.is_dir() and any(path.name.isdigit() for path in self.folder.iterdir())

  def save(self, step: int, tree: PyTree, record: dict[str, Any]) -> None:
    """Writes one checkpoint, whole or not at all, and drops those before the last two. One that exists is kept."""
    manager = self._open()
    if step in manager.all_steps():
      return
    record = {**record, "step": step, "arrays_sha256": tree_hash(tree)}
    items = ocp.args.Composite(arrays=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(record))
    if not manager.save(step, args=items, force=True):
      raise RuntimeError(f"checkpoint {step} was not saved in {self.folder}")

  def restore(self, like: PyTree = None, *, step: int | None = None) -> tuple[PyTree, dict[str, Any]] | None:
    """The newest checkpoint that is whole, as (arrays, record); None if there is none.

    A corrupt one is set aside under another name (not if read-only), with a word, for the one before it.

    Args:
      like: arrays, or their abstract shapes and shardings, of the same tree; None reads the record alone; `AS_SAVED`
        is for who does not know the tree and gives nested dictionaries of NumPy arrays.
      step: only this one will do.

    Raises:
      UserError: there are checkpoints, and none can be read.
    """
    if not self.folder.is_dir():
      return None
    corrupt = False
    steps = self._open().all_steps() if step is None else [step]
    for step in sorted(steps, reverse=True):
      found, trouble = None, None
      try:
        found = self._read(step, like)
      except (MemoryError, jax.errors.JaxRuntimeError):  # the machine's trouble, not the checkpoint's
        raise
      except Exception as error:  # Orbax raises many kinds for a broken checkpoint
        trouble = _first_line(error)
      troubles = list(filter(None, hosts.gather(trouble)))
      if not troubles:
        return found
      fate = "left alone" if self._read_only else "set aside"
      print(f"checkpoint {self.folder / str(step)} is corrupt ({troubles[0]}): {fate}, trying the one before")
      corrupt = True
      if not self._read_only:
        if hosts.is_first():
          aside = self.folder / f"{step}{_CORRUPT}"
          shutil.rmtree(aside, ignore_errors=True)  # of the same step, corrupt before
          (self.folder / str(step)).rename(aside)
        hosts.gather(None)  # only then
        self._open().reload()
    if corrupt or list(self.folder.glob(f"*{_CORRUPT}")):
      raise UserError(f"no checkpoint in {self.folder} can be read: remove the run's folder to start over")
    return None

  def _read(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    items = {"record": ocp.args.JsonRestore()}
    if like is AS_SAVED:
      metadata = self._open().item_metadata(step)["arrays"].tree
      like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata)
    if like is not None:
      items["arrays"] = ocp.args.StandardRestore(like)
    restored = self._open().restore(step, args=ocp.args.Composite(**items))
    if like is not None and tree_hash(restored.arrays) != restored.record["arrays_sha256"]:
      raise ValueError("its arrays are not those that were saved")
    return restored.get("arrays"), restored.record

  def close(self) -> None:
    """Lets go of the folder."""
    if self._manager is not None:
      self._manager.close()


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:120]
