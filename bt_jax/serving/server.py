"""Listens for the viewer's page until Ctrl-C or SIGTERM."""

import contextlib
import logging
import os
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from bt_jax.errors import UserError
from bt_jax.scans.scan import NOTICE

_PATIENCE = 2  # seconds that a browser has to take the last of an answer, and a thread to end


def serve(
  load: Callable[[], Any],
  *,
  host: str = "127.0.0.1",
  port: int = 8000,
  limit_mb: int = 512,
  keep: pathlib.Path | None = None,
) -> None:
  """Prints the page's address and answers until Ctrl-C or SIGTERM, after which it is gone within seconds.

  What is being sent or predicted then is dropped, and no temporary file stays.

  Args:
    load: an `app.Predictor`; called once the address is had.
    host: the address to listen on; another than this machine's own lets everybody on the network send files.
    port: 0 picks a free one.
    limit_mb: of one scan's files together, in MB of 2**20 bytes.
    keep: folder where each prediction gets a numbered one; None: nothing is kept.

  Raises:
    UserError: the extra `serve` is not installed, or the address cannot be had.
  """
  try:
    import uvicorn

    from bt_jax.serving import app, guard, stopping
  except ImportError as error:
    raise UserError(
      f'the viewer needs {error.name or error}, which is not installed: pip install ".[serve]"'
    ) from error
  if keep is not None:
    _check_writable(keep)
  before = set(threading.enumerate())

  class Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
      logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut off now is not an error
      application.stop()
      await super().shutdown(sockets)

  with (
    _listen(host, port) as listener,
    _temporary_files(),
    _terminated_as_interrupted(),
    contextlib.suppress(KeyboardInterrupt),
  ):
    application = stopping.Stopping(app.make_app(load(), host=host, limit_mb=limit_mb, keep=keep))
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"viewer at {address} (Ctrl-C ends it)\n{NOTICE}", flush=True)
    if not guard.is_local(host):
      print(f"warning: anybody who reaches {host} over the network can send files", flush=True)
    config = uvicorn.Config(
      application, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=_PATIENCE
    )
    Server(config).run(sockets=[listener])
  _wait_for_threads(before)


@contextlib.contextmanager
def _temporary_files() -> Iterator[None]:
  """All temporary files go to one folder, which is removed whatever a thread that still runs may put in it."""
  before = tempfile.tempdir
  with tempfile.TemporaryDirectory(prefix="bt_jax_", ignore_cleanup_errors=True) as folder:
    tempfile.tempdir = folder
    try:
      yield
    finally:
      tempfile.tempdir = before


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
  """SIGTERM ends the server as Ctrl-C does, instead of at once, with all that it leaves."""
  if threading.current_thread() is not threading.main_thread():  # which alone hears of signals
    yield
    return
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


def _wait_for_threads(before: set[threading.Thread]) -> None:
  """Lets the threads end that were started since; leaves at once where one does not, as by a long prediction.

  Python would wait for it without end, though its request is gone.
  """
  deadline = time.monotonic() + _PATIENCE
  started = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
  for thread in started:
    thread.join(max(deadline - time.monotonic(), 0))
  if any(thread.is_alive() for thread in started):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _check_writable(folder: pathlib.Path) -> None:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
  except OSError as error:
    raise UserError(
      f"cannot write to {folder} ({error.strerror}): choose another folder to keep them in", "keep"
    ) from error


def _listen(host: str, port: int) -> socket.socket:
  try:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
  except (OSError, OverflowError) as error:
    number = getattr(error, "errno", None) or 0
    reason = os.strerror(number) if number > 0 else error  # the error's own words repeat the address
    raise UserError(f"cannot listen on {host}, port {port} ({reason}): choose others", "port", "bind") from error
