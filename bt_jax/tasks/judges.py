"""How predictions of each task become rows, numbers, tables and pictures."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bt_jax.evaluation import aggregation, classification, postprocess
from bt_jax.evaluation.bootstrap import Numbers
from bt_jax.evaluation.records import Record, patient_records, slice_records
from bt_jax.report import figures, text_tables
from bt_jax.schema import Slices
from bt_jax.tasks.task import Tumor


class Judge(NamedTuple):
  """What is done with the probabilities of tumour, see `training.task.Tumor`.

  Attributes:
    scores: the numbers of a summary that may pick the best checkpoint, by dotted name; `loss` may too, for every task.
    headline: those that stand for it in subgroups and lines of progress, by dotted name, with a short name each.
    threshold: the best one for (probabilities, slices, largest_component).
    predict: from (probabilities, slices, threshold, largest_component) to what is predicted.
    rows: from (slices, probabilities, predictions, data=, split=) to a row for each slice.
    patients: from those to a row for each patient.
    summarize: from rows of slices to the numbers; with `intervals=True`, to their intervals too.
    numbers: from rows of slices to the same numbers of any sample of the patients.
    by_patient: the columns of `patients.csv` in which two runs are compared.
    table: from a whole `summary.json` to text.
    draw: from (folder, slices, predictions, rows, title=, show_slices=) to the pictures it wrote.
  """

  scores: tuple[str, ...]
  headline: dict[str, str]
  threshold: Callable[[Tumor, Slices, bool], float]
  predict: Callable[[Tumor, Slices, float, bool], np.ndarray]
  rows: Callable[..., list[Record]]
  patients: Callable[[list[Record]], list[Record]]
  summarize: Callable[..., dict[str, Any]]
  numbers: Callable[[list[Record]], Numbers]
  by_patient: tuple[str, ...]
  table: Callable[[dict[str, Any]], str]
  draw: Callable[..., list[pathlib.Path]]


def _draw_masks(
  folder: pathlib.Path, slices: Slices, masks: np.ndarray, rows: list[Record], *, title: str, show_slices: bool
) -> list[pathlib.Path]:
  return figures.save_overlays(folder, slices, masks, rows, title=title) if show_slices else []


def _draw_confusion(
  folder: pathlib.Path, slices: Slices, predictions: np.ndarray, rows: list[Record], *, title: str, show_slices: bool
) -> list[pathlib.Path]:
  counts = classification.summarize_classes(rows)["confusion"]
  return [figures.save_confusion(folder / "confusion.png", counts, title=title)]


JUDGES = {
  "segmentation": Judge(
    scores=aggregation.SCORES,
    headline={
      "pooled_dice": "pooled.dice",
      "dice_mean": "patient.dice_mean",
      "dice_median": "patient.dice_median",
      "sensitivity": "detection.sensitivity",
      "false_positive_rate": "detection.false_positive_rate",
    },
    threshold=lambda probabilities, slices, largest: postprocess.choose_threshold(
      probabilities.pixels, slices, largest_component=largest
    ),
    predict=lambda probabilities, slices, threshold, largest: postprocess.predict_masks(
      probabilities.pixels, slices, threshold=threshold, largest_component=largest
    ),
    rows=lambda slices, probabilities, masks, **names: slice_records(slices, probabilities.slices, masks, **names),
    patients=patient_records,
    summarize=aggregation.summarize,
    numbers=aggregation.numbers_of,
    by_patient=("dice", "iou", "precision", "recall", "hd95", "assd"),
    table=text_tables.results_table,
    draw=_draw_masks,
  ),
  "classification": Judge(
    scores=classification.SCORES,
    headline={
      "accuracy": "accuracy",
      "roc_auc": "roc_auc",
      "sensitivity": "per_class.tumor.recall",
      "specificity": "specificity",
    },
    threshold=lambda probabilities, slices, largest: classification.choose_threshold(
      probabilities.slices, slices.label
    ),
    predict=lambda probabilities, slices, threshold, largest: probabilities.slices >= threshold,
    rows=lambda slices, probabilities, predictions, **names: classification.class_rows(
      slices, probabilities.slices, predictions, **names
    ),
    patients=classification.patient_class_rows,
    summarize=classification.summarize_classes,
    numbers=classification.numbers_of,
    by_patient=("accuracy",),
    table=text_tables.class_table,
    draw=_draw_confusion,
  ),
}
