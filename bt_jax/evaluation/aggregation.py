"""From records to a summary: over pooled pixels, patient volumes and slices, each with its rule for empty masks."""

import functools
from typing import Any

import numpy as np

from bt_jax import metrics
from bt_jax.evaluation import bootstrap, outline
from bt_jax.evaluation.bootstrap import Numbers, by_patient, share
from bt_jax.evaluation.records import DISTANCES, Record, by_class, counts_of, of_any_class

# The rule for slices with an empty ground truth, by the ending of the key.
EMPTY_RULES = {
  "empty_is_one": "a slice empty in truth and prediction counts 1",
  "nonempty_truth": "slices with a tumour only",
}


def summarize(rows: list[Record], *, intervals: bool = False) -> dict[str, Any]:
  """Overlap and detection for one subset of a split, from the records of its slices.

  Two patients, with one and two slices; Dice is 2 tp / (2 tp + fp + fn):

  >>> cells = [("A", 1, 4, 0, 4, 92), ("B", 1, 6, 0, 0, 94), ("B", 0, 0, 4, 0, 96)]
  >>> rows = [dict(zip(("patient", "label", "tp", "fp", "fn", "tn"), cell)) for cell in cells]
  >>> summary = summarize(rows)
  >>> round(summary["pooled"]["dice"], 4)  # 20 / (20 + 4 + 4)
  0.7143
  >>> round(summary["patient"]["dice_mean"], 4)  # the mean of 8 / 12 and 12 / 16
  0.7083
  >>> summary["detection"]["sensitivity"], summary["detection"]["false_positive_rate"]
  (1.0, 1.0)

  Args:
    rows: the records of `records.slice_records`.
    intervals: whether to add `<statistic>_ci95` for each statistic, see `bootstrap.estimate`.

  Returns:
    `slices`, `tumor_slices`, `patients`, and for every metric in `METRICS` (all in 0..1): `pooled.<metric>` over all
    pixels; `patient.<metric>_mean`, `_median`, `_std`, `_q25` and `_q75` over patient volumes; `slice.<metric>_<rule>`,
    the mean over slices by the rules of `EMPTY_RULES`. In `pooled` and `patient`, a pair of empty masks counts 1.
    `detection`: slices with any predicted pixel, as `sensitivity` among those with a tumour, `false_positive_rate`
    among those without, and `accuracy`. `volume`: predicted minus true volume in voxels, with the 95 % limits of
    agreement of Bland and Altman (1986) as `limits_low` and `limits_high`, from `bootstrap.FEWEST` patients on. A statistic without a value is None. With
    several classes, each statistic is the mean over them, and `classes.<class>` has those of each class.
  """
  slices = of_any_class(rows)
  patients = len({row["patient"] for row in rows})
  return {
    "slices": len(slices),
    "tumor_slices": sum(row["label"] for row in slices),
    "patients": patients,
    **bootstrap.estimate(numbers_of(rows), patients, intervals=intervals, is_share=_is_share_of_slices),
  }


def _is_share_of_slices(name: str) -> bool:
  return "detection" in name.split(".")[:-1]


def numbers_of(rows: list[Record]) -> Numbers:
  """A function that computes the statistics of `summarize`, by dotted name, for any sample of the patients."""
  return mean_of_classes({name: _numbers_of_class(members) for name, members in by_class(rows).items()})


def mean_of_classes(numbers_of_class: dict[str | None, Numbers]) -> Numbers:
  """The mean of every statistic over classes, and `classes.<class>.<statistic>` for each; for one class, only its own.

  A class in which a statistic has no value does not count in the mean.
  """
  if len(numbers_of_class) == 1:
    return next(iter(numbers_of_class.values()))

  def numbers(index: np.ndarray) -> dict[str, np.ndarray]:
    of_class = {name: of(index) for name, of in numbers_of_class.items()}
    stacked = {key: np.stack([of[key] for of in of_class.values()]) for key in next(iter(of_class.values()))}
    valued = {key: np.isfinite(values) for key, values in stacked.items()}
    mean = {key: share(np.where(valued[key], values, 0).sum(0), valued[key].sum(0)) for key, values in stacked.items()}
    return mean | {
      f"{bootstrap.dotted('classes', name)}.{key}": value for name, of in of_class.items() for key, value in of.items()
    }

  return numbers


