"""Segments a volume: resamples it to each network's grid, runs the networks in batches, and resamples back.

A scan is resampled once to the grid and once back. There are two exceptions, since training has them too. Contrast is
enhanced, and percentiles are taken, on the grid of the stored slices, so for such networks a scan is resampled to that
grid and from there to the network's: histograms depend on the grid, and the network would see other intensities.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from bt_jax.datasets.channels import with_neighbours
from bt_jax.distributed import programs
from bt_jax.inference.ensemble import Outputs
from bt_jax.inference.networks import View
from bt_jax.inference.predictor import Image
from bt_jax.pipeline import percentiles
from bt_jax.pipeline.contrast import make_contrast
from bt_jax.scans import resampling
from bt_jax.schema import Tumor

_BATCHES = (32, 8, 1)  # slices; few sizes, as each is compiled, and small ones, so that one slice does not wait for 32
Resampled = Float[np.ndarray, "slices size size channels"]
Channels = Float[np.ndarray, "channels"]


def _batches(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
  """(start, stop) of batches that cover `count` slices, each of the largest size that fits; the last may be smaller."""
  start = 0
  while start < count:
    size = next((size for size in sizes if size <= count - start), sizes[-1])
    yield start, min(start + size, count)
    start += size


def segment(
  forward: Callable[[dict[str, Any]], list[Tumor]],
  outputs: Callable[..., Outputs],
  views: Collection[View],
  devices: int,
  window: Sequence[float],
  image: Image,
  aspect: float,
) -> Iterator[Outputs]:
  """Runs the networks on the slices of a scan; while one batch is fetched, the devices work on the next.

  Args:
    forward: maps slices and the statistics of their volume to logits.
    outputs: maps logits to outputs on the scan's own grid.
    views: views of the networks.
    devices: number of devices that share a batch.
    window: see `DatasetInfo.window`.
    image: image of the scan.
    aspect: height of a pixel divided by its width.
  """
  count, height, width, _ = image.shape
  sizes = sorted({-(-size // devices) * devices for size in _BATCHES}, reverse=True)
  by_size, mean, std = _resample(image, window, aspect, {view.size for view in views})
  between = {view: _percentiles(by_size[view.size], view) for view in views if view.percentiles}
  waiting: list[tuple[Outputs, int]] = []
  for start, stop in _batches(count, sizes):
    full = next(size for size in reversed(sizes) if size >= stop - start)
    filled = ((0, full - stop + start), (0, 0), (0, 0), (0, 0))
    repeat = lambda values, full=full: np.repeat(values[None], full, axis=0)
    images = {view: np.pad(_see(by_size[view.size], start, stop, view), filled) for view in views}
    batch = {"image": images, "volume_mean": repeat(mean), "volume_std": repeat(std)}
    if between:
      batch["volume_percentiles"] = {view: repeat(values) for view, values in between.items()}
    logits = forward(batch)
    waiting.append((outputs(logits, np.float32(aspect), height=height, width=width), stop - start))
    if len(waiting) > 1:
      yield _fetch(*waiting.pop(0))
  yield from (_fetch(*one) for one in waiting)


def _resample(
  image: Image, window: Sequence[float], aspect: float, sizes: Collection[int]
) -> tuple[dict[int, Resampled], Channels, Channels]:
  """All slices in 0..255 on grids of these sizes, and the mean and standard deviation of the volume."""
  low, high = resampling.window(image, fixed=window)
  ordered = tuple(sorted(sizes))
  parts = [
    jax.device_get(_resampled(image[start:stop], low, high, np.float32(aspect), sizes=ordered))
    for start, stop in _batches(len(image), _BATCHES)
  ]
  grids, means, variances = zip(*parts, strict=True)
  by_size = {size: np.concatenate(slices) for size, slices in zip(ordered, zip(*grids, strict=True), strict=True)}
  moments = np.concatenate(means), np.concatenate(variances)
  return by_size, *map(
    np.asarray, _of_volume(*moments, np.float32(aspect), height=image.shape[1], width=image.shape[2])
  )


def _percentiles(resampled: Resampled, view: View) -> Float[np.ndarray, "channels 4"]:
  """The statistics between percentiles of the volume around the head, as in training."""
  return percentiles.statistics(resampled if view.cropped else percentiles.crop(resampled)[0])


def _to_networks(
  image: Array, low: Array, high: Array, aspect: Array, *, sizes: tuple[int, ...]
) -> tuple[list[Array], Array, Array]:
  scaled = resampling.scale(image, low, high)
  return [resampling.to_network(scaled, size, aspect) for size in sizes], *resampling.moments(scaled)


def _statistics(
  mean: Array, variance: Array, aspect: Array, *, height: int, width: int
) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
  return resampling.of_volume(mean, variance, height, width, aspect)


_resampled = programs.jit(_to_networks, "slices resampled to the grids of networks")
_of_volume = programs.jit(_statistics, "statistics of a volume")


def _see(resampled: Resampled, start: int, stop: int, view: View) -> Float[np.ndarray, "some size size _"]:
  """Some slices of a volume as a view shows them, from these slices and the neighbours that it needs."""
  reach = max((abs(channel.offset) for channel in view.context), default=0)
  first = max(start - reach, 0)
  seen = with_neighbours(_enhance(resampled[first : stop + reach], view.contrast), view.context)
  return seen[start - first : stop - first]


def _enhance(image: Resampled, contrast: str) -> Resampled:
  """Enhances contrast in 8 bits, as in training."""
  if contrast == "none":
    return image
  enhanced = map(make_contrast(contrast), np.round(image).astype(np.uint8))
  return np.stack(list(enhanced)).astype(np.float32)


def _fetch(outputs: Outputs, count: int) -> Outputs:
  members, slice_probability, gated, spread = jax.device_get(outputs)
  kept = None if spread is None else spread[:count]
  return Outputs(members[:, :count], slice_probability[:count], gated[:count], kept)
