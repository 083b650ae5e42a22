"""Two runs of one split, patient by patient: paired differences with intervals and tests, computed from records."""

from typing import Any

import numpy as np

from bt_jax.evaluation import bootstrap
from bt_jax.evaluation.bootstrap import Numbers
from bt_jax.evaluation.records import Record


def differences(first: Numbers, second: Numbers, patients: int) -> dict[str, Any]:
  """The difference of every statistic, second minus first, with its bootstrap interval over the same patient samples.

  Args:
    first: statistics of the first run.
    second: statistics of the second run, with the same patients in the same order.
    patients: number of patients.
  """

  def numbers(index: np.ndarray) -> dict[str, np.ndarray]:
    before, after = first(index), second(index)
    return {name: after[name] - value for name, value in before.items()}

  return bootstrap.estimate(numbers, patients)


def paired(first: list[Record], second: list[Record], column: str) -> dict[str, Any]:
  """Compares one column of `patients.csv` in both runs, with Wilcoxon's signed-rank test of the differences.

  Args:
    first: patient records of the first run.
    second: patient records of the second run, with the same patients in the same order.
    column: name of the column.

  Returns:
    `first_mean`, `second_mean`, the `mean` and `median` difference with `_ci95`, how often the second is `higher`,
    `equal` and `lower`, and `p` (two-sided; None, with the reason in `why`, if there is nothing to test). Patients that
    lack a value in one of the runs are left out; `patients` is the number of the others.
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
    from scipy import stats  # an import that takes half a second

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