def _numbers_of_class(rows: list[Record]) -> Numbers:
  counts = counts_of(rows)
  tumor = np.array([row["label"] for row in rows]) == 1
  segmented = counts.tp + counts.fp > 0
  columns = {
    **counts._asdict(),
    "slices": np.ones(len(rows)),
    "tumor": tumor,
    "healthy": ~tumor,
    "found": tumor & segmented,
    "false_alarms": ~tumor & segmented,
  }
  for name, metric in metrics.METRICS.items():
    values = metric(counts, empty=1.0)
    columns |= {f"{name}_empty_is_one": values, f"{name}_nonempty_truth": np.where(tumor, values, 0)}
  sums = by_patient(rows, columns)
  volumes = metrics.Counts(*(sums[name] for name in metrics.Counts._fields))
  by_volume = {name: metric(volumes, empty=1.0) for name, metric in metrics.METRICS.items()}
  error, truth = volumes.fp - volumes.fn, volumes.tp + volumes.fn

  def numbers(index: np.ndarray) -> dict[str, np.ndarray]:
    total = {name: column[index].sum(-1) for name, column in sums.items()}
    pixels = metrics.Counts(*(total[name] for name in metrics.Counts._fields))
    statistics = {}
    for name, metric in metrics.METRICS.items():
      statistics[f"pooled.{name}"] = metric(pixels, empty=1.0)
      statistics |= {f"patient.{name}_{ending}": value for ending, value in spread(by_volume[name][index]).items()}
      statistics[f"slice.{name}_empty_is_one"] = share(total[f"{name}_empty_is_one"], total["slices"])
      statistics[f"slice.{name}_nonempty_truth"] = share(total[f"{name}_nonempty_truth"], total["tumor"])
    statistics["detection.sensitivity"] = share(total["found"], total["tumor"])
    statistics["detection.false_positive_rate"] = share(total["false_alarms"], total["healthy"])
    right = total["found"] + total["healthy"] - total["false_alarms"]
    statistics["detection.accuracy"] = share(right, total["slices"])
    mean, deviation = error[index].mean(-1), deviation_of(error[index])
    statistics["volume.error_mean"] = mean
    half = np.where(index.shape[-1] >= bootstrap.FEWEST, 1.96 * deviation, np.nan)
    statistics["volume.limits_low"], statistics["volume.limits_high"] = mean - half, mean + half
    statistics["volume.absolute_error_mean"] = np.abs(error[index]).mean(-1)
    statistics["volume.absolute_error_median"] = np.median(np.abs(error[index]), -1)
    statistics["volume.absolute_error_of_total"] = share(np.abs(error[index]).sum(-1), truth[index].sum(-1))
    return statistics

  return numbers


def summarize_distances(patients: list[Record], *, intervals: bool) -> dict[str, Any]:
  """Surface distances over patient volumes, from records with the columns of `DISTANCES` and `unit`.

  Returns:
    `unit` and, for each distance, its mean, median, standard deviation and quartiles, with intervals if `intervals`;
    several classes as in `summarize`.
  """

  def of_class(rows: list[Record]) -> Numbers:
    columns = {name: np.array([row[name] for row in rows], float) for name in DISTANCES}
    return lambda index: {
      f"{name}_{ending}": value
      for name, column in columns.items()
      for ending, value in spread(column[index]).items()
    }  # fmt: skip

  classes = by_class(patients)
  numbers = mean_of_classes({name: of_class(rows) for name, rows in classes.items()})
  count = len(next(iter(classes.values())))
  return {"unit": patients[0]["unit"], **bootstrap.estimate(numbers, count, intervals=intervals)}


