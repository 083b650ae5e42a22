"""Statistics with bootstrap intervals: slices of one patient are correlated, so patients are resampled."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from bt_jax.evaluation.records import Record

LEVEL = 0.95
RESAMPLES = 2000
_DOT = "\0"  # stands for a dot within the name of a group
FEW = 10  # patients; with fewer, an interval is not reliable
# Maps the patients of each sample, with repeats, to the statistics of the samples; nan where one has no value.
Numbers = Callable[[Int[np.ndarray, "samples patients"]], dict[str, Float[np.ndarray, "samples"]]]


def estimate(numbers: Numbers, patients: int, *, intervals: bool = True) -> dict[str, Any]:
  """Every statistic over all patients and, as `<name>_ci95`, its percentile bootstrap interval over patients.

  Args:
    numbers: see `Numbers`; names of `dotted`, such as `pooled.dice`, become nested dictionaries.
    patients: number of patients.
    intervals: whether to compute intervals.

  Returns:
    Floats, or None for a statistic without a value. An interval is [low, high]; it is None if there is only one
    patient, or if more than one sample in twenty has no value. All statistics share the same seeded samples.
  """
  flat: dict[str, Any] = {}
  drawn = _drawn(numbers, patients) if intervals and patients > 1 else {}
  for name, (value,) in numbers(np.arange(patients)[None]).items():
    flat[name] = None if np.isnan(value) else float(value)
    if intervals:
      flat[f"{name}_ci95"] = None if flat[name] is None else _interval(drawn.get(name))
  return _nested(flat)


def about(patients: int) -> dict[str, Any]:
  """How the intervals over so many patients were made, for `summary.json`; `why` is a warning about them, or None."""
  why = f"{patients} patients only: these intervals are too narrow to rely on"
  if patients == 1:
    why = "one patient only: there is no interval over patients"
  return {
    "level": LEVEL,
    "method": "percentile bootstrap over patients",
    "resamples": RESAMPLES,
    "patients": patients,
    "why": why if patients < FEW else None,
  }


def by_patient(rows: list[Record], columns: dict[str, np.ndarray]) -> dict[str, Float[np.ndarray, "patients"]]:
  """Sums each column, which is as long as `rows`, over the rows of each patient, in order of first appearance."""
  names = [row["patient"] for row in rows]
  index_of = {name: index for index, name in enumerate(dict.fromkeys(names))}
  patient = np.array([index_of[name] for name in names])
  return {name: np.bincount(patient, weights=column, minlength=len(index_of)) for name, column in columns.items()}


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """`part / whole`, or nan where `whole` is 0."""
  return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) != 0)


def _drawn(numbers: Numbers, patients: int) -> dict[str, Float[np.ndarray, "resamples"]]:
  names = list(numbers(np.arange(patients)[None]))

  def statistic(index: np.ndarray, axis: int) -> np.ndarray:
    sample = numbers(index.reshape(-1, patients))
    return np.reshape([sample[name] for name in names], (len(names), *index.shape[:-1]))

  with warnings.catch_warnings():
    warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # samples without a value are reported by `_interval`
    result = stats.bootstrap(
      (np.arange(patients),),
      statistic,
      n_resamples=RESAMPLES,
      batch=500,
      vectorized=True,
      method="percentile",
      confidence_level=LEVEL,
      rng=np.random.default_rng(0),
    )
  return dict(zip(names, result.bootstrap_distribution, strict=True))


def _interval(drawn: Float[np.ndarray, "resamples"] | None) -> list[float] | None:
  if drawn is None or np.isnan(drawn).mean() > 0.05:
    return None
  return [float(edge) for edge in np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def dotted(*keys: str) -> str:
  """The name of a statistic in groups: their names and its own; a group's name may have dots, as `grade 1.5`."""
  return ".".join(key.replace(".", _DOT) for key in keys)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
  nested: dict[str, Any] = {}
  for name, value in flat.items():
    *groups, last = (key.replace(_DOT, ".") for key in name.split("."))
    group_of = nested
    for group in groups:
      group_of = group_of.setdefault(group, {})
    group_of[last] = value
  return nested
