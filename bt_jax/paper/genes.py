"""Exact tests for an association of shape features with the genomic clusters of patients.

SciPy draws tables larger than 2 x 2 at random for its p-value; these are small enough that all of them are enumerated.
"""

import statistics
from typing import Any

import numpy as np
from jaxtyping import Int

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri.constants import GENOMIC_CLUSTERS, UNKNOWN
from bt_jax.datasets.registry import groups_of
from bt_jax.evaluation.shape import FEATURES

# Buda et al.'s groups by IDH mutation and 1p/19q co-deletion are not in the file.
GROUPINGS = GENOMIC_CLUSTERS
_SAME = 1 + 1e-7  # tolerance for tables that are as likely as the observed one up to rounding


def known(info: DatasetInfo) -> bool:
  """Whether a data set says to which genomic clusters its patients belong, as codes rather than a user's own text."""
  return groups_of(info).codes >= {*GROUPINGS}


def associations(rows: list[dict[str, Any]], prefix: str) -> list[dict[str, Any]]:
  """Fisher's exact test of every shape feature against every genomic grouping.

  Buda et al. 2019 (arXiv:1906.03720) test ten such pairs, with Bonferroni's correction. A feature is dichotomised at
  its median over all patients that have it: above, and not above. A test uses the patients whose feature and cluster
  are both known. Holm's correction is over all tests that can be done.

  Args:
    rows: one row per patient, with columns prefix + `FEATURES` (None: no value) and `GROUPINGS` (-1: not known).
    prefix: prefix of the features' columns, such as `truth_`.

  Returns:
    One entry per feature and grouping: feature, grouping, patients, clusters (those that occur, sorted), above and
    not_above (patients by cluster), p and p_holm (None if nothing can be tested), and why (the reason for that, or
    None).
  """
  tests = [
    {"feature": feature, "grouping": grouping} | _test(rows, f"{prefix}{feature}", grouping)
    for feature in FEATURES
    for grouping in GROUPINGS
  ]
  adjusted = iter(holm([test["p"] for test in tests if test["p"] is not None]))
  return [test | {"p_holm": None if test["p"] is None else next(adjusted)} for test in tests]


def _test(rows: list[dict[str, Any]], column: str, grouping: str) -> dict[str, Any]:
  """Patients, clusters, the table of counts, and p or the reason why there is none."""
  valued = [row for row in rows if row[column] is not None]
  known = [row for row in valued if row[grouping] != UNKNOWN]
  clusters = sorted({row[grouping] for row in known})
  median = statistics.median(row[column] for row in valued) if valued else None
  table = [
    [sum(row[grouping] == cluster and (row[column] > median) == side for row in known) for cluster in clusters]
    for side in (True, False)
  ]
  if len(clusters) < 2:
    why = "fewer than two clusters have patients whose shape is known"
  elif not all(map(any, table)):
    why = "all patients with a known cluster are on one side of the median"
  else:
    why = None
  return {
    "patients": len(known),
    "clusters": clusters,
    "above": table[0],
    "not_above": table[1],
    "p": fisher_exact(np.array(table)) if why is None else None,
    "why": why,
  }


def fisher_exact(table: Int[np.ndarray, "2 groups"]) -> float:
  """Two-sided exact test of independence for a table of two rows.

  The probability, given the row and column sums, of all tables that are no more likely than this one (Freeman and
  Halton 1951, doi:10.1093/biomet/38.1-2.141); for two columns this is Fisher's exact test. All tables are enumerated:
  some 10^5 for five columns of 22. If only one row or column is nonzero, the result is 1, as no other table is
  possible.
  """
  from scipy import stats  # an import that takes half a second

  table = table[:, table.any(0)]
  observed, columns = table[0], table.sum(0)
  if len(columns) < 2:
    return 1.0
  heads = np.stack(np.meshgrid(*(np.arange(size + 1) for size in columns[:-1]), indexing="ij"), axis=-1)
  heads = heads.reshape(-1, len(columns) - 1)
  # The probability is 0 where the last column would be negative or too large.
  first_rows = np.column_stack([heads, observed.sum() - heads.sum(1)])
  probability = stats.multivariate_hypergeom.pmf(first_rows, columns, observed.sum())
  limit = stats.multivariate_hypergeom.pmf(observed, columns, observed.sum())
  return float(min(1.0, probability[probability <= limit * _SAME].sum()))


def holm(p: list[float]) -> list[float]:
  """Holm-adjusted p-values, in the order given (Holm 1979, Scandinavian Journal of Statistics 6, 65-70).

  The smallest of n is multiplied by n, the next by n - 1, and so on; each is at least as large as the one before, and
  at most 1.
  """
  order = np.argsort(p, kind="stable")
  adjusted = np.empty(len(p))
  adjusted[order] = np.maximum.accumulate(np.minimum(1, np.take(p, order) * np.arange(len(p), 0, -1)))
  return adjusted.tolist()
