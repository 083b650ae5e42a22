"""What runs, cascades and comparisons print: one line of verdict, then the few statistics that people look for."""

import functools
import os
import pathlib
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bt_jax.reporting.text_tables import WAYS, cell, counts, heading, patients, threshold

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


_WITHOUT, _WITH = "without gate", "with gate"


def show(summary: dict[str, Any], written: Sequence[pathlib.Path]) -> None:
  """Prints the verdict, the short table and the paths of the files written, of which the last is the report."""
  print(f"\n{verdict(summary, written[-1])}\n\n{short_table(summary)}\n\nwritten:")
  print("\n".join(f"  {path}" for path in written))


def verdict(summary: dict[str, Any], report: pathlib.Path) -> str:
  """One line: what was tested, on whom, how good it is with its interval, and where the report is.

  Args:
    summary: content of the `summary.json` of a run or of a cascade, or of a `comparison.json`.
    report: path of the report.
  """
  shown = _shown(summary)
  return f"{shown.what(summary)} on {heading(summary)}, {shown.whom(summary)}: {shown.score(summary)}; report: {report}"


def short_table(summary: dict[str, Any]) -> str:
  """The statistics that people look for in at most `WIDTH` columns; the table in the folder has all of them."""
  shown = _shown(summary)
  notes = [*shown.notes(summary), *filter(None, [summary["intervals"]["why"]])]
  return "\n".join([*shown.lines(summary), *(line for note in notes for line in textwrap.wrap(note, WIDTH))])


class _Shown(NamedTuple):
  """What the console shows of a kind of summary: what was tested, on whom, the score in words, the table, and notes."""

  what: Callable[[dict[str, Any]], str]
  whom: Callable[[dict[str, Any]], str]
  score: Callable[[dict[str, Any]], str]
  lines: Callable[[dict[str, Any]], list[str]]
  notes: Callable[[dict[str, Any]], list[str]]


def _shown(summary: dict[str, Any]) -> _Shown:
  if "segmenter" in summary:
    return _CASCADE
  return _COMPARISON if "first" in summary else _OF_TASK[summary["task"]]


def _dice(summary: dict[str, Any]) -> str:
  test = summary["test"]
  return f"Dice {cell(test['pooled'], 'dice')} over all pixels, {cell(test['patient'], 'dice_mean')} mean of volumes"


def _accuracy(summary: dict[str, Any]) -> str:
  test = summary["test"]
  return f"accuracy {cell(test, 'accuracy')}, ROC-AUC {cell(test, 'roc_auc')}"


def _segmentation(summary: dict[str, Any]) -> list[str]:
  test = summary["test"]
  rows = {name: (test, name) for name in _OVERLAP}
  if several := test.get("classes"):
    rows = {f"dice of {name}": (values, "dice") for name, values in several.items()}
    rows["mean over classes"] = (test, "dice")
  cells = {
    title: [cell(values[group], form.format(name)) for group, form in _AGGREGATIONS.values()]
    for title, (values, name) in rows.items()
  }
  return [
    *_columns("", tuple(_AGGREGATIONS), cells),
    "; ".join(f"{title} {cell(test[group], name)}" for title, (group, name) in _SLICES.items()),
  ]


def _classification(summary: dict[str, Any]) -> list[str]:
  test, confusion = summary["test"], summary["test"]["confusion"]
  value = lambda path: cell(functools.reduce(dict.__getitem__, path[:-1], test), path[-1])
  return [
    *(f"{title:24}{value(path):>{_VALUE}}" for title, path in _CLASSIFIER.items()),
    f"slices with a tumour: {confusion['tp']} recognised, {confusion['fn']} missed; "
    f"without: {confusion['tn']} recognised, {confusion['fp']} false alarms",
  ]


def _gate_in_words(summary: dict[str, Any]) -> str:
  test, gate = summary["test"], summary["test"]["gate"]
  alone, gated = (cell(test["segmentation"][side]["pooled"], "dice") for side in ("alone", "gated"))
  return (
    f"Dice over all pixels {alone} {_WITHOUT}, {gated} {_WITH}; false alarms {cell(gate, 'false_positive_rate')} {_WITHOUT}, "
    f"{cell(gate, 'false_positive_rate_gated')} {_WITH}; tumour slices let through {cell(gate, 'sensitivity')}"
  )


