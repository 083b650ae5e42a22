"""Measurements on masks: size, diameter, location, parts, and disagreement within an ensemble."""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage, spatial, special

from bt_jax import metrics

Mask = Bool[np.ndarray, "slices height width"]


def size(mask: Mask, spacing_mm: tuple[float, float, float] | None) -> dict[str, int | float | None]:
  """`voxels`, `volume_mm3` and `volume_ml` of a mask; the last two None where the spacing is unknown.

  >>> size(np.ones((2, 10, 10), bool), (5.0, 1.0, 0.5))
  {'voxels': 200, 'volume_mm3': 500.0, 'volume_ml': 0.5}
  """
  voxels = int(mask.sum())
  volume = voxels * float(np.prod(spacing_mm)) if spacing_mm else None
  return {"voxels": voxels, "volume_mm3": volume, "volume_ml": None if volume is None else volume / 1000}


def largest_diameter(mask: Mask, spacing_mm: tuple[float, float, float] | None) -> dict[str, float | int | None]:
  """The largest distance within one 8-connected part of one slice, from outer corner to outer corner of its pixels.

  Returns:
    `largest_diameter_mm`; `largest_diameter_pixels`, where a pixel is 1 x 1 whatever its spacing; and
    `largest_diameter_slice`, the index of the slice of the first of these two that is known, and
    `largest_diameter_slice_number`, the same counted from 1. Each is None where it is not known.
  """
  pixels = _longest(mask, (1.0, 1.0))
  mm = _longest(mask, spacing_mm[1:]) if spacing_mm else (None, pixels[1])
  return {
    "largest_diameter_mm": mm[0],
    "largest_diameter_pixels": pixels[0],
    "largest_diameter_slice": mm[1],
    "largest_diameter_slice_number": None if mm[1] is None else mm[1] + 1,
  }


def _longest(mask: Mask, scale: tuple[float, float]) -> tuple[float | None, int | None]:
  """The largest distance, and its slice; a part whose bounding box has no longer diagonal is skipped, as most are in noise."""
  best, index = 0.0, None
  for slice_index in np.flatnonzero(mask.any((1, 2))):
    labels, _ = ndimage.label(mask[slice_index], np.ones((3, 3)))
    frames = ndimage.find_objects(labels)
    sides = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in frames]
    diagonals = np.hypot(*(np.array(sides) * scale).T)
    for part in np.argsort(-diagonals):
      if diagonals[part] <= best:
        break
      length = float(spatial.distance.pdist(_hull(labels[frames[part]] == part + 1) * scale).max())
      if length > best:
        best, index = length, int(slice_index)
  return (None, None) if index is None else (best, index)


def _hull(part: Bool[np.ndarray, "height width"]) -> Float[np.ndarray, "corners 2"]:
  """The corners (row, column) of the convex hull around the pixels of a part that has some in every row."""
  first, last = part.argmax(1), part.shape[1] - part[:, ::-1].argmax(1)
  rows = np.arange(len(part))
  corners = [np.stack([row, column], axis=1) for row in (rows, rows + 1) for column in (first, last)]
  points = np.concatenate(corners).astype(float)
  return points[spatial.ConvexHull(points).vertices]


def location(mask: Mask) -> dict[str, Any]:
  """Where the mask lies: `bounding_box`, first and last index along each axis, and `centroid`."""
  if not mask.any():
    return {"bounding_box": None, "centroid": None}
  counts = {"slices": mask.sum((1, 2)), "rows": mask.sum((0, 2)), "columns": mask.sum((0, 1))}
  return {
    "bounding_box": {name: [int(index) for index in np.flatnonzero(each)[[0, -1]]] for name, each in counts.items()},
    "centroid": [float(np.average(np.arange(each.size), weights=each)) for each in counts.values()],
  }


def components(mask: Mask, box: dict[str, list[int]] | None) -> int:
  """The number of 26-connected parts."""
  if box is None:
    return 0
  inside = tuple(slice(first, last + 1) for first, last in box.values())
  return int(ndimage.label(mask[inside], np.ones((3, 3, 3)))[1])


def entropy(probability: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
  """Entropy of yes or no, in bits, 0..1.

  >>> entropy(np.array([0.0, 0.5, 1.0])).tolist()
  [0.0, 1.0, 0.0]
  """
  bits = (special.entr(probability) + special.entr(1 - probability)) / np.log(2)
  return bits.clip(0, 1).astype(probability.dtype)


def uncertainty(
  probability: Float[np.ndarray, "slices height width"], mask: Mask, slice_probability: Float[np.ndarray, " slices"]
) -> float:
  """How unsure a mask is as a whole, 0..1, by which studies are sorted.

  Of a mask: 1 minus its soft Dice with the probabilities, 2 sum(p m) / (sum(p) + sum(m)), the soft Dice confidence of Borges
  et al. (2024, arXiv:2402.10665), which estimates the Dice that the mask will have. Of an empty mask: the highest
  probability of tumour in any slice. It is only as good as the probabilities: a scan unlike those of training may be
  predicted wrongly with certainty.

  >>> uncertainty(np.full((1, 1, 4), 0.5), np.ones((1, 1, 4), bool), np.array([0.5]))  # 1 - 2 * 2 / (2 + 4)
  0.33333333333333337
  """
  if not mask.any():
    return float(slice_probability.max())
  of_mask = float(probability[mask].sum(dtype=np.float64))
  return 1 - 2 * of_mask / float(probability.sum(dtype=np.float64) + mask.sum())


def disagreement(
  members: Bool[np.ndarray, "members slices height width"], spacing_mm: tuple[float, float, float] | None
) -> dict[str, float | int | None] | None:
  """How far the masks of an ensemble differ; None for a single member.

  Returns:
    The number of `members`; `pairwise_dice_mean`, over all pairs, where a pair of empty masks counts 1; and the smallest
    and the largest `voxels` and `volume_mm3`.
  """
  if len(members) < 2:
    return None
  dice = [
    metrics.dice(metrics.pool(metrics.count(one, other)), empty=1.0).item()
    for one, other in itertools.combinations(members, 2)
  ]
  least, most = (size(members[choose(members.sum((1, 2, 3)))], spacing_mm) for choose in (np.argmin, np.argmax))
  return {
    "members": len(members),
    "pairwise_dice_mean": float(np.mean(dice)),
    "voxels_min": least["voxels"],
    "voxels_max": most["voxels"],
    "volume_mm3_min": least["volume_mm3"],
    "volume_mm3_max": most["volume_mm3"],
  }
