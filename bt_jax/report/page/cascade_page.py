"""The page of a cascade: a classifier that gates a segmenter."""

import pathlib
from collections.abc import Sequence
from typing import Any

from bt_jax.report.page import phrases, sections
from bt_jax.report.page.run_files import RunFiles
from bt_jax.report.page.sections import Page, Section


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
  return []


def _scores(record: RunFiles) -> Section:
  runs = "; ".join(f"{role}: {_name(record.summary[role]['run'])}" for role in ("classifier", "segmenter"))
  drawn = sections.picture(
    record, "gate", "The effect of the gate at every threshold", _gate_words(record.summary["test"]["gate"])
  )
  lead = [f"Two runs as one system. Each has a report of its own: {runs}."]
  return Section("scores", "Scores", lead, charts=drawn, listing=record.table)


def _name(path: str) -> str:
  """The name of a folder, without its parents, which are private."""
  return pathlib.PurePath(path).name


def _gate_words(gate: dict[str, Any]) -> str:
  rates = [phrases.number(gate[name]) for name in ("sensitivity", "false_positive_rate", "false_positive_rate_gated")]
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
  published=_published,
  no_volumes="A cascade keeps no images; they are in the report of the segmenter's run.",
)
