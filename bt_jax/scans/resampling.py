"""Resamples scans from their own grid and scale to a network's, and outputs back, once in each direction.

Pure JAX, so that an export includes it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bt_jax.scans.intensities import extremes

_BRIGHTEST = 99.9  # percentile of a channel that becomes 255; a few hot pixels should not make the rest dark
Image = Float[Array | np.ndarray, "slices height width channels"]
_DIMMEST = 32  # an image in 0..255 reaches at least this value; one that does not is in another scale
Pixels = Any  # an int, or its symbol where an export is traced
Aspect = float | int | Float[Array, ""]
Channels = Float[Array | np.ndarray, "channels"]
Moments = Float[Array | np.ndarray, "slices channels"]


def window(
  volume: Image, fixed: Sequence[float] = (), percentile: Callable[..., Channels] | None = None
) -> tuple[Channels, Channels]:
  """The intensities of each channel that become 0 and 255, [channels] each.

  A volume whose values lie in 0..255, as those of 8-bit images do, is used as it is: the networks were trained on such
  images. In any other, and in one that is almost black on this scale, the lowest value becomes black and the 99.9th
  percentile white.

  Args:
    volume: the whole volume, as one scale serves all its slices.
    fixed: the two intensities, where they are the same for every volume of the data set, as in CT; see
      `DatasetInfo.window`.
    percentile: `percentile(volume, q, axis)`; None for that of the volume's own library, NumPy or JAX.
  """
  if fixed:
    low, high = fixed
    return np.full(volume.shape[-1], low, np.float32), np.full(volume.shape[-1], high, np.float32)
  low, highest = extremes(volume)
  library = volume.__array_namespace__()
  high = (percentile or library.percentile)(volume, _BRIGHTEST, axis=(0, 1, 2))
  high = library.where(high > low, high, highest)  # all but a few voxels have one value
  as_it_is = stays_as_it_is(low, highest)
  return library.where(as_it_is, 0.0, low), library.where(as_it_is, 255.0, high)


def stays_as_it_is(low: Channels, high: Channels) -> Any:  # a Boolean of NumPy or JAX
  """Whether a volume with these lowest and highest intensities of its channels is not scaled, see `window`."""
  return (low.min() >= 0) & (high.max() >= _DIMMEST) & (high.max() <= 255)


def scale(image: Image, low: Channels, high: Channels) -> Image:
  """Intensities in 0..255, where `low` is 0 and `high` 255."""
  return jnp.clip((image - low) * (255 / jnp.maximum(high - low, 1e-12)), 0, 255)  # exact for 8-bit images


def _placement(height: Pixels, width: Pixels, aspect: Aspect, size: int) -> tuple[Array, Array]:
  """(scale, translation) of rows and columns from a grid of this size to the middle of a network's grid.

  Args:
    height: height of the grid in pixels.
    width: width of the grid in pixels.
    aspect: height of a pixel in mm divided by its width; the image keeps its shape in mm.
    size: size of the network's grid in pixels.
  """
  shape = jnp.stack([jnp.asarray(height, jnp.float32) * aspect, jnp.asarray(width, jnp.float32)])
  factor = size / shape.max()
  # Whole pixels, so that an image which is only padded is not blurred.
  return factor * jnp.array([aspect, 1.0]), jnp.round((size - shape * factor) / 2)


def to_network(image: Image, size: int, aspect: Aspect = 1.0) -> Float[Array, "slices {size} {size} channels"]:
  """Resamples linearly to `size` x `size`; the longer side fills it, and the rest is black."""
  slices, height, width, channels = image.shape
  factor, offset = _placement(height, width, aspect, size)
  return jax.image.scale_and_translate(image, (slices, size, size, channels), (1, 2), factor, offset, "linear")


def to_own(
  image: Float[Array | np.ndarray, "slices size size classes"], height: Pixels, width: Pixels, aspect: Aspect = 1.0
) -> Float[Array, "slices height width classes"]:
  """The inverse of `to_network`, resampled linearly."""
  slices, size, _, classes = image.shape
  factor, offset = _placement(height, width, aspect, size)
  return jax.image.scale_and_translate(
    image, (slices, height, width, classes), (1, 2), 1 / factor, -offset / factor, "linear"
  )


def moments(image: Image) -> tuple[Moments, Moments]:
  """Mean and variance of each slice and channel."""
  mean = image.mean(1).mean(1)  # a mean of means: one sum over all pixels would lose digits in float32
  return mean, ((image - mean[:, None, None]) ** 2).mean(1).mean(1)


def of_volume(
  mean: Moments,
  variance: Moments,
  height: Pixels,
  width: Pixels,
  aspect: Aspect = 1.0,
) -> tuple[Channels, Channels]:
  """Mean and standard deviation of each channel of a volume, from its `moments`.

  As in the data set, they are those of a square image: the black that `to_network` adds counts.
  """
  rows, columns = jnp.asarray(height, jnp.float32) * aspect, jnp.asarray(width, jnp.float32)
  share = rows * columns / jnp.maximum(rows, columns) ** 2
  centre = share * mean.mean(0)
  inside = (variance + (mean - centre) ** 2).mean(0)
  return centre, (share * inside + (1 - share) * centre**2) ** 0.5


def statistics(volume: Image, aspect: Aspect = 1.0) -> tuple[Channels, Channels]:
  """Mean and standard deviation of each channel of a volume, see `of_volume`."""
  return of_volume(*moments(volume), *volume.shape[1:3], aspect)
