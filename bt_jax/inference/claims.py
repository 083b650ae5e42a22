"""Which process works on which study of an output folder, whatever share of the studies each was given."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable

import filelock

_FOLDER = ".claims"  # in the output; gone when nothing is claimed
_ATTEMPTS = 100  # to make it before others remove it


def claim(output: pathlib.Path, name: str) -> Callable[[], None] | None:
  """Claims a study, so that no other process works on it.

  The operating system lets go of it when the process ends, however it does, so that no claim outlives its process.

  Args:
    output: the folder of all studies; on a disk that several machines share it must know `flock`.
    name: of the study in it.

  Returns:
    What lets go of it, from any thread; None where another process has it.

  Raises:
    OSError: the folder of claims cannot be made.
  """
  path = output / _FOLDER / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:20]}.lock"
  lock = filelock.FileLock(path, timeout=0, thread_local=False)
  for attempt in range(_ATTEMPTS):
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      lock.acquire()
      break
    except filelock.Timeout:
      return None
    except (FileExistsError, FileNotFoundError):  # who let go of the last claim removed the folder just now
      if attempt + 1 == _ATTEMPTS:
        raise

  def release() -> None:
    path.unlink(missing_ok=True)  # before it is let go of: who opened it meanwhile notices, see filelock
    lock.release()
    with contextlib.suppress(OSError):  # another claim is in it
      path.parent.rmdir()

  return release