def summarize_outline(rows: list[Record], *, intervals: bool) -> dict[str, Any]:
  """What part of the errors is within one pixel of the true outline, over the volumes of which it was recorded.

  One volume with 4 wrong pixels, 3 of them near the outline; Dice without the fourth is 2 * 9 / (2 * 9 + 3):

  >>> row = {"patient": "A", "tp": 8, "fp": 2, "fn": 2, "tn": 88, "fp_outline": 2, "fn_outline": 1}
  >>> summary = summarize_outline([row], intervals=False)
  >>> summary["error_share"], round(summary["dice_without_others"], 4)
  (0.75, 0.8571)

  Returns:
    `error_share`: wrong pixels near the outline among all wrong pixels, pooled. `dice_without_others`: Dice of a volume
    if all other errors were corrected, the mean over volumes, where an all-empty pair counts 1. `patients`: the number of
    volumes; `why`: why it is not all of them, or None. Empty if it is none. Several classes as in `summarize`.
  """
  unknown = {row["patient"] for row in rows for name in outline.COLUMNS if row.get(name) is None}
  known = [row for row in rows if row["patient"] not in unknown]
  if not known:
    return {}
  numbers = mean_of_classes({name: _outline_numbers(members) for name, members in by_class(known).items()})
  count = len({row["patient"] for row in known})
  every = count + len(unknown)
  return {
    "patients": count,
    "why": f"{count} of {every} volumes: the records of the others do not have it" if unknown else None,
    **bootstrap.estimate(numbers, count, intervals=intervals),
  }


def _outline_numbers(rows: list[Record]) -> Numbers:
  names = (*metrics.Counts._fields, *outline.COLUMNS)
  sums = by_patient(rows, {name: np.array([row[name] for row in rows]) for name in names})
  wrong, near = sums["fp"] + sums["fn"], sums["fp_outline"] + sums["fn_outline"]
  right = {"tp": sums["tp"] + sums["fn"] - sums["fn_outline"], "tn": sums["tn"] + sums["fp"] - sums["fp_outline"]}
  dice = metrics.dice(metrics.Counts(**right, fp=sums["fp_outline"], fn=sums["fn_outline"]), empty=1.0)
  return lambda index: {
    "error_share": share(near[index].sum(-1), wrong[index].sum(-1)),
    "dice_without_others": dice[index].mean(-1),
  }


def spread(values: np.ndarray) -> dict[str, np.ndarray]:
  """Mean, median, standard deviation and quartiles over the last axis."""
  low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=-1)
  return {"mean": values.mean(-1), "median": median, "std": deviation_of(values), "q25": low, "q75": high}


def deviation_of(values: np.ndarray) -> np.ndarray:
  """The sample standard deviation over the last axis; nan for a single value."""
  return values.std(-1, ddof=1) if values.shape[-1] > 1 else np.full(values.shape[:-1], np.nan)


# The statistics of a summary that can select the best checkpoint: those that always have a value.
SCORES = tuple(
  f"{group}.{name}{ending}"
  for group, endings in (("pooled", ("",)), ("patient", ("_mean", "_median")), ("slice", ("_empty_is_one",)))
  for ending in endings
  for name in metrics.METRICS
)


def chosen(summary: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
  """Selected statistics of a summary with their intervals; `names` maps short names to dotted ones."""
  return {
    f"{short}{ending}": score_of(summary, f"{name}{ending}")
    for short, name in names.items()
    for ending in ("", "_ci95")
  }


def score_of(summary: dict[str, Any], name: str) -> float | list[float] | None:
  """One statistic of a summary, or its interval, by its dotted name, e.g. `pooled.dice`; None if it has no value."""
  return functools.reduce(lambda group, key: group[key], name.split("."), summary)
