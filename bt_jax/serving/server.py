"""Serves the viewer's page until Ctrl-C or SIGTERM."""

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

_PATIENCE = 2  # seconds for a browser to receive the rest of an answer, and for a thread to end


def serve(
  load: Callable[[], Any],
  *,
  host: str = "127.0.0.1",
  port: int = 8000,
  limit_mb: int = 512,
  keep: pathlib.Path | None = None,
  fine_tuning: Callable[..., str | None] | None = None,
) -> None:
  """Prints the page's address and answers until Ctrl-C or SIGTERM, then ends within seconds.

  Uploads and predictions in progress are dropped, and no temporary files remain.

  Args:
    load: loads an `app.Predictor`; called once the server listens.
    host: the address to listen on; one that is not local lets everybody on the network send files.
    port: the port to listen on; 0 picks a free one.
    limit_mb: largest total size of the files of one upload, in MB of 2**20 bytes.
    keep: folder in which each prediction gets a numbered folder; None to keep nothing.
    fine_tuning: makes the command that trains from kept corrections, see `corrections.summary`.

  Raises:
    UserError: the extra `serve` is not installed, or the server cannot listen on the address.
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
    application = stopping.Stopping(
      app.make_app(load(), host=host, limit_mb=limit_mb, keep=keep, fine_tuning=fine_tuning)
    )
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
  """Puts all temporary files into one folder, which is removed even if a thread still writes to it."""
  before = tempfile.tempdir
  with tempfile.TemporaryDirectory(prefix="bt_jax_", ignore_cleanup_errors=True) as folder:
    tempfile.tempdir = folder
    try:
      yield
    finally:
      tempfile.tempdir = before


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
  """Makes SIGTERM end the server like Ctrl-C, instead of at once with files left behind."""
  if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
    yield
    return
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


def _wait_for_threads(before: set[threading.Thread]) -> None:
  """Waits for the threads that were started since; exits the process if one does not end, e.g. in a long prediction.

  Python would wait for the thread without limit, though its request is gone.
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
