"""Listens for the viewer's page until Ctrl-C."""

import contextlib
import pathlib
import socket
from typing import Any

from bt_jax.errors import UserError
from bt_jax.scans.scan import NOTICE


def serve(
  predictor: Any,
  *,
  host: str = "127.0.0.1",
  port: int = 8000,
  limit_mb: int = 512,
  keep: pathlib.Path | None = None,
) -> None:
  """Prints the page's address and answers until Ctrl-C.

  Args:
    predictor: an `app.Predictor`.
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
  application = app.make_app(predictor, host=host, limit_mb=limit_mb, keep=keep)
  listener = _listen(host, port)
  with listener, contextlib.suppress(KeyboardInterrupt):
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"viewer at {address} (Ctrl-C ends it)\n{NOTICE}", flush=True)
    if not guard.is_local(host):
      print(f"warning: anybody who reaches {host} over the network can send files", flush=True)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", access_log=False, server_header=False))
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
  try:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
  except (OSError, OverflowError) as error:
    raise UserError(f"cannot listen on {host}, port {port} ({error}): choose another --port or --bind") from error
