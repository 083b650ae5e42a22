import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from bt_jax import metrics

N = 16 * 16


def square(size, at=0):
  mask = np.zeros((1, 16, 16), bool)
  mask[:, at : at + size, at : at + size] = True
  return mask


# Prediction, truth, and TP, FP, FN by hand.
CASES = {
  "perfect": (square(4), square(4), (16, 0, 0)),
  "disjoint": (square(4), square(3, at=8), (0, 16, 9)),
  "overlapping": (square(4), square(4, at=2), (4, 12, 12)),
  "empty truth": (square(4), square(0), (0, 16, 0)),
  "empty prediction": (square(0), square(4), (0, 0, 16)),
  "both empty": (square(0), square(0), (0, 0, 0)),
  "both full": (square(16), square(16), (N, 0, 0)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("empty", [1.0, float("nan")])
def test_by_hand(case, empty):
  prediction, truth, (tp, fp, fn) = CASES[case]
  counts = metrics.count(prediction, truth)
  assert [int(part[0]) for part in counts] == [tp, fp, fn, N - tp - fp - fn]
  expected = {
    "dice": (2 * tp, 2 * tp + fp + fn),
    "iou": (tp, tp + fp + fn),
    "precision": (tp, tp + fp),
    "recall": (tp, tp + fn),
    "accuracy": (N - fp - fn, N),
  }
  expected |= {"si": expected["dice"], "f1": expected["dice"]}
  assert metrics.METRICS.keys() == expected.keys()
  for name, (numerator, denominator) in expected.items():
    value = empty if case == "both empty" else numerator / denominator if denominator else 0.0
    np.testing.assert_allclose(metrics.METRICS[name](counts, empty=empty), [value])


def test_random_masks_against_scikit_learn():
  rng = np.random.default_rng(0)
  prediction, truth = rng.random((6, 16, 16)) < 0.3, rng.random((6, 16, 16)) < 0.4
  counts = metrics.count(prediction, truth)
  peers = {
    "dice": sklearn_metrics.f1_score,
    "si": sklearn_metrics.f1_score,
    "f1": sklearn_metrics.f1_score,
    "iou": sklearn_metrics.jaccard_score,
    "precision": sklearn_metrics.precision_score,
    "recall": sklearn_metrics.recall_score,
    "accuracy": sklearn_metrics.accuracy_score,
  }
  for name, peer in peers.items():
    expected = [peer(t.ravel(), p.ravel()) for p, t in zip(prediction, truth, strict=True)]
    np.testing.assert_allclose(metrics.METRICS[name](counts, empty=1.0), expected)
    pooled = metrics.METRICS[name](metrics.pool(counts), empty=1.0)
    np.testing.assert_allclose(pooled, [peer(truth.ravel(), prediction.ravel())])


def test_iou_follows_from_dice():
  rng = np.random.default_rng(1)
  counts = metrics.count(rng.random((20, 16, 16)) < 0.5, rng.random((20, 16, 16)) < 0.5)
  dice, iou = metrics.dice(counts, empty=1.0), metrics.iou(counts, empty=1.0)
  np.testing.assert_allclose(iou, dice / (2 - dice))
