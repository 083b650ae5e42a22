"""From a scan to its mask: resampled to the training grid, through the networks in batches, and back."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Shaped
from tqdm import tqdm

from bt_jax.datasets.channels import with_neighbours
from bt_jax.errors import UserError
from bt_jax.evaluation.postprocess import largest_part
from bt_jax.inference import measurements, ood, resampling
from bt_jax.inference.decision import Decision
from bt_jax.inference.ensemble import Marked
from bt_jax.inference.networks import Network, View
from bt_jax.pipeline.contrast import make_contrast
from bt_jax.scans.scan import Scan, fill_roles
from bt_jax.schema import CHANNELS
from bt_jax.training.train_state import PyTree

_BATCHES = (32, 8, 1)  # slices; few sizes, as each is compiled, and small ones, so that one slice does not wait for 32
Resampled = Float[np.ndarray, "slices 256 256 3"]


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What the networks say of one scan, on its own grid.

  Attributes:
    scan: that was predicted.
    mask: of the tumour, in the order of `scan.image`.
    probability: of tumour by pixel, the mean of the networks; 0 in slices that the gate stopped.
    slice_probability: of tumour anywhere in the slice, calibrated on validation slices.
    members: each network's own mask.
    gated: the slices that the classifier stopped.
    threshold: of the mask.
    warnings: what is odd about the scan, a sentence each.
    looks_wrong: whether it looks unlike what the networks were trained on.
    about: the networks, and the version that opened or exported them.
  """

  scan: Scan
  mask: Bool[np.ndarray, "slices height width"]
  probability: Float[np.ndarray, "slices height width"]
  slice_probability: Float[np.ndarray, "slices"]
  members: Bool[np.ndarray, "members slices height width"]
  gated: Bool[np.ndarray, "slices"]
  threshold: float
  warnings: list[str]
  looks_wrong: bool
  about: dict[str, Any]

  @property
  def volume_ml(self) -> float | None:
    """Of the mask; None where the spacing is unknown."""
    return measurements.size(self.mask, self.scan.spacing_mm)["volume_ml"]

  @property
  def diameter_mm(self) -> float | None:
    """The largest within a slice, see `measurements.largest_diameter`; None without tumour or spacing."""
    return measurements.largest_diameter(self.mask, self.scan.spacing_mm)["largest_diameter_mm"]

  def __repr__(self) -> str:
    volume = "" if self.volume_ml is None else f", {self.volume_ml:.2f} ml"
    return (
      f"Prediction({self.scan.name!r}: {int(self.mask.sum())} voxels marked{volume}, probability "
      f"{self.slice_probability.max():.3f}{', looks wrong' if self.looks_wrong else ''})"
    )


@dataclasses.dataclass(frozen=True)
class Predictor:
  """Networks and what they decide by; made by `load`.

  Attributes:
    decision: see `Decision`.
    about: the networks, for outputs.
    mark: from all slices of a volume on the training grid, in 0..255, to what the networks say of them, some at a time.
    networks: of runs; none of an exported file.
  """

  decision: Decision
  about: dict[str, Any]
  mark: Callable[[Resampled], Iterator[Marked]]
  networks: tuple[Network, ...] = ()

  def __repr__(self) -> str:
    return f"Predictor({self.about['title']!r})"

  @property
  def module(self) -> nn.Module:
    """The Linen module of a single network; raises UserError where there are several, or an exported file."""
    return self._single.module

  @property
  def variables(self) -> PyTree:
    """Its `params` and `batch_stats`, as `module.apply(variables, images)` takes them; raises UserError as `module`."""
    return self._single.variables

  @property
  def _single(self) -> Network:
    if len(self.networks) != 1:
      reason = f"{len(self.networks)} networks" if self.networks else "an exported file, which holds a function alone"
      raise UserError(f"module and variables are of one network, and this is {reason}: load the run of one network")
    return self.networks[0]

  def predict(
    self,
    volume: Scan | Shaped[np.ndarray, "..."],
    *,
    spacing_mm: tuple[float, float, float] | None = None,
    progress: bool = False,
  ) -> Prediction:
    """Marks the tumour in a scan.

    Args:
      volume: a scan, as `bt_jax.read` reads it; or an array of axial slices in any scale, [slices, height, width, 3] of
        pre-contrast, FLAIR and post-contrast, or [slices, height, width] of FLAIR alone. The front of the head is at the
        top.
      spacing_mm: of an array: between slices, rows and columns.
      progress: whether to show a bar.

    Raises:
      UserError: the array has another shape, values that are not finite, or is constant; memory does not suffice; or the
        networks give probabilities that are not finite.
    """
    scan = volume if isinstance(volume, Scan) else of_array(volume, spacing_mm)
    try:
      return self._predict(scan, progress)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
      if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
        raise
      size = " x ".join(map(str, scan.image.shape[:3]))
      raise UserError(
        f"memory does not suffice for {scan.name} ({size} voxels): crop it, or give it in parts"
      ) from error

  def _predict(self, scan: Scan, progress: bool) -> Prediction:
    count, height, width, _ = scan.image.shape
    if self.decision.reach >= count:
      raise UserError(
        f"{scan.name} has {count} slice{'s' * (count != 1)}, and these networks look at neighbours {self.decision.reach} away: "
        f"expected more than {self.decision.reach}; give the whole volume"
      )
    aspect = scan.spacing_mm[1] / scan.spacing_mm[2] if scan.spacing_mm else 1.0
    low, high = resampling.window(scan.image)
    pieces = list(_pieces(count, _BATCHES))
    resampled = np.concatenate([_bring(scan.image[start:stop], low, high, aspect) for start, stop in pieces])
    probability, members = np.empty((count, height, width), np.float32), []
    slice_probability, gated, done = np.empty(count, np.float32), np.empty(count, bool), 0
    bar = tqdm(total=count, desc="predicting", unit="slice", leave=False, disable=not progress)
    for marked in self.mark(resampled):
      stop = done + len(marked.gated)
      own = np.asarray(_take_back(marked.members, aspect, height=height, width=width))
      if not np.isfinite(own).all() or not np.isfinite(marked.slice_probability).all():
        raise UserError(
          f"the networks give no number for {scan.name}: the checkpoint or the exported file is damaged, or computes in too "
          "few bits; train or export it again"
        )
      members.append(own >= self.decision.threshold)
      probability[done:stop] = own.mean(0)
      slice_probability[done:stop], gated[done:stop], done = marked.slice_probability, marked.gated, stop
      bar.update(len(marked.gated))
    bar.close()
    masks = [probability >= self.decision.threshold, *np.concatenate(members, axis=1)]
    if self.decision.largest_component:
      masks = list(map(largest_part, masks))
    odd = [*scan.ood_warnings, *ood.warnings(scan.image, self.decision.profile)]
    if not self.decision.drops_sequences and ood.is_flair_alone(scan.image):
      odd.append("FLAIR alone, on which these networks were not trained: mask and volume are not reliable")
    return Prediction(
      scan=scan,
      mask=masks[0],
      probability=probability,
      slice_probability=slice_probability,
      members=np.stack(masks[1:]),
      gated=gated,
      threshold=self.decision.threshold,
      warnings=[*scan.warnings, *odd],
      looks_wrong=bool(odd),
      about=self.about,
    )


