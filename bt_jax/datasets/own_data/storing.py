"""A case as the data set stores it: 16 bits, square, the longer side of its slices filling it."""

import numpy as np
from jaxtyping import Integer, UInt8, UInt16

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data.case_volumes import Volume
from bt_jax.scans import resampling

_SQUARE = 1e-3  # by how much pixels may be higher than wide and stay as they are


def to_stored(
  volume: Volume, masks: Integer[np.ndarray, "slices height width classes"], info: DatasetInfo
) -> tuple[UInt16[np.ndarray, "slices size size channels"], UInt8[np.ndarray, "slices size size classes"]]:
  """A case as the data set stores it: 16 bits, square, the longer side filling it, what is left over black.

  Intensities become black and white as those of a scan do that is predicted, see `resampling.window`; resampling is
  linear, and a pixel is of a class where more than half of it is. A case that has the stored size stays as it is.
  """
  low, high = resampling.window(volume.values, fixed=info.window)
  _, rows, columns = volume.spacing_mm or (1.0, 1.0, 1.0)
  image = np.asarray(resampling.scale(volume.values, low, high))
  if volume.values.shape[1:3] != (info.size, info.size) or abs(rows / columns - 1) > _SQUARE:
    image = np.asarray(resampling.to_training(image, info.size, rows / columns))
    masks = np.asarray(resampling.to_training(masks.astype(np.float32), info.size, rows / columns)) >= 0.5
  return np.rint(image * (65535 / 255)).astype(np.uint16), masks.astype(np.uint8)


def stored_spacing(volume: Volume, size: int) -> list[float] | None:
  """Mm between slices, rows and columns of a case once it is stored; None where its files do not say."""
  if volume.spacing_mm is None:
    return None
  between, rows, columns = volume.spacing_mm
  _, height, width, _ = volume.values.shape
  side = max(height * rows, width * columns) / size
  return [between, side, side]
