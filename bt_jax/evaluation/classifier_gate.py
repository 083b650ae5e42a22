"""A classifier and a segmenter as one system: the classifier gate, and classification of slices by both.

The gate leaves the mask of a slice empty if the classifier's probability of tumour is below a threshold. Everything is
computed from records: the segmenter's of `evaluation/records.py` (with tp, fp and the probability of the slice) and the
classifier's of `evaluation/class_statistics.py`, for the same slices in the same order.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logit

from bt_jax.errors import UserError
from bt_jax.evaluation import bootstrap, outline
from bt_jax.evaluation.class_statistics import choose_threshold
from bt_jax.evaluation.records import Record

# The features that each logistic regression is fitted on.
FEATURES = {
  "mask": ("log_area", "confidence"),
  "both": ("log_area", "confidence", "classifier"),
}
WAYS = ("classifier", "mask", "both", "paper_rule")
# The shares that the gate changes, each with the slices that it counts and the slices that it is of.
_SHARES = {
  "false_positive_rate": ("false_positives", "healthy_slices"),
  "false_positive_rate_gated": ("false_positives_gated", "healthy_slices"),
  "sensitivity": ("let_through", "tumor_slices"),
}


def column(rows: list[Record], name: str) -> np.ndarray:
  """One column of the records."""
  return np.array([row[name] for row in rows])


def area(rows: list[Record]) -> Int[np.ndarray, " n"]:
  """Number of pixels of each predicted mask."""
  return column(rows, "tp") + column(rows, "fp")


def gate_threshold(probability: Float[np.ndarray, " n"], label: Int[np.ndarray, " n"], sensitivity: float) -> float:
  """The highest threshold at which at least this share of the slices with a tumour is let through.

  Raises:
    UserError: there is no slice with a tumour.
  """
  tumor = np.sort(probability[label == 1])[::-1]
  if not len(tumor):
    raise UserError("the validation set has no slice with a tumour: no gate can be chosen on it; choose another split")
  kept = math.ceil(round(sensitivity * len(tumor), 9))
  return float(tumor[max(kept, 1) - 1])


def gate(rows: list[Record], passes: np.ndarray) -> list[Record]:
  """The segmenter's records, with an empty mask for every slice that the gate stops."""
  return [row if through else _emptied(row) for row, through in zip(rows, passes, strict=True)]


def _emptied(row: Record) -> Record:
  """A record with an empty mask; how long the outline of a tumour is, and so how much is missed near it, is not known."""
  counts = {"tp": 0, "fp": 0, "fn": row["fn"] + row["tp"], "tn": row["tn"] + row["fp"]}
  return row | counts | {name: None if counts["fn"] else 0 for name in outline.COLUMNS if name in row}


def gate_effect(rows: list[Record], passes: np.ndarray, *, intervals: bool = False) -> dict[str, Any]:
  """The effect of the gate on slices: fewer false positives on healthy slices, and missed tumours.

  Args:
    rows: the segmenter's records, one per slice.
    passes: whether the gate lets each slice through.
    intervals: whether to add `<share>_ci95` for each share, see `bootstrap.estimate`.

  Returns:
    For healthy slices, the number and share with any predicted pixel, without and with the gate. For slices with a
    tumour, the number that the gate stops, the number of these that the segmenter had found in part, the patients that
    lose all of their slices, and the share that is let through.
  """
  label, segmented = column(rows, "label"), area(rows) > 0
  healthy, tumor = label == 0, label == 1
  stopped = tumor & ~passes
  patients = column(rows, "patient")
  counted = {
    "healthy_slices": healthy,
    "false_positives": healthy & segmented,
    "false_positives_gated": healthy & segmented & passes,
    "tumor_slices": tumor,
    "let_through": tumor & passes,
  }
  sums = bootstrap.by_patient(rows, counted)

  def shares(index: np.ndarray) -> dict[str, np.ndarray]:
    total = {name: column[index].sum(-1) for name, column in sums.items()}
    return {name: bootstrap.share(total[part], total[whole]) for name, (part, whole) in _SHARES.items()}

  return {
    **{name: int(which.sum()) for name, which in counted.items() if name != "let_through"},
    "tumor_slices_missed_by_gate": int(stopped.sum()),
    "of_these_found_by_segmenter": int((stopped & (column(rows, "tp") > 0)).sum()),
    "patients_missed_by_gate": [
      str(patient) for patient in np.unique(patients[tumor]) if not (passes & tumor & (patients == patient)).any()
    ],
    **bootstrap.estimate(shares, len(np.unique(patients)), intervals=intervals, is_share=_SHARES.__contains__),
  }


def _features(
  segmented: list[Record], classified: list[Record], names: tuple[str, ...]
) -> Float[np.ndarray, "n features"]:
  log_odds = lambda rows: logit(np.clip(column(rows, "probability"), 1e-6, 1 - 1e-6))
  columns = {
    "log_area": np.log1p(area(segmented)),
    "confidence": log_odds(segmented),
    "classifier": log_odds(classified),
  }
  return np.stack([columns[name] for name in names], axis=-1)


def classify_slices(
  validation: tuple[list[Record], list[Record]], test: tuple[list[Record], list[Record]], classifier_threshold: float
) -> dict[str, tuple[Float[np.ndarray, " n"], float]]:
  """Classifies the test slices in each of `WAYS`: the probability of tumour of each slice, and the threshold for it.

  `mask` and `both` are logistic regressions on `FEATURES`; they are fitted, and their thresholds chosen, on the
  validation set alone. `paper_rule` is the classifier's prediction, except that an empty mask means no tumour.

  Args:
    validation: the records of the segmenter and of the classifier on the validation set.
    test: the same on the test set.
    classifier_threshold: threshold of the classifier's own decision.

  Raises:
    UserError: all validation slices are of one class.
  """
  from sklearn.linear_model import LogisticRegression  # imports that take a second, and predictions need none of them
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  label = column(validation[0], "label")
  if len(np.unique(label)) < 2:
    raise UserError(
      "the validation set has slices of one class only: nothing can be fitted on it; choose another split"
    )
  classifier = column(test[1], "probability")
  ways = {"classifier": (classifier, classifier_threshold)}
  for name, features in FEATURES.items():
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(_features(*validation, features), label)
    threshold = choose_threshold(model.predict_proba(_features(*validation, features))[:, 1], label)
    ways[name] = (model.predict_proba(_features(*test, features))[:, 1], threshold)
  ways["paper_rule"] = (np.where(area(test[0]) > 0, classifier, 0.0), classifier_threshold)
  return ways
