"""Statistics with intervals over patients, as slices of one patient are correlated: bootstrap, or exact for 0 and n of n."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bt_jax.evaluation.records import Record

LEVEL = 0.95
RESAMPLES = 2000
_DOT = "\0"  # stands for a dot within the name of a group
FEWEST = 5  # patients; with fewer, there is no interval
FEW = 10  # patients; with fewer, an interval is not reliable
# Maps the patients of each sample, with repeats, to the statistics of the samples; nan where one has no value.
Numbers = Callable[[Int[np.ndarray, "samples patients"]], dict[str, Float[np.ndarray, " samples"]]]


def estimate(
  numbers: Numbers, patients: int, *, intervals: bool = True, is_share: Callable[[str], bool] = lambda name: False
) -> dict[str, Any]:
  """Every statistic over all patients and, as `<name>_ci95`, its interval over patients.

  Args:
    numbers: see `Numbers`; names of `dotted`, such as `pooled.dice`, become nested dictionaries.
    patients: number of patients.
    intervals: whether to compute intervals.
    is_share: whether a statistic, by its dotted name, is a share of counted things such as slices; one that is 0 or 1 has
      the exact interval of `exact_interval` for as many patients as have any of these things.

  Returns:
    Floats, or None for a statistic without a value. An interval is [low, high], from a percentile bootstrap unless
    exact; it is None below `FEWEST` patients, and if more than one sample in twenty has no value. All statistics share
    the same seeded samples.
  """
  flat: dict[str, Any] = {}
  enough = intervals and patients >= FEWEST
  drawn = _drawn(numbers, patients) if enough else {}
  alone = numbers(np.arange(patients)[:, None]) if enough else {}
  for name, (value,) in numbers(np.arange(patients)[None]).items():
    flat[name] = None if np.isnan(value) else float(value)
    if not intervals:
      continue
    if enough and is_share(name) and value in (0, 1):
      flat[f"{name}_ci95"] = exact_interval(bool(value), int(np.isfinite(alone[name]).sum()))
    else:
      flat[f"{name}_ci95"] = None if flat[name] is None else _interval(drawn.get(name))
  return _nested(flat)


def exact_interval(all_of_them: bool, patients: int) -> list[float] | None:
  """The Clopper-Pearson interval of 0 of n or n of n patients (Clopper and Pearson 1934), where a bootstrap has no width.

  It holds for the mean of any n independent values in 0..1 that are all 0 or all 1. None below `FEWEST` patients.

  >>> low, high = exact_interval(True, 10)
  >>> round(low, 4), high  # the tenth root of .025, and 1
  (0.6915, 1.0)
  """
  if patients < FEWEST:
    return None
  from scipy import stats  # an import that takes half a second, and predictions do not need it

  exact = stats.binomtest(patients * all_of_them, patients).proportion_ci(LEVEL, method="exact")
  return [float(exact.low), float(exact.high)]


def about(patients: int, *, shares: bool = True) -> dict[str, Any]:
  """How the intervals over so many patients were made, for `summary.json`; `why` says why there are none, or warns, or is None.

  Args:
    patients: number of patients.
    shares: whether there are shares of counted things among the statistics, see `estimate`.
  """
  why = None
  if patients < FEWEST:
    counted = "one patient" if patients == 1 else f"{patients} patients"
    why = f"{counted} only: intervals are given from {FEWEST} patients on"
  elif patients < FEW:
    why = f"{patients} patients only: these intervals are too narrow to rely on"
  return {
    "level": LEVEL,
    "method": "percentile bootstrap over patients",
    **({"exact": "a share of 0 or 1: Clopper-Pearson over the patients that count in it"} if shares else {}),
    "resamples": RESAMPLES,
    "patients": patients,
    "why": why,
  }


def by_patient(rows: list[Record], columns: dict[str, np.ndarray]) -> dict[str, Float[np.ndarray, " patients"]]:
  """Sums each column, which is as long as `rows`, over the rows of each patient, in order of first appearance."""
  names = [row["patient"] for row in rows]
  index_of = {name: index for index, name in enumerate(dict.fromkeys(names))}
  patient = np.array([index_of[name] for name in names])
  return {name: np.bincount(patient, weights=column, minlength=len(index_of)) for name, column in columns.items()}


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """`part / whole`, or nan where `whole` is 0."""
  return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) != 0)


def _drawn(numbers: Numbers, patients: int) -> dict[str, Float[np.ndarray, " resamples"]]:
  from scipy import stats  # see above

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


def _interval(drawn: Float[np.ndarray, " resamples"] | None) -> list[float] | None:
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
