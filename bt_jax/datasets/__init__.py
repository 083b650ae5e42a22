"""Data on disk; importing this package registers the TFDS builder `lgg_mri`."""

import os
from collections.abc import Sequence
from typing import Any

from bt_jax.datasets.lgg_mri import lgg_mri_dataset_builder as lgg_mri_dataset_builder


def own(
  root: str | os.PathLike, *, data_dir: str | os.PathLike | None = None, window: str = ""
) -> Sequence[dict[str, Any]]:
  """The slices of a user's own images and masks, to be read by index and without TensorFlow; built first where that is missing.

  Args:
    root: the folder, in any layout that `a check` understands.
    data_dir: where built data sets live; None is TFDS's own folder.
    window: the intensities that become black and white, e.g. `-160,240`; empty where each volume has its own.

  Returns:
    By index, in the order of cases and slices, `image` uint16 [size, size, channels], `mask` uint8 [size, size, classes],
    `label`, `patient`, `case`, `slice`, and `volume_mean` and `volume_std` in 0..255.

  Raises:
    UserError: something is wrong with the folder.
  """
  from bt_jax.datasets.own_data.source import OwnSource  # needs this package

  folder = None if data_dir is None else os.fspath(data_dir)
  return OwnSource(os.fspath(root), folder, window=window).open_or_build().as_data_source("cases")
