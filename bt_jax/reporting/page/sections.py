"""The sections of the report, made from the files of a run; empty sections are left out."""

import os
import pathlib
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from bt_jax.paper import genes, published_values
from bt_jax.reporting.page import charts, html_tables, paper_tables, phrases, statistics_tables, viewer
from bt_jax.reporting.page.charts import Chart
from bt_jax.reporting.page.html_tables import Table
from bt_jax.reporting.page.run_files import RunFiles


class Section(NamedTuple):
  """A section of the report.

  Attributes:
    key: id of the section in the page.
    title: the heading.
    lead: paragraphs before the rest.
    tables: tables, in order.
    charts: charts, shown after the tables.
    folded: tables that open on a click.
  """

  key: str
  title: str
  lead: Sequence[str] = ()
  tables: Sequence[Table] = ()
  charts: Sequence[Chart] = ()
  folded: Sequence[Table] = ()


class Page(NamedTuple):
  """What the page of a kind of run holds.

  Attributes:
    about: what the run does, in words.
    result: two sentences on the results of a test set, with the level of its first interval.
    headline: the headline statistics of a test set.
    results: the sections of results, in order; None is left out.
    slices: the section with images of slices, where they may be shown.
    training: the section about training.
    published: the section beside the paper, for its data set.
    patients: the heading of the table of patients.
    no_volumes: why there is no viewer, if there are no images.
  """

  about: str
  result: Callable[[dict[str, Any], str], tuple[str, str]]
  headline: Callable[[dict[str, Any]], list[phrases.Headline]]
  results: tuple[Callable[[RunFiles], Section | None], ...]
  published: Callable[[RunFiles, Sequence[Section]], Section]
  slices: Callable[[RunFiles], Section | None] = lambda record: None
  training: Callable[[RunFiles], Section | None] = lambda record: None
  patients: str = "Patients"
  no_volumes: str = "This run's folder holds no volumes to show."

  def sections(self, record: RunFiles, show_slices: bool) -> list[Section]:
    """The sections of a run that depend on its results, in the order of the page."""
    makers = (*self.results, *((self.slices,) if show_slices else ()), self.training)
    return [section for make in makers if (section := make(record))]


def links(record: RunFiles) -> dict[str, str]:
  """The relative addresses of the reports of the runs that this one consists of, by name.

  Only of those in this folder or beside it: the names of other folders are private.
  """
  return {name: address for name, run in record.runs.items() if (address := link(record.folder, run))}


def link(folder: pathlib.Path, run: pathlib.Path) -> str:
  """The address of the report of a run, relative to a folder; empty if it is neither in the folder nor beside it."""
  page = (run / "report.html").resolve()
  near = page.parent.parent in (folder.resolve(), folder.resolve().parent)
  return urllib.parse.quote(os.path.relpath(page, folder.resolve())) if near and page.is_file() else ""


def patient_chart(record: RunFiles, name: str, title: str) -> list[Chart]:
  """The chart of a statistic of every patient, if any has a value."""
  known = [row for row in record.patients if row.get(name) is not None]
  return [charts.by_patient(known, name, title)] if known else []


def size_chart(record: RunFiles, name: str, title: str) -> list[Chart]:
  """The chart of a statistic of every patient over the size of the true mask, if any has both."""
  known = [row for row in record.patients if row.get(name) is not None and row["tp"] + row["fn"]]
  return [charts.by_size(known, name, title)] if known else []


def picture(record: RunFiles, name: str, title: str, alt: str, figure: str = "") -> list[Chart]:
  """A figure that the run's folder holds, if it does."""
  path = record.folder / "figures" / f"{name}.png"
  return [Chart(title, charts.source(path.read_bytes(), "png"), alt, figure)] if path.is_file() else []


def samples(drawn: Sequence[Chart]) -> Section | None:
  """Images of slices, if there are any."""
  return Section("samples", "Sample slices", charts=drawn) if drawn else None


