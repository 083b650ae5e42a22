import numpy as np
import pytest

from bt_jax.evaluation import aggregation, postprocess, records
from bt_jax.schema import Predicted, Tumor
from tests.helpers.slices import PROBABILITY, TRUTH, make_slices


@pytest.fixture
def table():
  slices = make_slices(TRUTH, "AAABBB")
  masks = postprocess.predict_masks(PROBABILITY[..., None], slices, threshold=0.5, largest_component=False)
  return records.slice_records(
    slices, PROBABILITY.max((1, 2)), masks, data="made up", split="by hand", classes=("tumor",)
  )


def test_slice_rows_by_hand(table):
  counts = [(row["tp"], row["fp"], row["fn"], row["tn"]) for row in table]
  assert counts == [(2, 0, 0, 2), (1, 1, 1, 1), (0, 0, 0, 4), (0, 0, 4, 0), (0, 1, 0, 3), (3, 0, 0, 1)]
  assert [row["label"] for row in table] == [1, 1, 0, 1, 0, 1]
  np.testing.assert_allclose([row["probability"] for row in table], [0.9, 0.9, 0.3, 0.4, 0.7, 0.9])
  assert [(row["case"], row["slice"]) for row in table][3] == ("TCGA_XX_B_20000101", 1)
  assert all((row["data"], row["split"]) == ("made up", "by hand") for row in table)


def test_patient_rows_by_hand(table):
  a, b = records.patient_records(table)
  assert (a["patient"], a["slices"], a["tumor_slices"], a["tp"], a["fp"], a["fn"], a["tn"]) == (
    "TCGA_XX_A",
    3,
    2,
    3,
    1,
    1,
    7,
  )
  assert (b["patient"], b["slices"], b["tumor_slices"], b["tp"], b["fp"], b["fn"], b["tn"]) == (
    "TCGA_XX_B",
    3,
    2,
    3,
    1,
    4,
    4,
  )
  assert a["dice"] == pytest.approx(6 / 8) and b["iou"] == pytest.approx(3 / 8)


def test_summary_by_hand(table):
  summary = aggregation.summarize(table)
  assert (summary["slices"], summary["tumor_slices"], summary["patients"]) == (6, 4, 2)
  assert summary["pooled"]["dice"] == pytest.approx(12 / (12 + 2 + 5))
  assert summary["pooled"]["accuracy"] == pytest.approx((6 + 11) / 24)
  assert summary["patient"]["dice_mean"] == pytest.approx((6 / 8 + 6 / 11) / 2)
  assert summary["patient"]["recall_median"] == pytest.approx((3 / 4 + 3 / 7) / 2)
  assert summary["slice"]["dice_empty_is_one"] == pytest.approx((1 + 0.5 + 1 + 0 + 0 + 1) / 6)
  assert summary["slice"]["dice_nonempty_truth"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
  assert summary["slice"]["precision_nonempty_truth"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
  assert all(0 <= aggregation.score_of(summary, name) <= 1 for name in aggregation.SCORES)
  assert aggregation.score_of(summary, "patient.dice_mean") == summary["patient"]["dice_mean"]


def test_a_part_without_any_tumour():
  slices = make_slices(np.zeros((2, 2, 2)), "AB")
  masks = np.zeros((2, 2, 2, 1), bool)
  rows = records.slice_records(slices, np.zeros(2), masks, data="d", split="s", classes=("tumor",))
  summary = aggregation.summarize(rows)
  assert summary["pooled"]["dice"] == summary["patient"]["dice_mean"] == summary["slice"]["dice_empty_is_one"] == 1
  assert summary["slice"]["dice_nonempty_truth"] is None


def test_largest_component_is_three_dimensional_and_by_volume_of_the_case():
  volume = np.zeros((3, 8, 8), bool)
  volume[0, 0, 0] = volume[1, 1, 1] = volume[2, 2, 2] = True  # three pixels, joined by corners across slices
  volume[1, 5, 5:7] = True  # two pixels
  kept = postprocess.largest_part(volume)
  assert kept.sum() == 3 and not kept[1, 5].any()
  assert not postprocess.largest_part(np.zeros((2, 4, 4), bool)).any()
  # Slices of two cases in turn: each case has its own largest part.
  both = np.stack([volume[0], volume[1] & False, volume[1], np.eye(8) > 0, volume[2], volume[1] & False])
  slices = make_slices(both, "ABABAB")
  masks = postprocess.predict_masks(both[..., None].astype(np.float32), slices, threshold=0.5, largest_component=True)
  assert masks[[0, 2, 4]].sum() == 3 and masks[3].sum() == 8


def test_threshold_is_the_best_on_the_slices_given():
  rng = np.random.default_rng(0)
  truth = rng.random((4, 16, 16)) < 0.3

  def predicted(probability):  # the volumes one after another
    pairs = [
      (make_slices(truth[part], case), probability[part, ..., None])
      for part, case in ((slice(2), "AA"), (slice(2, 4), "BB"))
    ]
    return [Predicted(slices, Tumor(pixels, pixels.max((1, 2, 3)))) for slices, pixels in pairs]

  probability = np.where(truth, rng.uniform(0.62, 1, truth.shape), rng.uniform(0, 0.58, truth.shape)).astype(np.float32)
  assert postprocess.choose_threshold(predicted(probability), largest_component=False) == pytest.approx(0.6)
  # Perfect between 0.2 and 0.8: the middle of the equals.
  probability = np.where(truth, 0.82, 0.18).astype(np.float32)
  assert postprocess.choose_threshold(predicted(probability), largest_component=False) == pytest.approx(0.5)
