"""One line instead of JAX's abort and stack trace when the coordinator host is lost.

JAX's client then ends the process from a thread of its own: it logs a fatal message with a stack trace and calls
`abort`. It cannot be given a Python callback (the argument of `missed_heartbeat_callback` has no Python type). So this
module filters the message from what native code writes to standard error, and catches the signal of `abort`.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# Messages of JAX's client about a lost host; everything after the fatal one is its stack trace.
_FATAL = re.compile(r"^F\d{4} .*(JAX distributed service|coordination)", re.IGNORECASE)
_ABOUT = re.compile(r"^[EW]\d{4} .*(coordination|preemption|heartbeat)|GRPC error|grpc_status", re.IGNORECASE)
_PATIENCE = 2  # seconds to wait until the log has been read
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


@contextlib.contextmanager
def instead_of_abort(leave: Callable[[], None]) -> Iterator[None]:
  """Calls `leave`, which must end the process, when JAX would abort over a lost host; other aborts are unchanged."""
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
    os.dup2(own, 2)  # now only processes started in the meantime can still write to the pipe
    os.close(own)
    thread.join(_PATIENCE)
    sys.stderr.flush()
    sys.stderr = before
