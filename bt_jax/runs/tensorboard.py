"""Events for TensorBoard, written synchronously: tensorboardX's own writer uses a thread, which dies on a full disk."""

import contextlib
import pathlib
import socket
import time
from collections.abc import Mapping
from typing import Any

from bt_jax.errors import needs


class Board:
  """One file of events in a folder.

  Args:
    folder: folder of the run's events, created if necessary.
    step: the current step of the run; events of later steps, from an earlier start, are no longer shown.

  Raises:
    OSError: the disk is full or not writable; raised here and by all methods except `close`.
  """

  def __init__(self, folder: pathlib.Path, step: int):
    with needs("train", "the curves of a training"):
      from tensorboardX.proto.event_pb2 import SessionLog  # imports torch where that is installed, which takes seconds
      from tensorboardX.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"))
    self._write(step=0, file_version="brain.Event:2")
    self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

  def add(self, values: Mapping[str, float | str], step: int) -> None:
    """Adds the numbers and texts of one step, by name."""
    from tensorboardX import summary

    for name, value in values.items():
      shown = summary.text(name, value) if isinstance(value, str) else summary.scalar(name, value)
      self._write(step=step, summary=shown)
    self._file.flush()

  def close(self) -> None:
    """Closes the file; what does not fit on a full disk is lost, and `add` has raised already."""
    with contextlib.suppress(OSError):
      self._file.close()

  def _write(self, **fields: Any) -> None:
    from tensorboardX.proto.event_pb2 import Event

    self._file.write(Event(wall_time=time.time(), **fields).SerializeToString())
