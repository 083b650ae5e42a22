"""Claims on the studies of an output folder, so that only one process works on each."""

import contextlib
import hashlib
import os
import pathlib
import random
import time
from collections.abc import Callable

import filelock

_FOLDER = ".claims"  # in the output; gone when nothing is claimed
_ATTEMPTS = 100  # at making it before others remove it


def claim(output: pathlib.Path, name: str) -> Callable[[], None] | None:
  """Claims a study, so that no other process works on it.

  The operating system releases a claim when its process ends, however it ends.

  Args:
    output: the folder of all studies; a file system that several machines share must support `flock`.
    name: name of the study in it.

  Returns:
    A function that releases the claim, from any thread; None where another process has claimed the study.

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
    except (filelock.Timeout, FileExistsError, FileNotFoundError) as error:
      if isinstance(error, filelock.Timeout) and path.exists():
        return None
      # Otherwise the process that released the last claim has just removed the folder; filelock may call that a timeout.
      if attempt + 1 == _ATTEMPTS:
        raise
      time.sleep(random.uniform(0, 0.005))  # two processes in step would go on removing each other's

  def release() -> None:
    path.unlink(missing_ok=True)  # before the release: a process that has opened it meanwhile notices, see filelock
    lock.release()
    with contextlib.suppress(OSError):  # another claim is in it
      path.parent.rmdir()

  return release