def calibration(record: RunFiles) -> Section:
  """Calibration of the probabilities."""
  groups = record.summary["test"]["calibration"]
  drawn = [charts.pixel_reliability(record.reliability)] if record.reliability else []
  return Section("calibration", "Calibration", tables=[statistics_tables.calibration(groups)],
                 charts=[*drawn, charts.slice_reliability(record.rows)])  # fmt: skip


def subgroups(record: RunFiles) -> Section | None:
  """Statistics of subgroups of patients."""
  table_of = statistics_tables.subgroups(record.summary["test"].get("subgroups") or {}, record.info)
  if not table_of:
    return None
  lead = [
    "The groups were fixed before any result was seen; their intervals are not corrected for how many there are. Differences between small "
    "groups are questions, not answers."
  ]
  shown, folded = (
    [table for name, table in table_of.items() if (name in genes.GROUPINGS) == molecular] for molecular in (False, True)
  )
  return Section("subgroups", "Subgroups of patients", lead, shown, folded=folded)


def associations(record: RunFiles) -> Section | None:
  """Shape against molecular clusters."""
  if not phrases.is_lgg(record.summary):
    return None
  associations = record.summary["test"]["associations"]
  words_of = {"truth": record.info.masks, "predicted": "the predicted masks"}
  lead = []
  for kind in filter(associations.get, words_of):
    tests = [row for row in associations[kind] if row["p_holm"] is not None]
    clear = [f"{html_tables.title(row['feature'])} and {row['grouping']}" for row in tests if row["p_holm"] < 0.05]
    named = f": {', '.join(clear)}" if clear else ""
    lead.append(
      f"From {words_of[kind]} of {max(row['patients'] for row in associations[kind])} patients, {len(clear)} of {len(tests)} tests are below "
      f".05 after Holm's correction{named}."
    )
  if associations.get("why"):
    lead.append(phrases.sentence(f"Not tested: {associations['why']}"))
  tested = [statistics_tables.associations(associations, record.info)] if lead[0].startswith("From") else []
  return Section("associations", "Shape and molecular clusters", lead, folded=tested)


def training(record: RunFiles) -> Section | None:
  """Training curves or, for pooled runs, the results of each run."""
  if folds := record.summary.get("folds"):
    history_of = record.history_of_folds()
    lead = "Each run has a report of its own"
    if missing := [str(fold["fold"]) for fold in folds if str(fold["fold"]) not in history_of]:
      lead += f"; the folders of {len(missing)} of {len(folds)} runs are not here, so their curves are missing"
    table = statistics_tables.folds(folds, links(record))
    return Section("training", "The runs that are pooled", [f"{lead}."], [table],
                   charts.fold_curves(history_of) if history_of else [])  # fmt: skip
  if not record.history or not record.config:
    return None
  figure = {"cnn": "Fig. 4", "resnet50": "Fig. 6"}.get(record.summary["model"], "")
  drawn = charts.training_curves(record.history, record.config["train"]["score"], figure)
  loss, lead = record.config["loss"], []
  if loss["name"] == "focal_tversky":
    drawn.append(charts.tversky_index(record.history, loss["exponent"]))
    lead = [
      'The paper\'s "focal Tversky accuracy" is the Tversky index TI. Here it is derived from the loss: the loss is '
      f"(1 {phrases.MINUS} TI)^{loss['exponent']:g}, so TI = 1 {phrases.MINUS} loss^(1/{loss['exponent']:g}), of each epoch's mean loss. The loss itself is the first curve."
    ]
  return Section("training", "Training", lead, charts=drawn)


def published(others: Sequence[Section], tables: Sequence[Table], here: dict[str, str]) -> Section:
  """The paper's tables, where to find its figures, and results of others.

  Args:
    others: the other sections; their charts say which figure of the paper they are.
    tables: tables of this kind of run.
    here: where else figures of the paper are in this report.
  """
  lead = [
    "The paper is Aish et al. 2024, Brain Tumor Segmentation and Classification Using ResNet50 and U-Net. What it prints for its own "
    "networks is for slices drawn at random, which leaks."
  ]
  return Section(
    "published", "Beside the paper and others", lead, [*tables, paper_tables.anchors(), _figures(others, here)]
  )


