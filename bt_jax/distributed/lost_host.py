"""One line instead of JAX's abort and its stack, where the host that all others meet at is gone.

JAX's client then ends the process from a thread of its own: it logs a fatal message with a stack and calls `abort`. A
function in Python cannot be given to it (of `missed_heartbeat_callback` the argument has no type in Python), so the
message is taken out of what native code writes to the standard error, and the signal of `abort` is caught.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# What JAX's client logs of a lost host; all that comes after the fatal one is its stack.
_FATAL = re.compile(r"^F\d{4} .*(JAX distributed service|coordination)", re.IGNORECASE)
_ABOUT = re.compile(r"^[EW]\d{4} .*(coordination|preemption|heartbeat)|GRPC error|grpc_status", re.IGNORECASE)
_PATIENCE = 2  # seconds for what was logged to be read
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


@contextlib.contextmanager
def instead_of_abort(leave: Callable[[], None]) -> Iterator[None]:
  """Calls `leave`, which must end the process, where JAX would abort it over a lost host; any other abort stays one."""
  if not hasattr(signal, "SIGABRT") or os.name != "posix":
    yield
    return
  fatal = threading.Event()
  own = os.dup(2)
  before, sys.stderr = sys.stderr, os.fdopen(os.dup(own), "w", buffering=1, errors="backslashreplace")
  reading, writing = os.pipe()
  os.dup2(writing, 2)
  os.close(writing)

  def relay() -> None:
    with os.fdopen(reading, errors="replace") as lines:
      for line in lines:
        if _FATAL.search(line):
          fatal.set()
        if not fatal.is_set() and not _ABOUT.search(line):
          sys.stderr.write(line)

  def aborted(number: int) -> None:
    if fatal.wait(_PATIENCE):
      leave()
    libc.signal(number, int(signal.SIG_DFL))

  thread = threading.Thread(target=relay, daemon=True)
  thread.start()
  libc, handler = ctypes.CDLL(None), _HANDLER(aborted)
  libc.signal(int(signal.SIGABRT), handler)
  try:
    yield
  finally:
    libc.signal(int(signal.SIGABRT), int(signal.SIG_DFL))
    os.dup2(own, 2)  # with which the pipe has no writer left but processes that were started meanwhile
    os.close(own)
    thread.join(_PATIENCE)
    sys.stderr.flush()
    sys.stderr = before
