"""Listens for the viewer's page until Ctrl-C."""

import contextlib
import os
import pathlib
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from bt_jax.errors import UserError
from bt_jax.scans.scan import NOTICE


def serve(
  load: Callable[[], Any],
  *,
  host: str = "127.0.0.1",
  port: int = 8000,
  limit_mb: int = 512,
  keep: pathlib.Path | None = None,
) -> None:
  """Prints the page's address and answers until Ctrl-C.

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

    from bt_jax.serving import app, guard
  except ImportError as error:
    raise UserError(
      f'the viewer needs {error.name or error}, which is not installed: pip install ".[serve]"'
    ) from error
  if keep is not None:
    _check_writable(keep)
  with _listen(host, port) as listener, contextlib.suppress(KeyboardInterrupt):
    application = app.make_app(load(), host=host, limit_mb=limit_mb, keep=keep)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"viewer at {address} (Ctrl-C ends it)\n{NOTICE}", flush=True)
    if not guard.is_local(host):
      print(f"warning: anybody who reaches {host} over the network can send files", flush=True)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", access_log=False, server_header=False))
    server.run(sockets=[listener])


def _check_writable(folder: pathlib.Path) -> None:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
  except OSError as error:
    raise UserError(f"cannot write to {folder} ({error.strerror}): choose another --keep") from error


def _listen(host: str, port: int) -> socket.socket:
  try:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
  except (OSError, OverflowError) as error:
    number = getattr(error, "errno", None) or 0
    reason = os.strerror(number) if number > 0 else error  # the error's own words tell the address again
    raise UserError(f"cannot listen on {host}, port {port} ({reason}): choose another --port or --bind") from error
