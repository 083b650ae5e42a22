"""The page of a classifier's run, or of its folds."""

from collections.abc import Sequence
from typing import Any

from bt_jax.evaluation import bootstrap, class_statistics
from bt_jax.reporting.page import charts, paper_tables, phrases, sections, statistics_tables, viewer
from bt_jax.reporting.page.run_files import RunFiles
from bt_jax.reporting.page.sections import Page, Section

_ERRORS, _PICTURED = 12, 4  # slices in the table of errors, and how many of them are shown


def _result(test: dict[str, Any], level: str) -> tuple[str, str]:
  tumor = test["per_class"]["tumor"]
  first = (
    f"On {test['slices']:,} test slices of {test['patients']} patients, {phrases.with_interval(test, 'accuracy', 'percent', level)} are classified correctly, "
    f"with an area under the ROC curve of {phrases.with_interval(test, 'roc_auc') if test['roc_auc'] is not None else phrases.MISSING}."
  )
  parts = []
  if tumor["recall"] is not None:
    parts.append(
      f"of the {test['tumor_slices']:,} slices with a tumour, {phrases.with_interval(tumor, 'recall', 'percent')} are found"
    )
  if test["specificity"] is not None:
    healthy = test["slices"] - test["tumor_slices"]
    parts.append(f"of the {healthy:,} without, {phrases.with_interval(test, 'specificity', 'percent')} are left alone")
  return first, phrases.sentence("; ".join(parts))


def _headline(test: dict[str, Any]) -> list[phrases.Headline]:
  return [
    ("Accuracy", test, "accuracy", "slices classified correctly"),
    ("Area under ROC", test, "roc_auc", "any threshold"),
    ("Sensitivity", test["per_class"]["tumor"], "recall", "slices with a tumour found"),
    ("Specificity", test, "specificity", "healthy slices left alone"),
  ]


def _scores(record: RunFiles) -> Section:
  test = record.summary["test"]
  return Section(
    "scores",
    "Scores",
    [phrases.sentence(phrases.intervals(record.summary))],
    [statistics_tables.classes(test), statistics_tables.confusion(test["confusion"])],
    sections.patient_chart(record, "accuracy", "Accuracy"),
  )


def _slices(record: RunFiles) -> Section | None:
  return sections.samples([*viewer.error_charts(record, _errors(record)[:_PICTURED]), *viewer.sample_charts(record)])


def _curves(record: RunFiles) -> Section | None:
  points_of = class_statistics.curves(record.rows)
  if not points_of:
    return None
  axes = {
    "roc": ("ROC curve", ("share of healthy slices called a tumour", "share of tumour slices found")),
    "precision_recall": ("Precision-recall curve", ("recall", "precision")),
  }
  level = f"{record.summary['intervals']['level']:.0%}"
  lead = "Each curve goes over all thresholds; the band is of patients drawn anew, at each position on the first axis by itself."
  if not any(points_of["roc"]["intervals"]):
    lead = phrases.sentence(
      f"Each curve goes over all thresholds; without intervals, as {bootstrap.about(len(record.patients))['why']}"
    )
  drawn = [charts.curve(title, names, points_of[name], level) for name, (title, names) in axes.items()]
  return Section("curves", "All thresholds", [lead], charts=drawn)


def _errors(record: RunFiles) -> list[dict[str, Any]]:
  return class_statistics.confident_errors(record.rows, _ERRORS)


def _error_table(record: RunFiles) -> Section:
  total = sum(row["prediction"] != row["label"] for row in record.rows)
  if not total:
    return Section("errors", "Most confident errors", ["Every test slice is classified correctly."])
  return Section("errors", "Most confident errors", tables=[statistics_tables.errors(_errors(record), total)])


def _published(record: RunFiles, others: Sequence[Section]) -> Section:
  summary = record.summary
  tables = [paper_tables.table2(summary["test"]["per_class"], phrases.model(summary))]
  if summary["baselines"]:
    tables.append(paper_tables.baselines(summary))
  figure = "Fig. 3" if summary["model"] == "cnn" else "Fig. 5"
  return sections.published(others, tables, {figure: "Scores: confusion matrix"})


PAGE = Page(
  about="classification of slices, tumour or none",
  result=_result,
  headline=_headline,
  results=(_scores, _curves, _error_table, sections.calibration, sections.subgroups, sections.associations),
  slices=_slices,
  training=sections.training,
  published=_published,
)
