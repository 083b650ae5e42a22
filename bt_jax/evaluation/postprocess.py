"""From probabilities to masks: the threshold and the largest 3-D component."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import ndimage

from bt_jax import metrics
from bt_jax.schema import Predicted, Slices

THRESHOLDS = np.arange(1, 20) / 20  # 0.05 to 0.95


def class_masks(
  probabilities: Float[Array | np.ndarray, "*shape classes"], *, threshold: float, overlapping: bool
) -> Bool[Array | np.ndarray, "*shape classes"]:
  """The classes of each pixel.

  Args:
    probabilities: see `losses.class_probabilities`.
    threshold: the lowest probability that counts as positive.
    overlapping: if true, a pixel has every class whose probability reaches the threshold. Otherwise it has the most
      likely class if the probability of any class reaches it. For a single class the two are the same.
  """
  if overlapping or probabilities.shape[-1] == 1:
    return probabilities >= threshold
  likeliest = probabilities.argmax(-1)[..., None] == np.arange(probabilities.shape[-1])
  return likeliest & (probabilities.sum(-1, keepdims=True) >= threshold)


def predict_masks(
  probabilities: Float[np.ndarray, "n height width classes"],
  slices: Slices,
  *,
  threshold: float,
  largest_component: bool,
  overlapping: bool = False,
) -> Bool[np.ndarray, "n height width classes"]:
  """The masks of `class_masks`; with `largest_component`, only the largest 3-D component of each volume is kept."""
  masks = class_masks(probabilities, threshold=threshold, overlapping=overlapping)
  if largest_component:
    for case in np.unique(slices.case):
      indices = np.flatnonzero(slices.case == case)
      indices = indices[np.argsort(slices.number[indices])]
      masks[indices] = of_largest_part(masks[indices])
  return masks


def of_largest_part(
  masks: Bool[np.ndarray, "depth height width classes"],
) -> Bool[np.ndarray, "depth height width classes"]:
  """The masks of a volume, restricted to the largest connected component of their union over classes."""
  return masks & largest_part(masks.any(-1))[..., None]


def largest_part(volume: Bool[np.ndarray, "depth height width"]) -> Bool[np.ndarray, "depth height width"]:
  """The largest 26-connected component; the first of ties.

  >>> largest_part(np.array([[[1, 0, 1, 1]]], bool)).astype(int).tolist()
  [[[0, 0, 1, 1]]]
  """
  labels, count = ndimage.label(volume, structure=np.ones((3, 3, 3)))
  if count < 2:
    return volume
  return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def choose_threshold(predicted: Iterable[Predicted], *, largest_component: bool, overlapping: bool = False) -> float:
  """The threshold in `THRESHOLDS` with the highest pooled Dice on these (validation) slices; the middle one of ties.

  With several classes, the mean of their Dice counts.

  Args:
    predicted: slices with probabilities, in chunks of whole volumes.
    largest_component: see `predict_masks`.
    overlapping: see `class_masks`.
  """
  counts = [None] * len(THRESHOLDS)
  for slices, tumor in predicted:
    truth = slices.mask == 1
    for index, threshold in enumerate(THRESHOLDS):
      masks = predict_masks(
        tumor.pixels, slices, threshold=threshold, largest_component=largest_component, overlapping=overlapping
      )
      counted = metrics.pool(metrics.count(masks, truth))
      counts[index] = counted if counts[index] is None else metrics.Counts(*map(np.add, counts[index], counted))
  scores = np.array([metrics.dice(counted, empty=1.0).mean() for counted in counts])
  best = np.flatnonzero(scores == scores.max())
  return float(THRESHOLDS[best[len(best) // 2]])
