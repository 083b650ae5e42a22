"""Classification of slices, tumour or none: records, the threshold, and statistics from the records."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bt_jax import metrics
from bt_jax.evaluation import bootstrap, calibration
from bt_jax.evaluation.aggregation import spread
from bt_jax.evaluation.bootstrap import Numbers, by_patient, share
from bt_jax.evaluation.records import Record, identity
from bt_jax.schema import Slices

THRESHOLDS = np.arange(1, 100) / 100
CLASSES = ("no_tumor", "tumor")
_CLASS_METRICS = {
  "precision": metrics.precision,
  "recall": metrics.recall,
  "f1": metrics.dice,
  "iou": metrics.iou,
}

_SHARES = ("accuracy", "precision", "recall", "specificity")  # of slices


def class_rows(
  slices: Slices, probabilities: Float[np.ndarray, " n"], predictions: Bool[np.ndarray, " n"], *, data: str, split: str
) -> list[Record]:
  """One record per slice, in the split's order: data, split, case, patient, slice, label, probability, prediction."""
  label = slices.label
  return [
    {
      **identity(slices, index, data=data, split=split),
      "label": int(label[index]),
      "probability": float(probabilities[index]),
      "prediction": int(predictions[index]),
    }
    for index in range(len(slices))
  ]


def patient_class_rows(rows: list[Record]) -> list[Record]:
  """One record per patient: its slices counted by truth and prediction, and their accuracy."""
  patients = []
  for patient in dict.fromkeys(row["patient"] for row in rows):
    members = [row for row in rows if row["patient"] == patient]
    counts = _confusion_of(members)
    patients.append(
      {
        "data": members[0]["data"],
        "split": members[0]["split"],
        "patient": patient,
        "slices": len(members),
        "tumor_slices": sum(row["label"] for row in members),
        **{name: value.item() for name, value in counts._asdict().items()},
        "accuracy": (counts.tp + counts.tn).item() / len(members),
      }
    )
  return patients