def _cascade(summary: dict[str, Any]) -> list[str]:
  test, gate = summary["test"], summary["test"]["gate"]
  sides = [test["segmentation"][side] for side in ("alone", "gated")]
  rows = {
    f"dice, {title}": [cell(side[group], form.format("dice")) for side in sides]
    for title, (group, form) in _AGGREGATIONS.items()
  }
  rows["false alarms"] = [cell(gate, name) for name in ("false_positive_rate", "false_positive_rate_gated")]
  rows["tumour slices let through"] = ["", cell(gate, "sensitivity")]
  ways = {
    WAYS[way]: [cell(values, name) for name in ("accuracy", "roc_auc")]
    for way, values in test["classification"].items()
  }
  return [
    *_columns("segmentation", (_WITHOUT, _WITH), rows),
    f"of {gate['healthy_slices']} healthy slices {gate['false_positives']} have false alarms {_WITHOUT}, "
    f"{gate['false_positives_gated']} {_WITH}",
    f"of {gate['tumor_slices']} tumour slices {gate['tumor_slices_missed_by_gate']} stopped; "
    f"patients missed altogether: {len(gate['patients_missed_by_gate'])}",
    "",
    *_columns("tumour or none, by slice", ("accuracy", "ROC-AUC"), ways),
  ]


def _gate_threshold(summary: dict[str, Any]) -> list[str]:
  gate = summary["gate"]
  return [
    f"gate: an empty mask where the classifier's probability is below {gate['threshold']:.4f}, {gate['threshold_from']} to keep "
    f"{gate['sensitivity_asked']:.1%} of the slices with a tumour"
  ]


def _runs(summary: dict[str, Any]) -> str:
  """Both runs by the parts of their paths that differ, and their networks."""
  folders = [pathlib.Path(summary[side]["run"]) for side in ("first", "second")]
  common = os.path.commonpath([folder.parent for folder in folders])
  first, second = (
    f"{folder.relative_to(common)} ({summary[side]['model']})"
    for folder, side in zip(folders, ("first", "second"), strict=True)
  )
  return f"{second} minus {first}"


def _difference(summary: dict[str, Any]) -> str:
  name, row = next(iter(summary["headline"].items()))
  shown = f"difference of {name.replace('_', ' ')} {cell(row, 'difference')}"
  if not (interval := row["difference_ci95"]):
    return f"{shown}, without an interval"
  excludes = interval[0] > 0 or interval[1] < 0
  return f"{shown}, an interval that {'excludes' if excludes else 'includes'} 0"


def _comparison(summary: dict[str, Any]) -> list[str]:
  statistics = {name.replace("_", " "): row for name, row in summary["headline"].items()}
  for name, of_class in summary.get("classes", {}).items():
    statistic, row = next(iter(of_class.items()))
    statistics[f"{name}, {statistic.replace('_', ' ')}"] = row
  rows = {
    title: [cell(row, column) for column in ("first", "second", "difference")] for title, row in statistics.items()
  }
  name, row = next(iter(summary["patients"].items()))
  p = f"- ({row['why']})" if row["p"] is None else f"{row['p']:.4f}"
  return [
    *_columns("", ("first", "second", "second - first"), rows),
    f"{name} by patient: higher for {row['higher']}, equal for {row['equal']}, lower for {row['lower']}; Wilcoxon p {p}",
  ]


def _columns(head: str, titles: Sequence[str], rows: dict[str, list[str]]) -> list[str]:
  """Rows of values under their titles, `WIDTH` columns in all."""
  first = WIDTH - _VALUE * len(titles)
  return [
    _short(head, first) + "".join(title.rjust(_VALUE) for title in titles),
    *(_short(title, first) + "".join(value.rjust(_VALUE) for value in values) for title, values in rows.items()),
  ]


def _short(title: str, width: int) -> str:
  """A title in a column, with the end of a long one left out."""
  return (title if len(title) < width else f"{title[: width - 4]}...").ljust(width)


def _of_run(score: Callable[..., str], lines: Callable[..., list[str]], note: Callable[..., str]) -> _Shown:
  """What the console shows of a run of one task; `note` is added to that of its threshold."""
  return _Shown(
    what=lambda summary: summary["model"],
    whom=lambda summary: counts(summary["test"]),
    score=score,
    lines=lines,
    notes=lambda summary: [f"threshold {threshold(summary)}{note(summary)}"],
  )


_OF_TASK = {
  "segmentation": _of_run(
    _dice, _segmentation, lambda summary: f"; largest 3-D component only: {summary['largest_component']}"
  ),
  "classification": _of_run(_accuracy, _classification, lambda summary: ""),
}
_CASCADE = _Shown(
  what=lambda summary: f"{summary['segmenter']['model']} gated by {summary['classifier']['model']}",
  whom=lambda summary: counts(summary["test"]["segmentation"]["alone"]),
  score=_gate_in_words,
  lines=_cascade,
  notes=_gate_threshold,
)
_COMPARISON = _Shown(
  what=_runs,
  whom=lambda summary: f"{patients(summary['intervals'])}, {summary['slices']} slices",
  score=_difference,
  lines=_comparison,
  notes=lambda summary: [],
)
