"""Data on disk; importing this package registers the TFDS builder `lgg_mri`."""

import os
from collections.abc import Sequence
from typing import Any

from bt_jax.datasets.lgg_mri import lgg_mri_dataset_builder as lgg_mri_dataset_builder
from bt_jax.errors import needs

__all__ = ["own"]


def __dir__() -> list[str]:
  return __all__


@needs("predict", "a folder of your own data")
def own(
  root: str | os.PathLike, *, data_dir: str | os.PathLike | None = None, window: str = ""
) -> Sequence[dict[str, Any]]:
  """The axial slices of a folder of your own images and masks, for any framework; builds the data set first if needed.

      source = bt_jax.datasets.own("my_data")
      source[0]["image"].shape, source[0]["mask"].shape, source[0]["case"]

  Args:
    root: the folder, in one of the layouts of docs/own-data.md.
    data_dir: where built data sets live; None is TFDS's own folder.
    window: intensities that become black and white, e.g. `-160,240` for CT; empty for each volume's own.

  Returns:
    A data source of TFDS, without TensorFlow: for each slice `image` uint16 [size, size, channels], `mask` uint8 [size,
    size, classes] in {0, 1}, `case`, `patient`, `slice` from 1, `label`, and `volume_mean` and `volume_std` in 0..255.

  Raises:
    UserError: the folder has no layout that is known, or something is wrong with it.
  """
  from bt_jax.datasets.own_data.own_data_dataset_builder import SPLIT
  from bt_jax.datasets.own_data.source import OwnSource

  source = OwnSource(os.fspath(root), None if data_dir is None else os.fspath(data_dir), window=window)
  return source.open_or_build().as_data_source(SPLIT)
