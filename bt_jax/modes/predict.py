"""Predicts external scans with trained networks."""

import functools
import os
import pathlib
from collections.abc import Sequence
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
  uncertainty: bool = False,
  also: Sequence[str] = (),
  shard: str | None,
  layout: str | None = None,
  checkpoint: list[str],
  **options: Any,
) -> None:
  """Writes masks, images and statistics of all studies in a file or folder.

  Args:
    input: file or folder of one study, or of many.
    pre: file of this sequence where `input` is None; else its SeriesInstanceUID.
    flair: likewise.
    post: likewise.
    output: see `batch_prediction.predict`.
    probabilities: see there.
    uncertainty: see there.
    also: see there.
    shard: see there.
    layout: see there.
    checkpoint: the networks, see `loading.load`.
    options: see `loading.load`.

  Raises:
    UserError: as in `batch_prediction.predict` and `loading.load`.
  """
  setup.prepare()
  given = {
    role: os.path.expanduser(value) for role, value in {"pre": pre, "flair": flair, "post": post}.items() if value
  }
  load = functools.partial(loading.load, checkpoint, **options)
  batch_prediction.predict(
    input,
    output,
    given=given,
    probabilities=probabilities,
    uncertainty=uncertainty,
    also=also,
    shard=shard,
    layout=layout,
    load=load,
  )
