"""Predicts the part of a scan around the head, and returns outputs on the scan's own grid."""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Float

from bt_jax.datasets.info import DatasetInfo
from bt_jax.inference.ensemble import Outputs
from bt_jax.pipeline import percentiles
from bt_jax.scans import resampling

WINDOW = (0.0, 255.0)  # of the images that `segment` hands on, which are scaled already
Image = Float[np.ndarray, "slices height width channels"]
OnAnotherGrid = Float[np.ndarray, "slices _ _ channels"]


def segment(
  of_image: Callable[[Image, float], Iterator[Outputs]], info: DatasetInfo, image: Image, aspect: float
) -> Iterator[Outputs]:
  """Runs networks on a scan that is cropped and resized as the published U-Net was trained; outside there is no tumour.

  Args:
    of_image: `segmenting.segment` for images in `WINDOW`.
    info: the data set of the networks, with the size that they see.
    image: image of the scan.
    aspect: height of a pixel divided by its width.
  """
  count, height, width, _ = image.shape
  scaled = np.asarray(resampling.scale(image, *resampling.window(image, fixed=info.window)))
  square = _of_height(scaled, max(round(height * aspect), 1))
  cropped, box = percentiles.crop(square)
  on_own_grid = lambda values: _of_height(_in_frame(values, box, square.shape[1:3]), height)
  done = 0
  for outputs in of_image(percentiles.resize(cropped, info.size), 1.0):
    empty = functools.partial(_empty, outputs, (height, width))
    if not done:
      yield empty(box.slices.start)
    members = np.stack([on_own_grid(own) for own in outputs.members])
    spread = None if outputs.spread is None else on_own_grid(outputs.spread[..., None]).squeeze(-1)
    yield outputs._replace(members=members, spread=spread)
    done += len(outputs.gated)
  yield empty(count - box.slices.stop)


def _of_height(image: Image, height: int) -> OnAnotherGrid:
  """Resamples rows linearly, so that pixels become square, or are as they were."""
  if image.shape[1] == height:
    return image
  slices, _, width, channels = image.shape
  return np.asarray(jax.image.resize(image, (slices, height, width, channels), "linear"))


def _in_frame(own: Image, box: percentiles.Box, frame: tuple[int, int]) -> OnAnotherGrid:
  """The inverse of `percentiles.crop` and `percentiles.resize` for probabilities; 0 outside of the box."""
  inside = np.asarray(resampling.to_own(own, box.side, box.side))
  rows, columns = (span.stop - span.start for span in (box.rows, box.columns))
  placed = np.zeros((len(own), *frame, own.shape[-1]), np.float32)
  placed[:, box.rows, box.columns] = inside[:, box.top : box.top + rows, box.left : box.left + columns]
  return placed


def _empty(like: Outputs, frame: tuple[int, int], slices: int) -> Outputs:
  """Outputs without tumour for some slices."""
  members, *_, classes = like.members.shape
  zeros = lambda *shape: np.zeros(shape, np.float32)
  spread = None if like.spread is None else zeros(slices, *frame)
  return Outputs(zeros(members, slices, *frame, classes), zeros(slices), np.zeros(slices, bool), spread)
