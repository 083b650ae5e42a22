"""Overlap metrics: pixels are counted first, then a formula is applied to the counts.

`empty` is the value where truth and prediction are both empty: 1.0, or nan to leave the pair out of a mean. Where only
the formula's own denominator is 0, the value is 0.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["METRICS", "Counts", "accuracy", "count", "dice", "iou", "pool", "precision", "recall"]


def __dir__() -> list[str]:
  return __all__


class Counts(NamedTuple):
  """Pixels by truth and prediction; arrays of one shape, one entry per slice, volume or pool, and class."""

  tp: Int[np.ndarray, "*shape"]
  fp: Int[np.ndarray, "*shape"]
  fn: Int[np.ndarray, "*shape"]
  tn: Int[np.ndarray, "*shape"]


def count(
  prediction: Bool[np.ndarray, "n height width *classes"], truth: Bool[np.ndarray, "n height width *classes"]
) -> Counts:
  """Counts per slice, and per class where masks have a class axis.

  Of four pixels the truth has two and the prediction two, one of which is right:

  >>> truth = numpy.array([[[True, True], [False, False]]])
  >>> prediction = numpy.array([[[True, False], [True, False]]])
  >>> [part.tolist() for part in bt_jax.metrics.count(prediction, truth)]  # true and false positives, and negatives
  [[1], [1], [1], [1]]
  """
  pixels = (1, 2)
  tp = (prediction & truth).sum(pixels)
  fp = prediction.sum(pixels) - tp
  fn = truth.sum(pixels) - tp
  return Counts(tp, fp, fn, prediction.shape[1] * prediction.shape[2] - tp - fp - fn)


def pool(counts: Counts) -> Counts:
  """The counts of all slices or volumes together, as one entry; classes stay apart.

  >>> one = numpy.array([1, 2])
  >>> bt_jax.metrics.pool(bt_jax.metrics.Counts(one, one, one, one)).tp.tolist()
  [3]
  """
  return Counts(*(part.sum(0, keepdims=True) for part in counts))


def _ratio(numerator: np.ndarray, denominator: np.ndarray, counts: Counts, empty: float) -> Float[np.ndarray, "*shape"]:
  value = numerator / np.maximum(denominator, 1)
  return np.where(counts.tp + counts.fp + counts.fn == 0, empty, value)


def dice(counts: Counts, *, empty: float) -> Float[np.ndarray, "*shape"]:
  """2 TP / (2 TP + FP + FN); the paper's DSC (eq. 9), and by the same formula its SI (eq. 11) and F1 (eq. 8).

  >>> counts = bt_jax.metrics.Counts(*numpy.array([[6, 0], [2, 0], [1, 0], [7, 16]]))
  >>> bt_jax.metrics.dice(counts, empty=1.0).tolist()  # 12 / 15, and an empty pair
  [0.8, 1.0]
  """
  return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn, counts, empty)


def iou(counts: Counts, *, empty: float) -> Float[np.ndarray, "*shape"]:
  """TP / (TP + FP + FN), Jaccard (eq. 10).

  >>> counts = bt_jax.metrics.Counts(*numpy.array([[6, 0], [2, 0], [1, 0], [7, 16]]))
  >>> bt_jax.metrics.iou(counts, empty=1.0).tolist()  # 6 / 9, and an empty pair  # doctest: +ELLIPSIS
  [0.666..., 1.0]
  """
  return _ratio(counts.tp, counts.tp + counts.fp + counts.fn, counts, empty)


def precision(counts: Counts, *, empty: float) -> Float[np.ndarray, "*shape"]:
  """TP / (TP + FP) (eq. 6).

  >>> counts = bt_jax.metrics.Counts(*numpy.array([[6, 0], [2, 0], [1, 0], [7, 16]]))
  >>> bt_jax.metrics.precision(counts, empty=1.0).tolist()  # 6 / 8, and an empty pair
  [0.75, 1.0]
  """
  return _ratio(counts.tp, counts.tp + counts.fp, counts, empty)


def recall(counts: Counts, *, empty: float) -> Float[np.ndarray, "*shape"]:
  """TP / (TP + FN), sensitivity (eq. 7).

  >>> counts = bt_jax.metrics.Counts(*numpy.array([[6, 0], [2, 0], [1, 0], [7, 16]]))
  >>> bt_jax.metrics.recall(counts, empty=1.0).tolist()  # 6 / 7, and an empty pair  # doctest: +ELLIPSIS
  [0.857..., 1.0]
  """
  return _ratio(counts.tp, counts.tp + counts.fn, counts, empty)


def accuracy(counts: Counts, *, empty: float) -> Float[np.ndarray, "*shape"]:
  """(TP + TN) / all pixels (eq. 5); an empty pair is always 1 or, with nan, left out.

  >>> counts = bt_jax.metrics.Counts(*numpy.array([[6, 0], [2, 0], [1, 0], [7, 16]]))
  >>> bt_jax.metrics.accuracy(counts, empty=1.0).tolist()  # 13 / 16, and an empty pair
  [0.8125, 1.0]
  """
  return _ratio(counts.tp + counts.tn, sum(counts), counts, empty)


# The names of the paper's tables; SI and F1 are Dice under other names.
METRICS = {
  "dice": dice,
  "iou": iou,
  "si": dice,
  "accuracy": accuracy,
  "precision": precision,
  "recall": recall,
  "f1": dice,
}
