"""What a run prints when it is evaluated: one line of verdict, then the few statistics that people look for."""

import functools
import pathlib
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from bt_jax.reporting.text_tables import cell, counts, heading, threshold

WIDTH = 100  # columns of a terminal that all lines but the first fit in
_VALUE = 25
_AGGREGATIONS = {
  "pixels pooled": ("pooled", "{}"),
  "volume mean": ("patient", "{}_mean"),
  "volume median": ("patient", "{}_median"),
}
_OVERLAP = ("dice", "iou", "precision", "recall")
_SLICES = {
  "slices found": ("detection", "sensitivity"),
  "false alarms": ("detection", "false_positive_rate"),
}
_CLASSIFIER = {
  "accuracy": ("accuracy",),
  "ROC-AUC": ("roc_auc",),
  "recall of tumour": ("per_class", "tumor", "recall"),
  "specificity": ("specificity",),
  "F1 of tumour": ("per_class", "tumor", "f1"),
}


def verdict(summary: dict[str, Any], report: pathlib.Path) -> str:
  """One line: the network, on whom it was tested, how good it is with its interval, and where the report is."""
  test = summary["test"]
  score = _OF_TASK[summary["task"]].score(test)
  return f"{summary['model']} on {heading(summary)}, {counts(test)}: {score}; report: {report}"


def short_table(summary: dict[str, Any]) -> str:
  """The statistics of a run in at most `WIDTH` columns; `table.txt` has all of them, and the baselines."""
  shown = _OF_TASK[summary["task"]]
  notes = [f"threshold {threshold(summary)}{shown.note(summary)}"]
  if why := summary["intervals"]["why"]:
    notes.append(why)
  return "\n".join([*shown.lines(summary["test"]), *(line for note in notes for line in textwrap.wrap(note, WIDTH))])


class _Shown(NamedTuple):
  """What the console shows of a task: the score of a test set in words, its table, and a note about its summary."""

  score: Callable[[dict[str, Any]], str]
  lines: Callable[[dict[str, Any]], list[str]]
  note: Callable[[dict[str, Any]], str]


def _dice(test: dict[str, Any]) -> str:
  return f"Dice {cell(test['pooled'], 'dice')} over all pixels, {cell(test['patient'], 'dice_mean')} mean of volumes"


def _accuracy(test: dict[str, Any]) -> str:
  return f"accuracy {cell(test, 'accuracy')}, ROC-AUC {cell(test, 'roc_auc')}"


def _segmentation(test: dict[str, Any]) -> list[str]:
  rows = {name: (test, name) for name in _OVERLAP}
  if several := test.get("classes"):
    rows = {f"dice of {name}": (values, "dice") for name, values in several.items()}
    rows["mean over classes"] = (test, "dice")
  first = WIDTH - _VALUE * len(_AGGREGATIONS)
  shown = lambda values, name: (
    cell(values[group], form.format(name)).rjust(_VALUE) for group, form in _AGGREGATIONS.values()
  )
  return [
    " " * first + "".join(title.rjust(_VALUE) for title in _AGGREGATIONS),
    *(_short(title, first) + "".join(shown(values, name)) for title, (values, name) in rows.items()),
    "; ".join(f"{title} {cell(test[group], name)}" for title, (group, name) in _SLICES.items()),
  ]


def _classification(test: dict[str, Any]) -> list[str]:
  confusion = test["confusion"]
  value = lambda path: cell(functools.reduce(dict.__getitem__, path[:-1], test), path[-1])
  return [
    *(f"{title:24}{value(path):>{_VALUE}}" for title, path in _CLASSIFIER.items()),
    f"slices with a tumour: {confusion['tp']} recognised, {confusion['fn']} missed; "
    f"without: {confusion['tn']} recognised, {confusion['fp']} false alarms",
  ]


def _short(title: str, width: int) -> str:
  """A title in a column, with the end of a long one left out."""
  return (title if len(title) < width else f"{title[: width - 4]}...").ljust(width)


_OF_TASK = {
  "segmentation": _Shown(
    _dice, _segmentation, lambda summary: f"; largest 3-D component only: {summary['largest_component']}"
  ),
  "classification": _Shown(_accuracy, _classification, lambda summary: ""),
}
