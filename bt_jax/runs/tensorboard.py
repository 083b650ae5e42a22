"""What TensorBoard shows of a run, written as it comes: tensorboardX's own writer does so in a thread, which a full disk ends."""

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
    folder: of the run's events, made if need be.
    step: that the run is at; what an earlier start wrote of later ones is no longer shown.

  Raises:
    OSError: here and in all methods but `close`, the disk is full or may not be written.
  """

  def __init__(self, folder: pathlib.Path, step: int):
    with needs("report", "the curves of a training"):
      from tensorboardX.proto.event_pb2 import SessionLog  # imports torch where that is installed, which takes seconds
      from tensorboardX.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"))
    self._write(step=0, file_version="brain.Event:2")
    self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

  def add(self, values: Mapping[str, float | str], step: int) -> None:
    """Adds numbers and texts by name, of one step."""
    from tensorboardX import summary

    for name, value in values.items():
      shown = summary.text(name, value) if isinstance(value, str) else summary.scalar(name, value)
      self._write(step=step, summary=shown)
    self._file.flush()

  def close(self) -> None:
    """Lets go of the file; what does not fit on a full disk is lost, as `add` has said."""
    with contextlib.suppress(OSError):
      self._file.close()

  def _write(self, **fields: Any) -> None:
    from tensorboardX.proto.event_pb2 import Event

    self._file.write(Event(wall_time=time.time(), **fields).SerializeToString())
