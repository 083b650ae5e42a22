"""The page of a segmenter's run, or of its folds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bt_jax import metrics
from bt_jax.evaluation.class_statistics import summarize_classes
from bt_jax.evaluation.records import counts_of
from bt_jax.reporting.page import charts, html_tables, paper_tables, phrases, sections, statistics_tables, viewer
from bt_jax.reporting.page.run_files import RunFiles
from bt_jax.reporting.page.sections import Page, Section


def _result(test: dict[str, Any], level: str) -> tuple[str, str]:
  classes = f", averaged over {', '.join(test['classes'])}," if "classes" in test else ""
  first = (
    f"On {test['slices']:,} test slices of {test['patients']} patients the Dice coefficient{classes} is "
    f"{phrases.with_interval(test['pooled'], 'dice', level=level)} over all pixels and {phrases.with_interval(test['patient'], 'dice_mean')} as the mean "
    f"over patient volumes, whose median is {phrases.number(test['patient']['dice_median'])}."
  )
  detection = test["detection"]
  if detection["sensitivity"] is None or detection["false_positive_rate"] is None:
    return first, f"{test['tumor_slices']:,} of the slices have a tumour."
  second = (
    f"Of the {test['tumor_slices']:,} slices with a tumour, {phrases.with_interval(detection, 'sensitivity', 'percent')} have some of it segmented; "
    f"of the {test['slices'] - test['tumor_slices']:,} without, {phrases.with_interval(detection, 'false_positive_rate', 'percent')} have false positives."
  )
  return first, second


def _headline(test: dict[str, Any]) -> list[phrases.Headline]:
  return [
    ("Dice, pixels pooled", test["pooled"], "dice", "all test pixels together"),
    ("Dice, volume mean", test["patient"], "dice_mean", "each patient counts once"),
    ("Tumour slices found", test["detection"], "sensitivity", "any pixel predicted"),
    ("Healthy slices with false positives", test["detection"], "false_positive_rate", "lower is better"),
  ]


def _scores(record: RunFiles) -> Section:
  test = record.summary["test"]
  return Section(
    "scores",
    "Scores",
    [phrases.sentence(phrases.intervals(record.summary))],
    [statistics_tables.overlap(test, record.summary["leaky"]), *statistics_tables.by_class(test)],
    [*sections.patient_chart(record, "dice", "Dice"), *sections.size_chart(record, "dice", "Dice")],
  )


def _detection(record: RunFiles) -> Section:
  """Detection by slice, volumes and surface distances."""
  test = record.summary["test"]
  tables = [
    html_tables.listed("Slices with any pixel predicted", test["detection"], "share"),
    statistics_tables.confusion(_as_classes(record)["confusion"]),
  ]
  lead, drawn = [], []
  for name, caption, kind in (
    ("volume", "Tumour volume", "pixels"),
    ("surface", "Distance of the surfaces", "distance"),
  ):
    group = test[name]
    if "why" in group:
      lead.append(f"{caption}: no value, {group['why']}.")
      continue
    notes = [phrases.sentence(group["empty"])] if name == "surface" else []
    notes += [phrases.STEP] if name == "surface" and group["unit"] == "pixels" else []
    tables.append(html_tables.listed(f"{caption}, in {group['unit']}", group, kind, notes))
  if near := test.get("outline"):  # summaries of earlier versions have none
    caption = "Errors within one pixel of the true outline"
    notes = [phrases.sentence(near["why"])] if near["why"] else []
    if "error_share" in near:
      tables.append(html_tables.listed(caption, near, "share", notes))
    else:
      lead.append(f"{caption}: no value, {near['why']}.")
  if "why" not in test["volume"]:
    drawn.append(charts.volume_agreement(record.patients, test["volume"]))
  return Section("detection", "Detection, volume and surface", lead, tables, drawn)


def _as_classes(record: RunFiles) -> dict[str, Any]:
  """A segmenter evaluated as a classifier of slices: tumour if any pixel is segmented."""
  return summarize_classes([row | {"prediction": int(row["tp"] + row["fp"] > 0)} for row in record.rows])


def _slices(record: RunFiles) -> Section | None:
  drawn = viewer.sample_charts(record)
  for name, kind, figure in (("tumor", "with", "Fig. 7"), ("no_tumor", "without", "Fig. 8")):
    alt = f"Outlines of truth and prediction on {record.info.reference_title}: best, median and worst slices {kind} a tumour. {_slice_words(record, name)}"
    drawn += sections.picture(record, f"overlays_{name}", f"Predictions on slices {kind} a tumour", alt, figure)
  return sections.samples(drawn)


def _slice_words(record: RunFiles, name: str) -> str:
  rows = [row for row in record.rows if row["label"] == (name == "tumor")]
  if not rows:
    return ""
  if name == "tumor":
    dice = np.array([_dice(record, row) for row in rows])
    return f"Dice from {phrases.number(dice.min())} to {phrases.number(dice.max())}, median {phrases.number(np.median(dice))}."
  wrong = [row["fp"] for row in rows]
  return f"{sum(count > 0 for count in wrong)} of {len(rows)} have false-positive pixels, at most {max(wrong):,}."


def _dice(record: RunFiles, row: dict[str, Any]) -> float:
  """The Dice of a slice, 1 if truth and prediction are empty; the mean over several classes."""
  of_classes = list(record.of_classes(row).get("classes", {None: row}).values())
  return float(metrics.dice(counts_of(of_classes), empty=1.0).mean())


def _published(record: RunFiles, others: Sequence[Section]) -> Section:
  classified = f"any pixel predicted by the {phrases.model(record.summary)}"
  here = dict.fromkeys(
    ("Fig. 3", "Fig. 5"), "of this network: Detection, volume and surface, slices with any pixel predicted"
  )
  here |= {name: "of this network: Training" for name in ("Fig. 4", "Fig. 6") if record.history}
  return sections.published(
    others,
    [paper_tables.table2(_as_classes(record)["per_class"], classified), paper_tables.table3(record.summary)],
    here,
  )


PAGE = Page(
  about="segmentation of tumours",
  result=_result,
  headline=_headline,
  results=(_scores, _detection, sections.calibration, sections.subgroups, sections.associations),
  slices=_slices,
  training=sections.training,
  published=_published,
)
