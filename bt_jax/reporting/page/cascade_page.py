"""The page of a cascade: a classifier that gates a segmenter."""

import pathlib
from collections.abc import Sequence
from typing import Any

from bt_jax.evaluation.aggregation import EMPTY_RULES
from bt_jax.reporting.page import html_tables, phrases, sections
from bt_jax.reporting.page.html_tables import Table, measured, table, text, value
from bt_jax.reporting.page.run_files import RunFiles
from bt_jax.reporting.page.sections import Page, Section
from bt_jax.reporting.text_tables import WAYS


def _result(test: dict[str, Any], level: str) -> tuple[str, str]:
  gate, alone, gated = test["gate"], test["segmentation"]["alone"], test["segmentation"]["gated"]
  first = (
    f"On {alone['slices']:,} test slices of {alone['patients']} patients the gate changes the Dice coefficient over all pixels "
    f"from {phrases.with_interval(alone['pooled'], 'dice', level=level)} to {phrases.with_interval(gated['pooled'], 'dice')}, and its mean over patient volumes "
    f"from {phrases.with_interval(alone['patient'], 'dice_mean')} to {phrases.with_interval(gated['patient'], 'dice_mean')}."
  )
  second = (
    f"Of {gate['healthy_slices']:,} healthy slices, {gate['false_positives']:,} have false positives without it and "
    f"{gate['false_positives_gated']:,} with it; of {gate['tumor_slices']:,} slices with a tumour it stops "
    f"{gate['tumor_slices_missed_by_gate']:,}."
  )
  return first, second


def _headline(test: dict[str, Any]) -> list[phrases.Headline]:
  gate, gated = test["gate"], test["segmentation"]["gated"]
  return [
    ("Dice, pixels pooled", gated["pooled"], "dice", "with the gate"),
    ("Dice, volume mean", gated["patient"], "dice_mean", "with the gate"),
    ("Tumour slices let through", gate, "sensitivity", "at the gate's threshold"),
    ("Healthy slices with false positives", gate, "false_positive_rate_gated", "with the gate; lower is better"),
  ]


def _scores(record: RunFiles) -> Section:
  test = record.summary["test"]
  drawn = sections.picture(record, "gate", "The effect of the gate at every threshold", _gate_words(test["gate"]))
  about = phrases.sentence(phrases.intervals(record.summary))
  tables = [_masks(test["segmentation"]), _gate(test["gate"])]
  if test["classification"]:
    tables.append(_ways(test["classification"]))
  return Section("scores", "Scores", [about], tables, drawn)


def _masks(segmented: dict[str, Any]) -> Table:
  statistics = {
    "Dice, pixels pooled": ("pooled", "dice"), "Dice, volume mean": ("patient", "dice_mean"),
    "Dice, volume median": ("patient", "dice_median"), "Dice, slice mean (1)": ("slice", "dice_empty_is_one"),
    "Dice, slice mean (2)": ("slice", "dice_nonempty_truth"), "precision, pixels pooled": ("pooled", "precision"),
    "recall, pixels pooled": ("pooled", "recall"), "healthy slices with false positives": ("detection", "false_positive_rate"),
  }  # fmt: skip
  rows = [
    [text(title), *(measured(segmented[side].get(group), name) for side in ("alone", "gated"))]
    for title, (group, name) in statistics.items()
  ]
  notes = [
    f"(1) {EMPTY_RULES['empty_is_one']}. (2) {EMPTY_RULES['nonempty_truth']}. Pooled and per volume, an all-empty pair counts 1."
  ]
  return table("Masks without the gate and with it", ("", "without gate", "with gate"), rows, notes)


def _gate(gate: dict[str, Any]) -> Table:
  tumor, healthy, stopped = (gate[name] for name in ("tumor_slices", "healthy_slices", "tumor_slices_missed_by_gate"))
  counts = {
    "slices with a tumour let through": (tumor - stopped, tumor, "sensitivity"),
    "healthy slices with false positives, without the gate": (gate["false_positives"], healthy, "false_positive_rate"),
    "healthy slices with false positives, with the gate": (
      gate["false_positives_gated"], healthy, "false_positive_rate_gated",
    ),
  }  # fmt: skip
  rows = [
    [text(title), value(part), value(whole), measured(gate, share)] for title, (part, whole, share) in counts.items()
  ]
  missed = ", ".join(gate.get("patients_missed_by_gate", ())) or "none"
  notes = [f"Patients all of whose tumour slices are stopped: {missed}."]
  if (segmented := gate.get("of_these_found_by_segmenter")) is not None:
    notes.append(f"Slices with a tumour that the gate stops: {stopped:,}, of which the segmenter found {segmented:,}.")
  return table("Slices and the gate", ("", "slices", "of", "share"), rows, notes)


def _ways(classified: dict[str, Any]) -> Table:
  names = ("accuracy", "roc_auc", "average_precision", "ece", "precision", "recall", "specificity", "f1")
  of_way = {way: {**values["per_class"]["tumor"], **values} for way, values in classified.items()}
  rows = [[text(html_tables.title(name)), *(measured(values, name) for values in of_way.values())] for name in names]
  notes = ["Precision, recall, specificity and F1 are those of tumour; every threshold is from the validation set."]
  return table("Tumour or none, by slice", ("", *(WAYS[way] for way in of_way)), rows, notes)


def _runs(record: RunFiles) -> Section:
  links = sections.links(record)
  rows = []
  for role in ("segmenter", "classifier"):
    run = record.summary[role]
    name = pathlib.PurePath(run["run"]).name
    threshold = value(run.get("threshold"), "factor", why="not recorded")
    rows.append([text(role), text(name, link=links.get(role, "")), text(phrases.title(run["model"])), threshold])
  heads = ("", "run", "network", "threshold")
  return Section(
    "training",
    "The two runs",
    ["Each has a report of its own; a run whose folder is neither here nor beside this one is named without a link."],
    [table("Runs of this cascade", heads, rows)],
  )


def _gate_words(gate: dict[str, Any]) -> str:
  names = ("sensitivity", "false_positive_rate", "false_positive_rate_gated")
  rates = [phrases.with_interval(gate, name) for name in names]
  return (
    f"Shares over the gate's threshold. At the chosen one {rates[0]} of the slices with a tumour are let through, and the share of "
    f"healthy slices with false positives goes from {rates[1]} to {rates[2]}."
  )


def _published(record: RunFiles, others: Sequence[Section]) -> Section:
  return sections.published(others, [], {})


PAGE = Page(
  about="a classifier that gates a segmenter",
  result=_result,
  headline=_headline,
  results=(_scores,),
  training=_runs,
  published=_published,
  patients="Patients, with the gate",
  no_volumes="A cascade keeps no images, and the folder of its segmenter's run is not here or holds none.",
)
