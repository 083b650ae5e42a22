"""The preparation of volumes in mateuszbuda/brain-segmentation-pytorch: cropped to the head, scaled between percentiles.

As in its `utils.py` (`crop_sample`, `pad_sample`, `resize_sample`, `normalize_volume`; MIT licence), on intensities in
0..255.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from skimage import transform

from bt_jax.schema import Slices

NAME = "percentiles"  # of the scheme, see `preprocess.SCHEMES`
_BLACK = 0.1  # of the volume's highest intensity; what is darker is set to 0
_LOW, _HIGH = 10, 99  # percentiles
Volume = Num[np.ndarray, "slices height width channels"]


class Box(NamedTuple):
  """The smallest box around what is not black in a volume, and the margins that make its slices square.

  Attributes:
    slices: its slices.
    rows: its rows.
    columns: its columns.
    top: rows of black that are added above; the rest of the rows that are missing is added below.
    left: columns of black that are added on the left.
  """

  slices: slice
  rows: slice
  columns: slice
  top: int
  left: int

  @property
  def side(self) -> int:
    """Height and width in pixels after the margins are added."""
    return max(self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)


def crop(volume: Volume) -> tuple[Float[np.ndarray, "cropped side side channels"], Box]:
  """Sets what is darker than a tenth of the brightest voxel to 0, crops to the rest, and pads slices to squares.

  A volume that is black stays whole.
  """
  bright = np.where(volume < volume.max() * _BLACK, 0, volume).astype(np.float32)
  shown = bright.any(-1) if bright.any() else np.ones(volume.shape[:3], bool)
  spans = []
  for axis in range(3):
    indices = np.flatnonzero(shown.any(tuple({0, 1, 2} - {axis})))
    spans.append(slice(int(indices[0]), int(indices[-1]) + 1))
  height, width = (span.stop - span.start for span in spans[1:])
  side = max(height, width)
  top, left = (side - height) // 2, (side - width) // 2
  margins = ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0))
  return np.pad(bright[tuple(spans)], margins), Box(*spans, top, left)


def resize(volume: Volume, size: int) -> Float[np.ndarray, "slices {size} {size} channels"]:
  """Resizes slices by quadratic splines, without smoothing where they shrink."""
  shape = (len(volume), size, size, volume.shape[-1])
  resized = transform.resize(volume, shape, order=2, mode="constant", cval=0, preserve_range=True, anti_aliasing=False)
  return resized.astype(np.float32)


def statistics(volume: Volume) -> Float[np.ndarray, "channels 4"]:
  """The percentiles of a cropped volume, and mean and standard deviation of each channel between them.

  Returns:
    For each channel the 10th and 99th percentile, which are those of all channels together, and the mean and standard
    deviation of intensities that are clipped to them.
  """
  low, high = np.percentile(volume, (_LOW, _HIGH))
  clipped = np.clip(volume, low, high).reshape(-1, volume.shape[-1])
  mean, std = clipped.mean(0, dtype=np.float64), clipped.std(0, dtype=np.float64)
  return np.stack([np.full_like(mean, low), np.full_like(mean, high), mean, std], axis=-1).astype(np.float32)


def of_cases(
  volumes: Iterable[tuple[str, list[str]]], read: Callable[[list[str]], Slices]
) -> dict[str, Float[np.ndarray, "channels 4"]]:
  """The `statistics` of stored volumes, cropped, by case.

  Args:
    volumes: each case with the ids of all its slices.
    read: maps ids to slices.
  """
  statistics_of = {}
  for case, ids in volumes:
    image = read(ids).image
    statistics_of[case] = statistics(crop(image * np.float32(255 / np.iinfo(image.dtype).max))[0])
  return statistics_of
