"""Predicts the mask of a scan, and what is unusual about the scan."""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Bool, Float, Shaped, UInt8
from tqdm import tqdm

from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import UserError
from bt_jax.evaluation.postprocess import class_masks, largest_part, of_largest_part
from bt_jax.inference import measurements, ood, studies
from bt_jax.inference.decision import Decision
from bt_jax.inference.ensemble import Outputs, any_class
from bt_jax.inference.networks import Network
from bt_jax.inference.segmented import Segmented, labels_of
from bt_jax.scans.scan import Scan, fill_roles, numbered
from bt_jax.schema import CHANNELS
from bt_jax.training.train_state import PyTree

Image = Float[np.ndarray, "slices height width channels"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction(Segmented):
  """The prediction for one scan, on its own grid.

  Attributes:
    probabilities: probability of each class by pixel, the mean of the networks; 0 in slices that the gate stopped.
    slice_probability: probability of tumour anywhere in the slice, calibrated on validation slices.
    members: each network's own mask, of any class.
    gated: the slices that the classifier stopped.
    threshold: threshold of the masks.
    warnings: what is unusual about the scan, a sentence each.
    looks_wrong: whether it looks unlike what the networks were trained on.
    about: the networks, and the version that opened or exported them.
    disagreement: standard deviation of the probability of any class over networks and views, by pixel, 0..0.5; None for a
      single pass, and for an exported file.
  """

  probabilities: Float[np.ndarray, "slices height width classes"]
  slice_probability: Float[np.ndarray, " slices"]
  members: Bool[np.ndarray, "members slices height width"]
  gated: Bool[np.ndarray, " slices"]
  threshold: float
  warnings: list[str]
  looks_wrong: bool
  about: dict[str, Any]
  disagreement: Float[np.ndarray, "slices height width"] | None = None

  @functools.cached_property
  def probability(self) -> Float[np.ndarray, "slices height width"]:
    """Probability of any class by pixel."""
    return any_class(self.probabilities, self.info)

  @functools.cached_property
  def entropy(self) -> Float[np.ndarray, "slices height width"]:
    """Entropy of tumour or none by pixel in bits: 0 where the probability is 0 or 1, 1 where it is one half."""
    return measurements.entropy(self.probability)

  @property
  def uncertainty(self) -> float:
    """How unsure the mask as a whole is, 0..1, see `measurements.uncertainty`."""
    return measurements.uncertainty(self.probability, self.mask, self.slice_probability)

  @functools.cached_property
  def labels(self) -> UInt8[np.ndarray, "slices height width"]:
    """The id of each pixel's class, 0 for none; where classes overlap, the last one."""
    return labels_of(self.masks, self.info)

  @property
  def volume_ml(self) -> float | None:
    """Volume of the mask; None where the spacing is unknown."""
    return measurements.size(self.mask, self.scan.spacing_mm)["volume_ml"]

  @property
  def diameter_mm(self) -> float | None:
    """The largest diameter within a slice, see `measurements.largest_diameter`; None without tumour or spacing."""
    return measurements.largest_diameter(self.mask, self.scan.spacing_mm)["largest_diameter_mm"]

  def __repr__(self) -> str:
    volume = "" if self.volume_ml is None else f", {self.volume_ml:.2f} ml"
    return (
      f"Prediction({self.scan.name!r}: {int(self.mask.sum())} voxels segmented{volume}, probability "
      f"{self.slice_probability.max():.3f}{', looks wrong' if self.looks_wrong else ''})"
    )


@dataclasses.dataclass(frozen=True)
class Predictor:
  """Networks and how they decide; made by `load`.

  Attributes:
    decision: see `Decision`.
    about: the networks, for outputs.
    segment: maps the image of a scan and its aspect, the height of a pixel divided by its width, to the outputs for its
      slices, some at a time.
    networks: the networks of runs; empty for an exported file.
  """

  decision: Decision
  about: dict[str, Any]
  segment: Callable[[Image, float], Iterator[Outputs]]
  networks: tuple[Network, ...] = ()

  def __repr__(self) -> str:
    return f"Predictor({self.about['title']!r})"

  @property
  def info(self) -> DatasetInfo:
    """The data set that the networks were trained on."""
    return self.decision.info

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

  def read(self, path: str | os.PathLike) -> Scan:
    """The scan in a file or folder with the channels of these networks, see `studies.find`; raises UserError if there is none.

    A case with a file for each channel is named by what their paths have in common.
    """
    path = pathlib.Path(path).expanduser()
    return studies.read(studies.find_one(path, self.info), self.info)

  def predict(
    self,
    volume: Scan | Shaped[np.ndarray, "..."],
    *,
    spacing_mm: tuple[float, float, float] | None = None,
    progress: bool = False,
  ) -> Prediction:
    """Segments the tumour in a scan.

    Args:
      volume: a scan, as `bt_jax.read` reads it; or an array of axial slices in any scale, [slices, height, width, channels]
        of the channels that the networks were trained on (for LGG pre-contrast, FLAIR and post-contrast), or [slices,
        height, width] of the reference channel (FLAIR) alone. The front of the head is at the top.
      spacing_mm: of an array: distances between slices, rows and columns.
      progress: whether to show a bar.

    Raises:
      UserError: the array has another shape, values that are not finite, or is constant; memory does not suffice; or the
        networks give probabilities that are not finite.
    """
    scan = volume if isinstance(volume, Scan) else of_array(volume, self.info, spacing_mm)
    try:
      with concurrent.futures.ThreadPoolExecutor(1) as beside:
        return self._predict(scan, progress, beside)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
      if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
        raise
      size = " x ".join(map(str, scan.image.shape[:3]))
      raise UserError(
        f"memory does not suffice for {scan.name} ({size} voxels): crop it, or give it in parts"
      ) from error

  def _predict(self, scan: Scan, progress: bool, beside: concurrent.futures.Executor) -> Prediction:
    count, height, width, channels = scan.image.shape
    info = self.info
    if channels != len(info.channels):
      raise UserError(
        f"{scan.name} has {channels} channels, and these networks were trained on {len(info.channels)} of {info.name} "
        f"({', '.join(info.channels)}): give these, or name networks of other data"
      )
    if scan.roles and tuple(scan.roles) != info.channels:
      raise UserError(
        f"{scan.name} was read as {', '.join(scan.roles)}, and these networks were trained on {', '.join(info.channels)} of "
        f"{info.name}: give an array of these"
      )
    if self.decision.reach >= count:
      raise UserError(
        f"{scan.name} has {count} slice{'s' * (count != 1)}, and these networks look at neighbours {self.decision.reach} away: "
        f"expected more than {self.decision.reach}; give the whole volume"
      )
    ood_warnings = beside.submit(self._ood_warnings, scan)  # while the devices work
    aspect = scan.spacing_mm[1] / scan.spacing_mm[2] if scan.spacing_mm else 1.0
    probabilities, members = np.empty((count, height, width, len(info.classes)), np.float32), []
    slice_probability, gated, done = np.empty(count, np.float32), np.empty(count, bool), 0
    spreads = []
    bar = tqdm(total=count, desc="predicting", unit="slice", leave=False, disable=None if progress else True)
    for outputs in self.segment(scan.image, aspect):
      stop, own = done + len(outputs.gated), outputs.members
      if not np.isfinite(own).all() or not np.isfinite(outputs.slice_probability).all():
        raise UserError(
          f"the networks give values that are not finite for {scan.name}: the checkpoint or the exported file is damaged, or computes in too "
          "few bits; train or export it again"
        )
      spreads += [] if outputs.spread is None else [outputs.spread]
      members.append(any_class(own, info) >= self.decision.threshold)
      probabilities[done:stop] = own.mean(0)
      slice_probability[done:stop], gated[done:stop], done = outputs.slice_probability, outputs.gated, stop
      bar.update(len(outputs.gated))
    bar.close()
    masks = class_masks(probabilities, threshold=self.decision.threshold, overlapping=info.overlapping)
    of_members = np.concatenate(members, axis=1)
    if self.decision.largest_component:
      masks, of_members = of_largest_part(masks), np.stack([largest_part(mask) for mask in of_members])
    unusual = ood_warnings.result()
    return Prediction(
      scan=scan,
      masks=masks,
      probabilities=probabilities,
      slice_probability=slice_probability,
      members=of_members,
      gated=gated,
      threshold=self.decision.threshold,
      warnings=[*scan.warnings, *unusual],
      looks_wrong=bool(unusual),
      info=info,
      about=self.about,
      disagreement=np.concatenate(spreads) if spreads else None,
    )

  def _ood_warnings(self, scan: Scan) -> list[str]:
    reference = self.info.reference_index
    sentences = [*scan.ood_warnings, *ood.warnings(scan.image[..., reference], self.decision.profile)]
    if not self.decision.drops_sequences and ood.is_reference_alone(scan.image, reference):
      sentences.append(
        f"{self.info.reference_title} alone, on which these networks were not trained: mask and volume are not reliable"
      )
    return sentences


def of_array(
  volume: Shaped[np.ndarray, "..."], info: DatasetInfo, spacing_mm: tuple[float, float, float] | None = None
) -> Scan:
  """A scan from an array; raises UserError where its shape, type or spacing is wrong."""
  volume = np.asarray(volume)
  if not (np.issubdtype(volume.dtype, np.number) or volume.dtype == bool) or np.iscomplexobj(volume):
    raise UserError(f"the volume is of {volume.dtype}, expected real numbers; files are read by bt_jax.read")
  name, origins = "the array", dict.fromkeys(info.channels, "the array")
  if volume.ndim == 3 and len(info.channels) == 1:
    volume = volume[..., None]
  if volume.ndim == 3 and info.channels == CHANNELS:
    image, roles, warnings = fill_roles({info.reference: volume}, origins, name)
  elif volume.ndim == 4 and volume.shape[-1] == len(info.channels):
    image, roles, warnings = volume.astype(np.float32), origins, []
  else:
    alone = f", or [slices, height, width] of {info.reference_title}" if info.channels == CHANNELS else ""
    raise UserError(
      f"the volume has the shape {volume.shape}, expected [slices, height, width, {len(info.channels)}]{alone}"
    )
  spacing = tuple(map(float, spacing_mm)) if spacing_mm is not None else None
  if spacing and (len(spacing) != 3 or not all(0 < length < np.inf for length in spacing)):
    raise UserError(f"spacing_mm is {spacing_mm}, expected three lengths: between slices, rows and columns")
  return Scan(name, "array", image, spacing, roles, numbered(len(image)), warnings)