def of_array(volume: Shaped[np.ndarray, "..."], spacing_mm: tuple[float, float, float] | None = None) -> Scan:
  """A scan out of an array; raises UserError for one of another shape."""
  volume = np.asarray(volume)
  if not (np.issubdtype(volume.dtype, np.number) or volume.dtype == bool) or np.iscomplexobj(volume):
    raise UserError(f"the volume is of {volume.dtype}, expected real numbers; files are read by bt_jax.read")
  name, origins = "the array", dict.fromkeys(CHANNELS, "the array")
  if volume.ndim == 3:
    image, roles, warnings = fill_roles({"flair": volume}, origins, name)
  elif volume.ndim == 4 and volume.shape[-1] == len(CHANNELS):
    image, roles, warnings = volume.astype(np.float32), origins, []
  else:
    raise UserError(
      f"the volume has the shape {volume.shape}, expected [slices, height, width, 3], or [slices, height, width] of FLAIR"
    )
  spacing = tuple(map(float, spacing_mm)) if spacing_mm is not None else None
  if spacing and (len(spacing) != 3 or not all(0 < length < np.inf for length in spacing)):
    raise UserError(f"spacing_mm is {spacing_mm}, expected three lengths: between slices, rows and columns")
  return Scan(name, "array", image, spacing, roles, [f"{at:04d}" for at in range(len(image))], warnings)


def _pieces(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
  """(start, stop) of pieces of `count` slices, each of one of these sizes, the largest that fit; the last may be less."""
  start = 0
  while start < count:
    size = next((size for size in sizes if size <= count - start), sizes[-1])
    yield start, min(start + size, count)
    start += size


def mark(
  forward: Callable[[dict[str, Any]], Marked], views: Collection[View], devices: int, resampled: Resampled
) -> Iterator[Marked]:
  """What the networks say of slices; while one batch is fetched, the devices work on the next."""
  sizes = sorted({-(-size // devices) * devices for size in _BATCHES}, reverse=True)
  mean, std = resampling.statistics(resampled)
  waiting: list[tuple[Marked, int]] = []
  for start, stop in _pieces(len(resampled), sizes):
    whole = next(size for size in reversed(sizes) if size >= stop - start)
    filled = ((0, whole - stop + start), (0, 0), (0, 0), (0, 0))
    repeat = lambda values, whole=whole: np.tile(values, (whole, 1))
    images = {view: np.pad(_see(resampled, start, stop, view), filled) for view in views}
    waiting.append((forward({"image": images, "volume_mean": repeat(mean), "volume_std": repeat(std)}), stop - start))
    if len(waiting) > 1:
      yield _fetch(*waiting.pop(0))
  yield from (_fetch(*one) for one in waiting)


def _see(resampled: Resampled, start: int, stop: int, view: View) -> Float[np.ndarray, "some 256 256 channels"]:
  """What a view shows of some slices of a volume, out of them and as many around them as its neighbours reach."""
  reach = max((abs(channel.offset) for channel in view.context), default=0)
  first = max(start - reach, 0)
  seen = with_neighbours(_enhance(resampled[first : stop + reach], view.contrast), view.context)
  return seen[start - first : stop - first]


def _enhance(image: Resampled, contrast: str) -> Resampled:
  """Contrast is enhanced in 8 bits, as in training."""
  if contrast == "none":
    return image
  raised = map(make_contrast(contrast), np.round(image).astype(np.uint8))
  return np.stack(list(raised)).astype(np.float32)


def _fetch(marked: Marked, count: int) -> Marked:
  members, slice_probability, gated = jax.device_get(marked)
  return Marked(members[:, :count], slice_probability[:count], gated[:count])


@jax.jit
def _bring(image: Array, low: Array, high: Array, aspect: Array) -> Array:
  return resampling.to_training(resampling.scale(image, low, high), aspect)


@functools.partial(jax.jit, static_argnames=("height", "width"))
def _take_back(members: Array, aspect: Array, *, height: int, width: int) -> Array:
  return jax.vmap(lambda one: resampling.to_own(one, height, width, aspect))(members)