def _figures(others: Sequence[Section], here: dict[str, str]) -> Table:
  here = {chart.paper: section.title for section in others for chart in section.charts if chart.paper} | here
  rows = [
    [
      html_tables.text(f"Fig. {name}"),
      html_tables.text(shown),
      html_tables.text(here.get(f"Fig. {name}", _ABSENT[name])),
    ]
    for name, shown in published_values.FIGURES.items()
  ]
  return html_tables.table("The paper's figures in this report", ("paper", "shows", "here"), rows)


_ABSENT = {
  "1": "not here: no images of slices in this report",
  **dict.fromkeys("34", "not here: in the report of a CNN's run"),
  **dict.fromkeys("56", "not here: in the report of a ResNet50's run"),
  **dict.fromkeys("78", "not here: in the report of a single segmentation run with images of slices"),
  "9": "not here: in the report of a run with the focal Tversky loss",
}


def about(record: RunFiles) -> Section:
  """What was run: data, split, versions, hardware.

  Date and duration are only in `summary.json`, so that two runs with the same results have the same report.
  """
  summary = record.summary
  split, largest = summary.get("parts") or {}, summary.get("largest_component")
  epochs, checkpoint = summary.get("epochs") or {}, summary.get("checkpoint") or {}
  facts = {
    "data": summary["data"],
    "split": summary["split"],
    "slices": ", ".join(f"{part} {count:,}" for part, count in split.items()),
    "hash of the split": summary.get("split_hash"),
    "network": phrases.model(summary),
    "weights to begin with": (record.config.get("model") or {}).get("pretrained"),
    "intensities": summary.get("normalize"),
    "epochs": f"{epochs['trained']} of {epochs['planned']} planned" if epochs else None,
    "checkpoint": f"step {checkpoint['step']}, SHA-256 {checkpoint['arrays_sha256']}" if checkpoint else None,
    "threshold": _threshold(summary),
    "largest 3-D component only": {True: "yes", False: "no"}.get(largest, largest),
    "baselines": "; ".join(_fitted(one) for one in summary.get("baselines", [])),
    "commit": summary.get("commit") or "not known",
    "commits of the folds": ", ".join(summary.get("commits", [])),
    "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
    "devices": summary.get("devices"),
    "machine": summary.get("machine"),
  }
  rows = [[html_tables.text(name), html_tables.text(fact)] for name, fact in facts.items() if fact]
  fields = [
    [html_tables.text(name), html_tables.text("none" if content is None or content == "" else str(content))]
    for name, content in flatten_dict(record.config, sep=".").items()
  ]
  return Section(
    "run", "What was run",
    tables=[html_tables.table("This run", ("", ""), rows)],
    folded=[html_tables.table("Configuration, every field", ("field", "value"), fields)] if fields else [],
  )  # fmt: skip


def _threshold(summary: dict[str, Any]) -> str | None:
  if summary.get("threshold") is None:
    return summary.get("threshold_from")
  return f"{phrases.number(summary['threshold'], 'factor')}, {summary['threshold_from']}"


def _fitted(baseline: dict[str, Any]) -> str:
  parameters = ", ".join(f"{name} {content}" for name, content in (baseline.get("parameters") or {}).items())
  return f"{baseline['title']} ({parameters or 'no parameters here'})"


def patients(record: RunFiles, shown: dict[str, str], title: str) -> Section | None:
  """The sortable table of patients under a title; `shown` maps patients to their case in the viewer."""
  if not record.patients:
    return None
  ranked = viewer.ranks(record)
  name = viewer.score(record)
  score = {row["patient"]: row.get(name) for row in record.patients}
  ranking = ", ".join(f"{rank}: {patient} ({phrases.number(score[patient])})" for patient, rank in ranked.items())
  lead = (
    [f"By {'Dice' if name == 'dice' else name}, {ranking}. A click on a heading sorts the table."] if ranking else []
  )
  return Section(
    "patients", title, lead, [statistics_tables.patients(record.patients, shown, record.summary["test"], record.info)]
  )
