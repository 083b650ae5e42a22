"""From probabilities to masks: the threshold and the largest 3-D component."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from bt_jax import metrics
from bt_jax.schema import Slices

THRESHOLDS = np.arange(1, 20) / 20  # 0.05 to 0.95


def predict_masks(
  probabilities: Float[np.ndarray, "n height width"], slices: Slices, *, threshold: float, largest_component: bool
) -> Bool[np.ndarray, "n height width"]:
  """Masks where the probability is `threshold` or more, of each volume only the largest connected part if asked."""
  masks = probabilities >= threshold
  if largest_component:
    for case in np.unique(slices.case):
      places = np.flatnonzero(slices.case == case)
      places = places[np.argsort(slices.number[places])]
      masks[places] = largest_part(masks[places])
  return masks


def largest_part(volume: Bool[np.ndarray, "depth height width"]) -> Bool[np.ndarray, "depth height width"]:
  """The largest 26-connected component; of several as large, the first.

  >>> largest_part(np.array([[[1, 0, 1, 1]]], bool)).astype(int).tolist()
  [[[0, 0, 1, 1]]]
  """
  labels, found = ndimage.label(volume, structure=np.ones((3, 3, 3)))
  if found < 2:
    return volume
  return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def choose_threshold(
  probabilities: Float[np.ndarray, "n height width"], slices: Slices, *, largest_component: bool
) -> float:
  """The threshold of `THRESHOLDS` with the highest pooled Dice on these (validation) slices; of equals the middle one."""
  truth = slices.mask[..., 0] == 1
  scores = []
  for threshold in THRESHOLDS:
    masks = predict_masks(probabilities, slices, threshold=threshold, largest_component=largest_component)
    scores.append(metrics.dice(metrics.pool(metrics.count(masks, truth)), empty=1.0).item())
  best = np.flatnonzero(np.array(scores) == np.max(scores))
  return float(THRESHOLDS[best[len(best) // 2]])
