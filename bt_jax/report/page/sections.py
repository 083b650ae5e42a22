"""The sections of the report, made from the files of a run; empty sections are left out."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from bt_jax import metrics
from bt_jax.datasets.lgg_mri.constants import GENOMIC_CLUSTERS
from bt_jax.evaluation.class_statistics import summarize_classes
from bt_jax.evaluation.records import counts_of
from bt_jax.paper import published_values
from bt_jax.report.page import charts, html_tables, paper_tables, phrases, viewer
from bt_jax.report.page.charts import Chart
from bt_jax.report.page.html_tables import Table
from bt_jax.report.page.run_files import RunFiles


class Section(NamedTuple):
  """A section of the report.

  Attributes:
    key: id of the section in the page.
    title: the heading.
    lead: paragraphs before the rest.
    tables: tables, in order.
    charts: charts, shown after the tables.
    listing: preformatted text.
    folded: tables that open on a click.
  """

  key: str
  title: str
  lead: Sequence[str] = ()
  tables: Sequence[Table] = ()
  charts: Sequence[Chart] = ()
  listing: str = ""
  folded: Sequence[Table] = ()


def scores(record: RunFiles, show_slices: bool) -> Section:
  """The main statistics on the test set."""
  test = record.summary["test"]
  about = phrases.sentence(phrases.intervals(record.summary))
  if record.task == "cascade":
    runs = "; ".join(f"{role}: {_name(record.summary[role]['run'])}" for role in ("classifier", "segmenter"))
    drawn = _picture(record, "gate", "The effect of the gate at every threshold", _gate_words(test["gate"]))
    lead = [f"Two runs as one system. Each has a report of its own: {runs}."]
    return Section("scores", "Scores", lead, charts=drawn, listing=record.table)
  if record.task == "classification":
    return Section("scores", "Scores", [about], [html_tables.classes(test), html_tables.confusion(test["confusion"])],
                   _patient_chart(record, "accuracy", "Accuracy"))  # fmt: skip
  return Section(
    "scores",
    "Scores",
    [about],
    [html_tables.overlap(test, record.summary["leaky"]), *html_tables.by_class(test)],
    _patient_chart(record, "dice", "Dice"),
  )


def _name(path: str) -> str:
  """The name of a folder, without its parents, which are private."""
  return pathlib.PurePath(path).name


def _gate_words(gate: dict[str, Any]) -> str:
  rates = [phrases.number(gate[name]) for name in ("sensitivity", "false_positive_rate", "false_positive_rate_gated")]
  return (
    f"Shares over the gate's threshold. At the chosen one {rates[0]} of the slices with a tumour are let through, and the share of "
    f"healthy slices with false positives goes from {rates[1]} to {rates[2]}."
  )


def _patient_chart(record: RunFiles, name: str, title: str) -> list[Chart]:
  known = [row for row in record.patients if row.get(name) is not None]
  return [charts.by_patient(known, name, title)] if known else []


def _picture(record: RunFiles, name: str, title: str, alt: str, figure: str = "") -> list[Chart]:
  path = record.folder / "figures" / f"{name}.png"
  return [Chart(title, charts.source(path.read_bytes(), "png"), alt, figure)] if path.is_file() else []


def slices(record: RunFiles, show_slices: bool) -> Section | None:
  """Images of slices."""
  if not show_slices:
    return None
  sample = viewer.sample_chart(record)
  drawn = [sample] if sample else []
  if record.task == "segmentation":
    for name, kind, figure in (("tumor", "with", "Fig. 7"), ("no_tumor", "without", "Fig. 8")):
      alt = f"Outlines of truth and prediction on {record.info.reference_title}: best, median and worst slices {kind} a tumour. {_slice_words(record, name)}"
      drawn += _picture(record, f"overlays_{name}", f"Predictions on slices {kind} a tumour", alt, figure)
  return Section("samples", "Sample slices", charts=drawn) if drawn else None


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


def detection(record: RunFiles, show_slices: bool) -> Section | None:
  """Detection by slice, volumes and surface distances of a segmentation."""
  test = record.summary["test"]
  if record.task != "segmentation":
    return None
  tables = [
    html_tables.listed("Slices with any pixel predicted", test["detection"], "share"),
    html_tables.confusion(_marked(record)["confusion"]),
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
  if "why" not in test["volume"]:
    drawn.append(charts.volume_agreement(record.patients, test["volume"]))
  return Section("detection", "Detection, volume and surface", lead, tables, drawn)


def _marked(record: RunFiles) -> dict[str, Any]:
  """A segmenter evaluated as a classifier of slices: tumour if any pixel is segmented."""
  return summarize_classes([row | {"prediction": int(row["tp"] + row["fp"] > 0)} for row in record.rows])


def calibration(record: RunFiles, show_slices: bool) -> Section | None:
  """Calibration of the probabilities."""
  if record.task == "cascade":
    return None
  groups = record.summary["test"]["calibration"]
  drawn = [charts.pixel_reliability(record.reliability)] if record.reliability else []
  return Section("calibration", "Calibration", tables=[html_tables.calibration(groups)],
                 charts=[*drawn, charts.slice_reliability(record.rows)])  # fmt: skip


def subgroups(record: RunFiles, show_slices: bool) -> Section | None:
  """Statistics of subgroups of patients."""
  table_of = html_tables.subgroups(record.summary["test"].get("subgroups") or {})
  if not table_of:
    return None
  lead = [
    "The groups were fixed before any result was seen; their intervals are not corrected for how many there are. Differences between small "
    "groups are questions, not answers."
  ]
  shown, folded = (
    [table for name, table in table_of.items() if (name in GENOMIC_CLUSTERS) == molecular]
    for molecular in (False, True)
  )
  return Section("subgroups", "Subgroups of patients", lead, shown, folded=folded)


def associations(record: RunFiles, show_slices: bool) -> Section | None:
  """Shape against molecular clusters."""
  if record.task == "cascade" or not phrases.is_lgg(record.summary):
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
  tested = [html_tables.associations(associations)] if lead[0].startswith("From") else []
  return Section("associations", "Shape and molecular clusters", lead, folded=tested)


def training(record: RunFiles, show_slices: bool) -> Section | None:
  """Training curves or, for pooled runs, the results of each run."""
  if record.summary.get("folds"):
    return Section("training", "The runs that are pooled", ["Curves are in the report of each run."],
                   [html_tables.folds(record.summary["folds"])])  # fmt: skip
  if record.task == "cascade" or not record.history or not record.config:
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


def published(record: RunFiles, others: Sequence[Section]) -> Section:
  """The paper's tables, where to find its figures, and results of others."""
  summary, test, tables = record.summary, record.summary["test"], []
  if record.task == "classification":
    tables.append(paper_tables.table2(test["per_class"], phrases.model(summary)))
    if summary["baselines"]:
      tables.append(paper_tables.baselines(summary))
  elif record.task == "segmentation":
    tables.append(
      paper_tables.table2(_marked(record)["per_class"], f"any pixel predicted by the {phrases.model(summary)}")
    )
    tables.append(paper_tables.table3(summary))
  lead = [
    "The paper is Aish et al. 2024, Brain Tumor Segmentation and Classification Using ResNet50 and U-Net. What it prints for its own "
    "networks is for slices drawn at random, which leaks."
  ]
  return Section(
    "published", "Beside the paper and others", lead, [*tables, paper_tables.anchors(), _figures(record, others)]
  )


def _figures(record: RunFiles, others: Sequence[Section]) -> Table:
  here = {chart.paper: section.title for section in others for chart in section.charts if chart.paper}
  model = record.summary.get("model")
  if record.task == "segmentation":
    here |= dict.fromkeys(
      ("Fig. 3", "Fig. 5"), "of this network: Detection, volume and surface, slices with any pixel predicted"
    )
    here |= {name: "of this network: Training" for name in ("Fig. 4", "Fig. 6") if record.history}
  elif record.task == "classification":
    here["Fig. 3" if model == "cnn" else "Fig. 5"] = "Scores: confusion matrix"
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


def patients(record: RunFiles, shown: dict[str, str]) -> Section | None:
  """The sortable table of patients; `shown` maps patients to their case in the viewer."""
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
    "patients", "Patients", lead, [html_tables.patients(record.patients, shown, record.summary["test"], record.info)]
  )


# In the order of the page; the sections on patients, the paper and the run are placed around them.
RESULTS: tuple[Callable[[RunFiles, bool], Section | None], ...] = (
  scores, detection, calibration, subgroups, associations, slices, training,
)  # fmt: skip
