"""Which process works on which study of an output folder, whatever share of the studies each was given."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable

import filelock

_FOLDER = ".claims"  # in the output; gone when nothing is claimed


def claim(output: pathlib.Path, name: str) -> Callable[[], None] | None:
  """Claims a study, so that no other process works on it.

  The operating system lets go of it when the process ends, however it does, so that no claim outlives its process.

  Args:
    output: the folder of all studies; on a disk that several machines share it must know `flock`.
    name: of the study in it.

  Returns:
    What lets go of it, from any thread; None where another process has it.
  """
  path = output / _FOLDER / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:20]}.lock"
  path.parent.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(path, timeout=0, thread_local=False)
  try:
    lock.acquire()
  except (filelock.Timeout, FileNotFoundError):  # the last to go removed the folder just now
    return None

  def release() -> None:
    path.unlink(missing_ok=True)  # before it is let go of: who opened it meanwhile notices, see filelock
    lock.release()
    with contextlib.suppress(OSError):  # another claim is in it
      path.parent.rmdir()

  return release