def choose_threshold(probabilities: Float[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> float:
  """The threshold in `THRESHOLDS` with the highest accuracy on these (validation) slices; the middle one of ties."""
  accuracy = np.array([((probabilities >= threshold) == label).mean() for threshold in THRESHOLDS])
  best = np.flatnonzero(accuracy == accuracy.max())
  return float(THRESHOLDS[best[len(best) // 2]])


def confusion(predicted: Bool[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> metrics.Counts:
  """Counts slices as pixels are counted, with tumour as the positive class."""
  truth = label == 1
  return metrics.Counts(
    *(
      np.array([part.sum()])
      for part in (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
    )
  )


def _confusion_of(rows: list[Record]) -> metrics.Counts:
  return confusion(np.array([row["prediction"] for row in rows]) == 1, np.array([row["label"] for row in rows]))


def summarize_classes(rows: list[Record], *, intervals: bool = False) -> dict[str, Any]:
  """The statistics of one subset of a split.

  Args:
    rows: the records of `class_rows`.
    intervals: whether to add `<statistic>_ci95` for each statistic, see `bootstrap.estimate`.

  Returns:
    `slices`, `tumor_slices`, `patients`, `confusion` (`tn`, `fp`, `fn`, `tp`), `accuracy`, `specificity` (of tumour),
    `roc_auc` and `average_precision` (None if all slices are of one class), `ece`, `patient.accuracy_mean`, `_median`
    and so on over patients; `per_class.<class>` with support, accuracy, precision, recall, specificity, F1 and IoU; and
    `macro`, the mean over both classes of all but support and accuracy. A class that is neither present nor predicted
    has None; a class that is present but never predicted has precision 0. Both classes have the same accuracy.
  """
  tumor = _confusion_of(rows)
  patients = len({row["patient"] for row in rows})
  label = [row["label"] for row in rows]
  statistics = bootstrap.estimate(
    numbers_of(rows), patients, intervals=intervals, is_share=lambda name: name.rpartition(".")[2] in _SHARES
  )
  for name, support in (("no_tumor", len(rows) - sum(label)), ("tumor", sum(label))):
    statistics["per_class"][name] = {"support": support, **statistics["per_class"][name]}
  return {
    "slices": len(rows),
    "tumor_slices": sum(label),
    "patients": patients,
    "confusion": {name: int(getattr(tumor, name).item()) for name in ("tn", "fp", "fn", "tp")},
    **statistics,
  }


def numbers_of(rows: list[Record]) -> Numbers:
  """A function that computes the statistics of `summarize_classes`, by dotted name, for any sample of the patients."""
  label = np.array([row["label"] for row in rows]) == 1
  predicted = np.array([row["prediction"] for row in rows]) == 1
  cells = {"tp": label & predicted, "fp": ~label & predicted, "fn": label & ~predicted, "tn": ~label & ~predicted}
  sums = by_patient(rows, cells)
  right = share(sums["tp"] + sums["tn"], sum(sums.values()))
  ranked, calibrated = ranking(rows), calibration.slice_errors(rows, {"ece": "probability"})

  def numbers(index: np.ndarray) -> dict[str, np.ndarray]:
    tumor = metrics.Counts(*(sums[name][index].sum(-1) for name in metrics.Counts._fields))
    healthy = metrics.Counts(tp=tumor.tn, fp=tumor.fn, fn=tumor.fp, tn=tumor.tp)
    accuracy = share(tumor.tp + tumor.tn, sum(tumor))
    statistics = {"accuracy": accuracy, "specificity": metrics.recall(healthy, empty=np.nan), **ranked(index)}
    statistics |= calibrated(index)
    statistics |= {f"patient.accuracy_{ending}": value for ending, value in spread(right[index]).items()}
    for name, counts, other in (("no_tumor", healthy, tumor), ("tumor", tumor, healthy)):
      statistics[f"per_class.{name}.accuracy"] = accuracy
      for metric, function in _CLASS_METRICS.items():
        statistics[f"per_class.{name}.{metric}"] = function(counts, empty=np.nan)
      statistics[f"per_class.{name}.specificity"] = metrics.recall(other, empty=np.nan)
    for metric in (*_CLASS_METRICS, "specificity"):
      statistics[f"macro.{metric}"] = np.mean([statistics[f"per_class.{name}.{metric}"] for name in CLASSES], axis=0)
    return statistics

  return numbers


def ranking(rows: list[Record]) -> Numbers:
  """Area under the ROC curve and average precision of a sample of patients, as scikit-learn defines them.

  nan if a sample has slices of one class only.
  """
  ranked = _ranked(rows)

  def numbers(index: np.ndarray) -> dict[str, np.ndarray]:
    new_tp, new_fp = ranked(index)
    tp, fp = new_tp.cumsum(-1), new_fp.cumsum(-1)
    tumor, healthy = tp[..., -1], fp[..., -1]
    area = (new_fp * (tp - new_tp / 2)).sum(-1)
    precision = tp / np.maximum(tp + fp, 1)
    defined = np.where((tumor > 0) & (healthy > 0), 1.0, np.nan)
    return {
      "roc_auc": defined * share(area, tumor * healthy),
      "average_precision": defined * share((new_tp * precision).sum(-1), tumor),
    }

  return numbers


def curves(rows: list[Record]) -> dict[str, dict[str, Any]]:
  """The ROC curve and the precision-recall curve, each with its pointwise intervals over patients.

  Args:
    rows: the records of `class_rows`.

  Returns:
    `roc` and `precision_recall`, each with `x` and `y`, a point for every distinct probability from the highest on; and
    `grid`, positions on the first axis, with the second at each as `on_grid` and its `intervals`, None where
    `bootstrap.estimate` gives none. The first axes are the false-positive rate and recall; sensitivity between two points is
    interpolated (Fawcett 2006), precision is that of the first threshold to reach a recall (Davis and Goadrich 2006).
    Empty if all slices are of one class.
  """
  patients = len({row["patient"] for row in rows})
  if len({row["label"] for row in rows}) < 2:
    return {}
  ranked, grid = _ranked(rows), np.linspace(0, 1, 41)

  def points(index: np.ndarray) -> tuple[np.ndarray, ...]:
    tp, fp = (new.cumsum(-1) for new in ranked(index))
    return share(tp, tp[..., -1:]), share(fp, fp[..., -1:]), share(tp, tp + fp)

  def numbers(index: np.ndarray) -> dict[str, np.ndarray]:
    interpolated = np.array([_interpolate(grid, *of_sample) for of_sample in zip(*points(index), strict=True)])
    names = [f"{name}.{number}" for name in ("roc", "precision_recall") for number in range(len(grid))]
    return dict(zip(names, interpolated.reshape(len(index), -1).T, strict=True))

  recall, false_alarms, precision = (values[0] for values in points(np.arange(patients)[None]))
  estimated = bootstrap.estimate(numbers, patients)
  on_grid = lambda name: {
    "grid": grid,
    "on_grid": [estimated[name][f"{number}"] for number in range(len(grid))],
    "intervals": [estimated[name][f"{number}_ci95"] for number in range(len(grid))],
  }
  return {
    "roc": {"x": np.append(0, false_alarms), "y": np.append(0, recall), **on_grid("roc")},
    "precision_recall": {"x": recall, "y": precision, **on_grid("precision_recall")},
  }


def _interpolate(grid: np.ndarray, recall: np.ndarray, false_alarms: np.ndarray, precision: np.ndarray) -> np.ndarray:
  """Sensitivity at each false-positive rate of a grid, and precision at each recall; nan for slices of one class."""
  if np.isnan(recall).any() or np.isnan(false_alarms).any():
    return np.full((2, len(grid)), np.nan)
  # Among points of the same false-positive rate, `interp` takes the last, which has the highest sensitivity.
  sensitivity = np.interp(grid, np.append(0, false_alarms), np.append(0, recall))
  reached = np.minimum(np.searchsorted(recall, grid - 1e-12), len(recall) - 1)
  return np.stack([sensitivity, precision[reached]])


def _ranked(rows: list[Record]) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """Maps samples of patients to their slices with a tumour and those without, by distinct probability from the highest on.

  All samples share one sort: a patient drawn k times has weight k.
  """
  score, label = (np.array([row[name] for row in rows]) for name in ("probability", "label"))
  order = np.argsort(-score, kind="stable")
  label = label[order]
  starts = np.flatnonzero(np.diff(score[order], prepend=np.inf))  # slices with the same score form one step
  names = [row["patient"] for row in rows]
  index_of = {name: index for index, name in enumerate(dict.fromkeys(names))}
  patient = np.array([index_of[names[index]] for index in order])

  def counts(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weight = (index[..., None] == np.arange(len(index_of))).sum(-2)[..., patient]
    return tuple(np.add.reduceat(weight * of, starts, axis=-1) for of in (label, 1 - label))

  return counts


def confident_errors(rows: list[Record], count: int) -> list[Record]:
  """The wrongly classified slices whose wrong class had the highest probability, from the highest on; at most `count`."""
  wrong = [row for row in rows if row["prediction"] != row["label"]]
  return sorted(wrong, key=lambda row: row["probability"] if row["label"] else 1 - row["probability"])[:count]


# The statistics of a summary that can select the best checkpoint.
SCORES = (
  "accuracy",
  "roc_auc",
  "average_precision",
  *(f"per_class.tumor.{metric}" for metric in ("precision", "recall", "f1")),
)
