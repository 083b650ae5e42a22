"""Trained networks on external scans."""

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
  layout: str | None = None,
  checkpoint: list[str],
  **options: Any,
) -> None:
  """Writes masks, pictures and numbers of all studies in a file or folder.

  Args:
    input: of a study, or of many.
    pre: file of a sequence, without `input`; or with it, its SeriesInstanceUID.
    flair: the same.
    post: the same.
    output: see `batch_prediction.predict`.
    probabilities: see there.
    shard: see there.
    layout: see there.
    checkpoint: of the networks.
    options: see `loading.load`.

  Raises:
    UserError: see both.
  """
  setup.prepare()
  given = {
    role: os.path.expanduser(value) for role, value in {"pre": pre, "flair": flair, "post": post}.items() if value
  }
  load = functools.partial(loading.load, checkpoint, **options)
  batch_prediction.predict(
    input, output, given=given, probabilities=probabilities, shard=shard, layout=layout, load=load
  )
