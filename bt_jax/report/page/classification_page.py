"""The page of a classifier's run, or of its folds."""

from collections.abc import Sequence
from typing import Any

from bt_jax.report.page import html_tables, paper_tables, phrases, sections, viewer
from bt_jax.report.page.run_files import RunFiles
from bt_jax.report.page.sections import Page, Section


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
    [html_tables.classes(test), html_tables.confusion(test["confusion"])],
    sections.patient_chart(record, "accuracy", "Accuracy"),
  )


def _slices(record: RunFiles) -> Section | None:
  return sections.samples(viewer.sample_charts(record))


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
  results=(_scores, sections.calibration, sections.subgroups, sections.associations),
  slices=_slices,
  training=sections.training,
  published=_published,
)
