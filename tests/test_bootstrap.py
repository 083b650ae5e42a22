import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as peer

from bt_jax.evaluation import aggregation, bootstrap, class_statistics, records
from tests.helpers.class_rows import rows_of
from tests.helpers.slices import make_slices


def mean_of(values):
  return lambda index: {"mean": values[index].mean(-1), "group.median": np.median(values[index], -1)}


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
  values = np.random.default_rng(0).normal(10, 2, 400)
  found = bootstrap.estimate(mean_of(values), 400)
  assert found["mean"] == pytest.approx(values.mean())
  low, high = found["mean_ci95"]
  half = 1.96 * values.std(ddof=1) / np.sqrt(400)
  assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
  assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
  peers = stats.bootstrap((values,), np.median, method="percentile", rng=np.random.default_rng(1)).confidence_interval
  assert found["group"]["median_ci95"] == pytest.approx([peers.low, peers.high], abs=0.05)
  assert found == bootstrap.estimate(mean_of(values), 400)  # seeded


def test_one_patient_has_no_interval_and_few_give_a_warning():
  found = bootstrap.estimate(mean_of(np.array([3.0])), 1)
  assert found["mean"] == 3 and found["mean_ci95"] is None
  assert "no interval" in bootstrap.about(1)["why"] and "5 patients only" in bootstrap.about(5)["why"]
  assert bootstrap.about(110)["why"] is None


def test_what_has_no_value_is_none_and_never_nan():
  nothing = lambda index: {"share": bootstrap.share(np.zeros(index.shape[:-1]), np.zeros(index.shape[:-1]))}
  assert bootstrap.estimate(nothing, 5) == {"share": None, "share_ci95": None}
  # Defined for the whole, but for only 1 - (4/5)^5 = 67 % of the samples: too few to tell an interval.
  only_one = lambda index: {"share": bootstrap.share(np.ones(index.shape[:-1]), (index == 0).sum(-1))}
  assert bootstrap.estimate(only_one, 5) == {"share": 1, "share_ci95": None}


def test_patients_are_drawn_and_not_slices():
  """Two patients, one all right and one all wrong: any mean over a sample of two is 0, .5 or 1, however many slices."""
  truth = np.ones((200, 2, 2), int)
  masks = np.zeros((200, 2, 2), bool)
  masks[:100] = True
  slices = make_slices(truth, "A" * 100 + "B" * 100)
  table = records.slice_records(
    slices, masks.any((1, 2)).astype(np.float32), masks[..., None], data="d", split="s", classes=("tumor",)
  )
  found = aggregation.summarize(table, intervals=True)
  assert found["slice"]["dice_nonempty_truth"] == 0.5 and found["slice"]["dice_nonempty_truth_ci95"] == [0, 1]
  assert found["patient"]["dice_mean_ci95"] == [0, 1] and found["detection"]["sensitivity_ci95"] == [0, 1]
  assert found["pooled"]["dice"] == pytest.approx(2 / 3)


def test_ranking_of_every_sample_is_scikit_learns():
  rng = np.random.default_rng(0)
  label = rng.integers(0, 2, 60)
  score = np.round(np.clip(0.3 * label + 0.7 * rng.random(60), 0, 1), 1).astype(np.float32)  # with ties
  slices = make_slices(np.repeat(label, 4).reshape(-1, 2, 2), "ABCDEF" * 10)
  table = class_statistics.class_rows(slices, score, score > 0.5, data="d", split="s")
  index = rng.integers(0, 6, (20, 6))
  found = class_statistics.ranking(table)(index)
  for at, drawn in enumerate(index):
    members = np.concatenate([np.arange(patient, 60, 6) for patient in drawn])
    assert found["roc_auc"][at] == pytest.approx(peer.roc_auc_score(label[members], score[members]))
    assert found["average_precision"][at] == pytest.approx(peer.average_precision_score(label[members], score[members]))


def test_intervals_of_a_classifier_hold_its_numbers():
  found = class_statistics.summarize_classes(rows_of(), intervals=True)
  low, high = found["accuracy_ci95"]
  assert low == pytest.approx(1 / 3) and high == 1 and low <= found["accuracy"] <= high  # patient B 1/3, patient A all
  assert found["per_class"]["tumor"]["support"] == 3 and "support_ci95" not in found["per_class"]["tumor"]
