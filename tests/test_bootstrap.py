import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as peer

from bt_jax.evaluation import aggregation, bootstrap, class_statistics, records
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


@pytest.mark.parametrize("patients", [1, 2, 4])
def test_below_five_patients_there_is_no_interval_but_a_reason(patients):
  found = bootstrap.estimate(mean_of(np.arange(patients) + 3.0), patients)
  assert found["mean"] == pytest.approx(3 + (patients - 1) / 2) and found["mean_ci95"] is None
  assert "from 5 patients on" in bootstrap.about(patients)["why"]
  table = rows_of_patients(np.ones(patients), patients)
  assert class_statistics.summarize_classes(table, intervals=True)["accuracy_ci95"] is None  # nor an exact one


def test_few_patients_are_warned_of():
  found = bootstrap.estimate(mean_of(np.arange(5.0)), 5)
  assert found["mean_ci95"][0] < 2 < found["mean_ci95"][1] and "5 patients only" in bootstrap.about(5)["why"]
  assert bootstrap.about(110)["why"] is None


def rows_of_patients(correct, patients):
  """Two slices of each patient, one with a tumour and one without, classified so: 1 right, 0 wrong."""
  label = np.tile([1, 0], patients)
  right = np.repeat(correct, 2) == 1
  slices = make_slices(np.repeat(label, 4).reshape(-1, 2, 2), np.repeat(list("ABCDEFGHIJKL"[:patients]), 2).tolist())
  predicted = np.where(right, label, 1 - label)
  return class_statistics.class_rows(slices, predicted.astype(float), predicted == 1, data="d", split="s")


@pytest.mark.parametrize("right", [1, 0])
def test_a_share_of_all_or_none_has_the_exact_interval(right):
  """P(all n right) = p^n, so that the bound of n of n is the p at which this is .025; for 0 of n it is mirrored."""
  bound = 0.025 ** (1 / 7)
  expected = [bound, 1] if right else [0, 1 - bound]
  found = class_statistics.summarize_classes(rows_of_patients(np.full(7, right), 7), intervals=True)
  for group, name in ((found, "accuracy"), (found, "specificity"), (found["per_class"]["tumor"], "recall")):
    assert group[name] == right and group[f"{name}_ci95"] == pytest.approx(expected)
  some = np.arange(7) != 3
  found = class_statistics.summarize_classes(rows_of_patients(some, 7), intervals=True)
  assert found["accuracy_ci95"][1] == 1 and found["accuracy_ci95"][0] < 6 / 7  # a bootstrap, as ever


def test_only_patients_that_count_in_a_share_count_in_its_exact_interval():
  """Ten patients of whom six have a tumour, all found: six of six; the empty slices of all ten stay empty: 0 of 10."""
  truth = np.zeros((20, 2, 2), int)
  truth[:12:2] = 1
  slices = make_slices(truth, np.repeat(list("ABCDEFGHIJ"), 2).tolist())
  masks = truth[..., None] == 1
  table = records.slice_records(slices, masks.any((1, 2, 3)).astype(float), masks, data="d", split="s", classes=("t",))
  found = aggregation.summarize(table, intervals=True)["detection"]
  assert found["sensitivity_ci95"] == pytest.approx([0.025 ** (1 / 6), 1])
  assert found["false_positive_rate_ci95"] == pytest.approx([0, 1 - 0.025 ** (1 / 10)])
  four = aggregation.summarize([row for row in table if row["patient"][-1] not in "AB"], intervals=True)["detection"]
  assert four["sensitivity"] == 1 and four["sensitivity_ci95"] is None  # eight patients, four with a tumour


def test_what_has_no_value_is_none_and_never_nan():
  nothing = lambda index: {"share": bootstrap.share(np.zeros(index.shape[:-1]), np.zeros(index.shape[:-1]))}
  assert bootstrap.estimate(nothing, 5) == {"share": None, "share_ci95": None}
  # Defined for the whole, but for only 1 - (4/5)^5 = 67 % of the samples: too few to tell an interval.
  only_one = lambda index: {"share": bootstrap.share(np.ones(index.shape[:-1]), (index == 0).sum(-1))}
  assert bootstrap.estimate(only_one, 5) == {"share": 1, "share_ci95": None}


def test_patients_are_drawn_and_not_slices():
  """Five patients, one of them all wrong: of the samples of five, a third has none of it and a third one of it.

  With as many independent slices the interval would be narrow; over patients the lowest sample in forty misses at least half.
  """
  truth = np.ones((500, 2, 2), int)
  masks = np.ones((500, 2, 2), bool)
  masks[:100] = False
  slices = make_slices(truth, "".join(letter * 100 for letter in "ABCDE"))
  table = records.slice_records(
    slices, masks.any((1, 2)).astype(np.float32), masks[..., None], data="d", split="s", classes=("tumor",)
  )
  found = aggregation.summarize(table, intervals=True)
  assert found["slice"]["dice_nonempty_truth"] == 0.8
  # Of 5 draws k are of the wrong patient: binomial with 1/5; P(k >= 4) = .0067 and P(k >= 3) = .058, so 2.5 % is k = 3.
  expected = [pytest.approx(2 / 5), 1]
  assert found["slice"]["dice_nonempty_truth_ci95"] == expected
  assert found["patient"]["dice_mean_ci95"] == expected and found["detection"]["sensitivity_ci95"] == expected


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
  table = rows_of_patients(np.array([1, 0, 1, 1, 0, 1]), 6)
  found = class_statistics.summarize_classes(table, intervals=True)
  low, high = found["accuracy_ci95"]
  assert found["accuracy"] == pytest.approx(4 / 6) and 0 < low < found["accuracy"] < high == 1
  assert found["per_class"]["tumor"]["support"] == 6 and "support_ci95" not in found["per_class"]["tumor"]
