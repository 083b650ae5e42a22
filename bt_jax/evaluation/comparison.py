"""Two runs of one split, patient by patient: paired differences, their intervals and tests. All from rows."""

from typing import Any

import numpy as np
from scipy import stats

from bt_jax.evaluation import bootstrap
from bt_jax.evaluation.bootstrap import Numbers
from bt_jax.evaluation.records import Record


def differences(first: Numbers, second: Numbers, patients: int) -> dict[str, Any]:
  """Second minus first of every number, with its interval by bootstrap over patients, both of the same samples.

  Args:
    first: of one run's rows.
    second: of the other's, with the same patients in the same order.
    patients: how many.
  """

  def numbers(index: np.ndarray) -> dict[str, np.ndarray]:
    before, after = first(index), second(index)
    return {name: after[name] - value for name, value in before.items()}

  return bootstrap.estimate(numbers, patients)


def paired(first: list[Record], second: list[Record], column: str) -> dict[str, Any]:
  """One column of `patients.csv` in both runs, with Wilcoxon's signed-rank test of the differences.

  Args:
    first: of one run.
    second: of the other, the same patients in the same order.
    column: the name.

  Returns:
    `first_mean`, `second_mean`, the differences' `mean` and `median` with `_ci95`, how often the second is `higher`,
    `equal` and `lower`, and `p` (two-sided; None, with `why`, where there is nothing to test). Patients without a value
    in either run are left out; `patients` are those that are not.
  """
  pairs = [(one[column], two[column]) for one, two in zip(first, second, strict=True)]
  before, after = np.array([pair for pair in pairs if None not in pair], float).reshape(-1, 2).T
  if not len(before):
    names = ("first_mean", "second_mean", "mean", "mean_ci95", "median", "median_ci95", "p")
    return dict.fromkeys(names) | {"patients": 0, "higher": 0, "equal": 0, "lower": 0, "why": "no patient has a value"}
  change = after - before
  numbers = lambda index: {"mean": change[index].mean(-1), "median": np.median(change[index], -1)}
  p, why = None, None
  if len(change) == 1:
    why = "one patient only"
  elif not change.any():
    why = "no patient differs"
  else:
    p = float(stats.wilcoxon(change).pvalue)
  return {
    "patients": len(change),
    "first_mean": float(before.mean()),
    "second_mean": float(after.mean()),
    **bootstrap.estimate(numbers, len(change)),
    "higher": int((change > 0).sum()),
    "equal": int((change == 0).sum()),
    "lower": int((change < 0).sum()),
    "p": p,
    "why": why,
  }
