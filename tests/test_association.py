import dataclasses

import numpy as np
import pytest
from scipy import stats

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.evaluation.shape import FEATURES
from bt_jax.paper.genes import GROUPINGS, associations, fisher_exact, holm, known


def patients(values, clusters, prefix="truth_"):
  """Rows in which every feature has these values, and every grouping these clusters."""
  return [
    {f"{prefix}{feature}": value for feature in FEATURES} | dict.fromkeys(GROUPINGS, cluster)
    for value, cluster in zip(values, clusters, strict=True)
  ]


def test_groupings_are_those_of_the_file():
  assert GROUPINGS == (
    "RNASeqCluster", "MethylationCluster", "miRNACluster", "CNCluster", "RPPACluster", "OncosignCluster", "COCCluster",
  )  # fmt: skip


def test_columns_of_a_users_table_are_text_and_no_codes_of_clusters():
  assert known(INFO) and not known(dataclasses.replace(INFO, name="own", patient_fields=GROUPINGS))


@pytest.mark.parametrize("seed", range(10))
def test_two_columns_equal_scipy(seed):
  table = np.random.default_rng(seed).integers(0, 15, (2, 2))
  assert fisher_exact(table) == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_four_columns_equal_monte_carlo(seed):
  rng = np.random.default_rng(seed)
  table = rng.integers(1, 9, (2, 4))
  samples = 20_000
  peer = stats.fisher_exact(table, method=stats.MonteCarloMethod(n_resamples=samples, rng=rng)).pvalue
  assert fisher_exact(table) == pytest.approx(peer, abs=4 * (peer * (1 - peer) / samples) ** 0.5 + 1 / samples)


def test_by_hand():
  # Three groups of 2, three of the six above, in C(6, 3) = 20 ways: one of each group in 8 of them, else 2, 1 and 0.
  assert fisher_exact(np.array([[1, 1, 1], [1, 1, 1]])) == pytest.approx(1)
  assert fisher_exact(np.array([[2, 1, 0], [0, 1, 2]])) == pytest.approx(12 / 20)
  # Two groups of 3, wholly apart, and the mirrored table: 2 of 20.
  assert fisher_exact(np.array([[3, 0], [0, 3]])) == pytest.approx(2 / 20)


def test_order_and_empty_columns_change_nothing():
  table = np.array([[9, 2, 5, 1], [3, 8, 4, 2]])
  p = fisher_exact(table)
  assert 0 < p < 1
  assert fisher_exact(table[:, [2, 0, 3, 1]]) == pytest.approx(p)
  assert fisher_exact(table[::-1].copy()) == pytest.approx(p)
  assert fisher_exact(np.insert(table, [0, 2], 0, axis=1)) == pytest.approx(p)


@pytest.mark.parametrize("table", [[[3, 4], [0, 0]], [[0, 3], [0, 4]], [[2], [3]], [[0, 0], [0, 0]]])
def test_only_one_table_is_possible(table):
  assert fisher_exact(np.array(table)) == pytest.approx(1)


def test_five_clusters_of_all_patients():
  # Independent to the patient: the likeliest table of all.
  assert fisher_exact(np.full((2, 5), 11)) == pytest.approx(1)


def test_holm_by_hand():
  # Sorted .01, .02, .03, .4: times 4, 3, 2, 1 is .04, .06, .06, .4.
  assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
  assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # .04 alone is below the one before
  assert holm([0.9, 0.8]) == [1, 1]
  assert holm([0.02]) == [0.02]
  assert holm([]) == []


def test_perfect_association():
  # 20 patients, of which those above the median are one cluster: 2 of C(20, 10) = 184756 tables. There are 21 tests.
  found = associations(patients(range(20), [1] * 10 + [2] * 10), "truth_")
  assert [(row["feature"], row["grouping"]) for row in found] == [(f, g) for f in FEATURES for g in GROUPINGS]
  for row in found:
    assert (row["patients"], row["clusters"], row["above"], row["not_above"]) == (20, [1, 2], [0, 10], [10, 0])
    assert row["p"] == pytest.approx(2 / 184756)
    assert row["p_holm"] == pytest.approx(21 * 2 / 184756)
    assert row["why"] is None


def test_no_association():
  for row in associations(patients(range(20), [3, 1, 1, 3] * 5), "truth_"):
    assert (row["clusters"], row["above"], row["not_above"]) == ([1, 3], [5, 5], [5, 5])
    assert [row["p"], row["p_holm"]] == pytest.approx([1, 1])


def test_one_grouping_among_unrelated_ones():
  rows = patients(range(20), [1, 2] * 10)
  for at, row in enumerate(rows):
    row["COCCluster"] = 1 + (at >= 10)
  found = {(row["feature"], row["grouping"]): row["p_holm"] for row in associations(rows, "truth_")}
  assert {grouping for (_, grouping), p in found.items() if p < 0.05} == {"COCCluster"}


def test_holm_counts_the_tests_that_can_be_done():
  rows = patients(range(20), [1] * 10 + [2] * 10)
  for at, row in enumerate(rows):
    row |= {"truth_ellipsoid_ratio": None, "CNCluster": -1, "COCCluster": 1 + at % 2}
  p = 2 / 184756  # of two features by five groupings; two more tests, of COC, have p = 1
  for row in associations(rows, "truth_"):
    if row["feature"] == "ellipsoid_ratio" or row["grouping"] == "CNCluster":
      assert row["p"] is None and row["p_holm"] is None
    else:
      expected = [1, 1] if row["grouping"] == "COCCluster" else [p, 12 * p]
      assert [row["p"], row["p_holm"]] == pytest.approx(expected)


def test_unknown_clusters_and_missing_values_are_left_out():
  # The median is over 1 to 7, with or without a cluster: 4, which is not above.
  rows = patients([1, 2, 3, 4, 5, 6, 7, None], [1, 2, -1, 1, 2, 2, -1, 1])
  for row in associations(rows, "truth_"):
    assert (row["patients"], row["clusters"], row["above"], row["not_above"]) == (5, [1, 2], [0, 2], [2, 1])
    assert row["p"] == pytest.approx(4 / 10)  # C(5, 2) = 10 pairs above; 3 are both of cluster 2, 1 both of cluster 1


@pytest.mark.parametrize(
  ("values", "clusters", "why"),
  [
    ([1, 2, 3], [-1, -1, -1], "fewer than two clusters"),
    ([1, 2, 3], [2, 2, -1], "fewer than two clusters"),
    ([None, None], [1, 2], "fewer than two clusters"),
    ([], [], "fewer than two clusters"),
    ([5, 5, 5], [1, 2, 3], "one side of the median"),
  ],
)
def test_nothing_to_test(values, clusters, why):
  for row in associations(patients(values, clusters), "truth_"):
    assert row["p"] is None and row["p_holm"] is None
    assert why in row["why"]


def test_prefix_chooses_the_masks():
  clusters = [1] * 4 + [2] * 4
  truth = patients([0, 5, 1, 6, 2, 7, 3, 4], clusters)
  prediction = patients(range(8), clusters, prefix="prediction_")
  rows = [one | other for one, other in zip(truth, prediction, strict=True)]
  assert all(row["p"] == pytest.approx(2 / 70) for row in associations(rows, "prediction_"))  # C(8, 4) = 70
  assert all(row["p"] == pytest.approx(1) for row in associations(rows, "truth_"))
