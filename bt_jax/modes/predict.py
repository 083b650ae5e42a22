"""Trained networks at work on scans of strangers: from the command line, in one file, or behind a page."""

import functools
import os
import pathlib
from typing import Any

from bt_jax.distributed import setup
from bt_jax.inference import batch_prediction, loading


def predict(
  *,
  input: pathlib.Path | None,
  pre: str | None,
  flair: str | None,
  post: str | None,
  output: pathlib.Path,
  probabilities: bool,
  shard: str | None,
  checkpoint: list[str],
  **options: Any,
) -> None:
  """Writes masks, pictures and numbers of all studies in a file or folder.

  Args:
    input: of a study, or of many.
    pre: file of a sequence, without `input`; or with it, its SeriesInstanceUID.
    flair: the same.
    post: the same.
    output: see `stream.predict`.
    probabilities: see there.
    shard: see there.
    checkpoint: of the networks.
    options: see `loading.load`.

  Raises:
    UserError: see both.
  """
  setup.prepare()
  given = {role: os.path.expanduser(told) for role, told in {"pre": pre, "flair": flair, "post": post}.items() if told}
  load = functools.partial(loading.load, checkpoint, **options)
  batch_prediction.predict(input, output, given=given, probabilities=probabilities, shard=shard, load=load)


def export(*, output: pathlib.Path, checkpoint: list[str], **options: Any) -> None:
  """Writes networks as one file, ONNX where its name ends so; see `loading.load` for the options."""
  if output.suffix.lower() == ".onnx":
    from bt_jax.inference import onnx as form

    dtype = "float32"  # few of its runtimes know bfloat16
  else:
    from bt_jax.inference import jax_export as form

    dtype = None
  setup.prepare()
  form.write(output, *loading.open_networks(checkpoint, options.pop("classifier"), dtype), **options)


def serve(
  *, bind: str, port: int, limit_mb: int, keep: pathlib.Path | None, checkpoint: list[str], **options: Any
) -> None:
  """Opens the viewer's page; see `server.serve`, and `loading.load` for the options."""
  from bt_jax.serving import server

  setup.prepare()
  server.serve(
    functools.partial(loading.load, checkpoint, **options), host=bind, port=port, limit_mb=limit_mb, keep=keep
  )
