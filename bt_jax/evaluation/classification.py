"""Slices told apart, tumour or none: rows, the threshold, and every number made from rows."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bt_jax import metrics
from bt_jax.evaluation.rows import Row, identity
from bt_jax.schema import Slices

THRESHOLDS = np.arange(1, 100) / 100
BINS = 10  # of equal width, for the calibration error
CLASSES = ("no_tumor", "tumor")
_CLASS_METRICS = {
  "precision": metrics.precision,
  "recall": metrics.recall,
  "f1": metrics.dice,
  "iou": metrics.iou,
}


def class_rows(
  slices: Slices, probabilities: Float[np.ndarray, "n"], predictions: Bool[np.ndarray, "n"], *, data: str, split: str
) -> list[Row]:
  """One row per slice, in the order of the split: data, split, case, patient, slice, label, probability, prediction."""
  label = slices.label
  return [
    {
      **identity(slices, at, data=data, split=split),
      "label": int(label[at]),
      "probability": float(probabilities[at]),
      "prediction": int(predictions[at]),
    }
    for at in range(len(slices))
  ]


def patient_class_rows(rows: list[Row]) -> list[Row]:
  """One row per patient: its slices, counted by truth and prediction, and the share that is right."""
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


def choose_threshold(probabilities: Float[np.ndarray, "n"], label: Int[np.ndarray, "n"]) -> float:
  """The threshold of `THRESHOLDS` with the highest accuracy on these (validation) slices; of equals the middle one."""
  accuracy = np.array([((probabilities >= threshold) == label).mean() for threshold in THRESHOLDS])
  best = np.flatnonzero(accuracy == accuracy.max())
  return float(THRESHOLDS[best[len(best) // 2]])


def confusion(predicted: Bool[np.ndarray, "n"], label: Int[np.ndarray, "n"]) -> metrics.Counts:
  """Slices counted as pixels are, with tumour as the positive class."""
  truth = label == 1
  return metrics.Counts(
    *(
      np.array([part.sum()])
      for part in (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
    )
  )


def _confusion_of(rows: list[Row]) -> metrics.Counts:
  return confusion(np.array([row["prediction"] for row in rows]) == 1, np.array([row["label"] for row in rows]))


def calibration_error(probabilities: Float[np.ndarray, "n"], label: Int[np.ndarray, "n"]) -> float:
  """Expected calibration error of the probability of tumour (Guo et al. 2017, arXiv:1706.04599), 0..1.

  Over `BINS` bins of equal width: the distance between mean probability and share of tumours, weighed by the slices.
  """
  bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
  distance = [abs(np.sum(probabilities[bins == at] - label[bins == at])) for at in range(BINS)]
  return float(np.sum(distance) / len(label))


def summarize_classes(rows: list[Row]) -> dict[str, Any]:
  """The numbers of one part of a split.

  Returns:
    `slices`, `tumor_slices`, `patients`, `accuracy`, `specificity` (of tumour), `roc_auc` and `average_precision` (None
    where all slices are of one class), `ece`, `confusion` (`tn`, `fp`, `fn`, `tp`), and `per_class.<class>` and `macro`
    (their mean) with accuracy, precision, recall, specificity, F1 and IoU. A class that is neither there nor predicted
    has None; one that is there and never predicted has precision 0. Accuracy is the same number for both of two classes.
  """
  from sklearn.metrics import average_precision_score, roc_auc_score  # takes a second, which a segmenter need not wait

  label = np.array([row["label"] for row in rows])
  probability = np.array([row["probability"] for row in rows])
  tumor = _confusion_of(rows)
  accuracy = (tumor.tp + tumor.tn).item() / len(rows)
  healthy = metrics.Counts(tp=tumor.tn, fp=tumor.fn, fn=tumor.fp, tn=tumor.tp)
  per_class = {}
  for name, counts, other in (("no_tumor", healthy, tumor), ("tumor", tumor, healthy)):
    values = {metric: function(counts, empty=np.nan).item() for metric, function in _CLASS_METRICS.items()}
    values["specificity"] = metrics.recall(other, empty=np.nan).item()
    support = int(counts.tp.item() + counts.fn.item())
    per_class[name] = {
      "support": support,
      "accuracy": accuracy,
      **{metric: _none(value) for metric, value in values.items()},
    }
  both = 0 < label.sum() < len(label)
  return {
    "slices": len(rows),
    "tumor_slices": int(label.sum()),
    "patients": len({row["patient"] for row in rows}),
    "accuracy": accuracy,
    "specificity": per_class["tumor"]["specificity"],
    "roc_auc": float(roc_auc_score(label, probability)) if both else None,
    "average_precision": float(average_precision_score(label, probability)) if both else None,
    "ece": calibration_error(probability, label),
    "confusion": {name: int(getattr(tumor, name).item()) for name in ("tn", "fp", "fn", "tp")},
    "per_class": per_class,
    "macro": {
      metric: _mean([per_class[name][metric] for name in CLASSES]) for metric in (*_CLASS_METRICS, "specificity")
    },
  }


def _none(value: float) -> float | None:
  return None if np.isnan(value) else value


def _mean(values: list[float | None]) -> float | None:
  return None if None in values else float(np.mean(values))


# The numbers of a summary that can pick the best checkpoint.
SCORES = (
  "accuracy",
  "roc_auc",
  "average_precision",
  *(f"per_class.tumor.{metric}" for metric in ("precision", "recall", "f1")),
)
