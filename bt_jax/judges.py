"""How predictions of each task become rows, numbers, tables and pictures."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bt_jax.evaluation import aggregation, classification, postprocess
from bt_jax.evaluation.rows import Row, patient_rows, slice_rows
from bt_jax.report import figures, tables
from bt_jax.schema import Slices


class Judge(NamedTuple):
  """What is done with the probabilities of tumour, by pixel or by slice.

  Attributes:
    scores: the numbers of a summary that may pick the best checkpoint, by dotted name; `loss` may too, for every task.
    threshold: the best one for (probabilities, slices, largest_component).
    predict: from (probabilities, slices, threshold, largest_component) to what is predicted.
    rows: from (slices, probabilities, predictions, data=, split=) to a row for each slice.
    patients: from those to a row for each patient.
    summarize: from those to the numbers.
    table: from a whole `summary.json` to text.
    draw: from (folder, slices, predictions, rows, test summary, title=) to the pictures it wrote.
  """

  scores: tuple[str, ...]
  threshold: Callable[[np.ndarray, Slices, bool], float]
  predict: Callable[[np.ndarray, Slices, float, bool], np.ndarray]
  rows: Callable[..., list[Row]]
  patients: Callable[[list[Row]], list[Row]]
  summarize: Callable[[list[Row]], dict[str, Any]]
  table: Callable[[dict[str, Any]], str]
  draw: Callable[..., list[pathlib.Path]]


def _draw_masks(
  folder: pathlib.Path, slices: Slices, masks: np.ndarray, rows: list[Row], test: dict[str, Any], *, title: str
) -> list[pathlib.Path]:
  return figures.save_overlays(folder, slices, masks, rows, title=title)


def _draw_confusion(
  folder: pathlib.Path, slices: Slices, predictions: np.ndarray, rows: list[Row], test: dict[str, Any], *, title: str
) -> list[pathlib.Path]:
  return [figures.save_confusion(folder / "confusion.png", test["confusion"], title=title)]


JUDGES = {
  "segmentation": Judge(
    scores=aggregation.SCORES,
    threshold=lambda probabilities, slices, largest: postprocess.choose_threshold(
      probabilities, slices, largest_component=largest
    ),
    predict=lambda probabilities, slices, threshold, largest: postprocess.predict_masks(
      probabilities, slices, threshold=threshold, largest_component=largest
    ),
    rows=slice_rows,
    patients=patient_rows,
    summarize=aggregation.summarize,
    table=tables.results_table,
    draw=_draw_masks,
  ),
  "classification": Judge(
    scores=classification.SCORES,
    threshold=lambda probabilities, slices, largest: classification.choose_threshold(probabilities, slices.label),
    predict=lambda probabilities, slices, threshold, largest: probabilities >= threshold,
    rows=classification.class_rows,
    patients=classification.patient_class_rows,
    summarize=classification.summarize_classes,
    table=tables.class_table,
    draw=_draw_confusion,
  ),
}
