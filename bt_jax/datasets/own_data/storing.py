"""Converts a case to the form that the data set stores: 16 bits, on a square grid that the longer side of a slice fills."""

import math

import numpy as np
from jaxtyping import Float, Integer, UInt8, UInt16

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data.case_volumes import Volume
from bt_jax.scans import resampling

_SQUARE = 1e-3  # by how much the sides of pixels may differ before they are resampled


def to_stored(
  volume: Volume, masks: Integer[np.ndarray, "slices height width classes"], info: DatasetInfo
) -> tuple[UInt16[np.ndarray, "slices size size channels"], UInt8[np.ndarray, "slices size size classes"]]:
  """Converts a case to the stored form: 16 bits, on a square grid; the longer side fills it, and the rest is black.

  Intensities become black and white as in prediction, see `resampling.window`; resampling is linear, and a pixel belongs
  to a class if at least half of it does. A case that has the stored size and square pixels is not resampled.
  """
  low, high = resampling.window(volume.values, fixed=info.window)
  _, rows, columns = volume.spacing_mm or (1.0, 1.0, 1.0)
  image = volume.values - low.astype(np.float32)
  image *= 255 / np.maximum(high - low, 1e-12).astype(np.float32)
  np.clip(image, 0, 255, out=image)  # as `resampling.scale`, exact for 8-bit images
  if volume.values.shape[1:3] != (info.size, info.size) or abs(rows / columns - 1) > _SQUARE:
    image = to_square(image, info.size, rows / columns)
    masks = to_square(masks.astype(np.float32), info.size, rows / columns) >= 0.5
    if not info.overlapping:  # of two classes with a half each, the first
      masks &= np.cumsum(masks, axis=-1) == 1
  image *= 65535 / 255
  return np.rint(image, out=image).astype(np.uint16), masks.astype(np.uint8)


def to_square(
  image: Float[np.ndarray, "slices height width channels"], size: int, aspect: float
) -> Float[np.ndarray, "slices {size} {size} channels"]:
  """`resampling.to_network` in NumPy, as JAX would compile a program for each size of image, of which there may be many."""
  _, height, width, _ = image.shape
  factor = size / max(height * aspect, width)
  rows = _weights(height, size, factor * aspect, round((size - height * aspect * factor) / 2))
  columns = _weights(width, size, factor, round((size - width * factor) / 2))
  by_channel = np.moveaxis(image, -1, 1)
  return np.ascontiguousarray(np.moveaxis(rows @ by_channel @ columns.T, 1, -1))


def _weights(size: int, out: int, factor: float, offset: int) -> Float[np.ndarray, "{out} {size}"]:
  """The weight of each pixel in each stored pixel along one axis: linear, and antialiased when shrinking; see `jax.image`."""
  centres = (np.arange(out) + 0.5 - offset) / factor - 0.5
  weights = np.maximum(0, 1 - abs(centres[:, None] - np.arange(size)) * min(factor, 1.0))
  weights /= np.maximum(weights.sum(1, keepdims=True), 1e-6)
  inside = (centres >= -0.5) & (centres <= size - 0.5)
  return (weights * inside[:, None]).astype(np.float32)


def statistics(
  image: UInt16[np.ndarray, "slices height width channels"],
) -> tuple[Float[np.ndarray, " channels"], Float[np.ndarray, " channels"]]:
  """Mean and standard deviation of each channel of a stored case, in 0..255; from counts, as there are few intensities."""
  intensities = np.arange(2**16) * (255 / 65535)
  counts = np.stack([np.bincount(channel.ravel(), minlength=2**16) for channel in np.moveaxis(image, -1, 0)])
  total = math.prod(image.shape[:-1])
  mean = counts @ intensities / total
  variance = np.array([of @ (intensities - centre) ** 2 for of, centre in zip(counts, mean, strict=True)]) / total
  return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def stored_spacing(volume: Volume, size: int) -> list[float] | None:
  """Distances in mm between slices, rows and columns of a case once it is stored; None where its files do not say."""
  if volume.spacing_mm is None:
    return None
  between, rows, columns = volume.spacing_mm
  _, height, width, _ = volume.values.shape
  side = max(height * rows, width * columns) / size
  return [between, side, side]
