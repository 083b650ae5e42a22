"""Serves a page that shows predictions."""

import functools
import pathlib
from typing import Any

from bt_jax.distributed import setup
from bt_jax.inference import loading


def serve(
  *, bind: str, port: int, limit_mb: int, keep: pathlib.Path | None, checkpoint: list[str], **options: Any
) -> None:
  """Opens the viewer's page; see `server.serve`, and `loading.load` for the options. Without a checkpoint, `lgg`."""
  from bt_jax.serving import server

  setup.prepare()
  server.serve(
    functools.partial(loading.load, checkpoint or ["lgg"], **options),
    host=bind,
    port=port,
    limit_mb=limit_mb,
    keep=keep,
  )
