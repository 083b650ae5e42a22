"""A classifier's run and a segmenter's run of the same split, evaluated as one system."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from bt_jax import files
from bt_jax.datasets import splits
from bt_jax.datasets.registry import info_of
from bt_jax.distributed import setup
from bt_jax.errors import UserError
from bt_jax.evaluation import bootstrap
from bt_jax.evaluation import classifier_gate as gating
from bt_jax.evaluation.aggregation import summarize
from bt_jax.evaluation.class_statistics import summarize_classes
from bt_jax.evaluation.records import Record, of_any_class
from bt_jax.evaluation.summary_files import is_finished, write_summary
from bt_jax.reporting import console, figures
from bt_jax.reporting.page import html
from bt_jax.reporting.text_tables import cascade_table, heading
from bt_jax.runs import chunks, prediction, restoring, run_data
from bt_jax.runs.components import make_components
from bt_jax.runs.provenance import provenance
from bt_jax.runs.run_data import Data
from bt_jax.runs.workdir import begin, claim, differences, listed, plain
from bt_jax.training import checkpoint_record
from bt_jax.training.checkpoints import Checkpoints, no_best
from configs import saved

_ROLES = {"classifier": "classification", "segmenter": "segmentation"}


def cascade(*, classifier: str | None, segmenter: str | None, sensitivity: float, workdir: pathlib.Path | None) -> None:
  """Writes tables and figures of both as one system; everything is chosen and fitted on the validation set.

  Args:
    classifier: folder of the classifier's run.
    segmenter: folder of the segmenter's run.
    sensitivity: share of the validation slices with a tumour that the gate lets through.
    workdir: where to write; None: `runs/cascade_<models>_<split>`.

  Raises:
    UserError: a run is missing, unfinished or of the wrong task, or their splits differ.
  """
  if not 0 < sensitivity <= 1:
    raise UserError(f"--sensitivity is {sensitivity}, expected more than 0 and at most 1")
  folders = {"classifier": classifier, "segmenter": segmenter}
  folder_of = {role: _find(role, name) for role, name in folders.items()}
  split_of = {role: splits.read(folder) for role, folder in folder_of.items()}
  if split_of["classifier"]["hash"] != split_of["segmenter"]["hash"]:
    named = ", ".join(f"{folder_of[role]}: {split['data']}, {split['name']}" for role, split in split_of.items())
    raise UserError(
      f"the two runs are not of the same split ({named}): train both on one, with the same --config.split"
    )
  configs = {role: _config(folder) for role, folder in folder_of.items()}
  models = [config.model.name for config in configs.values()]
  workdir = workdir or pathlib.Path("runs") / "_".join(["cascade", *models, split_of["segmenter"]["name"]])
  about = {**{role: str(folder.resolve()) for role, folder in folder_of.items()}, "sensitivity": sensitivity}
  setup.prepare(*configs.values())
  with claim(workdir, about, new=True, may_differ="sensitivity"):
    rows = {role: _predict(folder, configs[role]) for role, folder in folder_of.items()}
    info, other = (info_of(rows[role].record) for role in ("segmenter", "classifier"))
    info.check_same(other, about["segmenter"], about["classifier"])
    begin(workdir, about)
    _report(workdir, about, rows)


def _find(role: str, name: str | None) -> pathlib.Path:
  if name is None:
    raise UserError(f"the cascade needs the folder of a {role}'s run: --{role}=RUN")
  folder = pathlib.Path(name).expanduser()
  if not (folder / "config.json").is_file() or not (folder / "split.json").is_file():
    raise UserError(f"--{role}: {folder} holds no run: train one with --mode=train")
  task = saved.read(folder).get("task")
  if task != _ROLES[role]:
    raise UserError(f"--{role}: the run in {folder} is of {task}, expected {_ROLES[role]}: name another")
  if not is_finished(folder):
    raise UserError(f"--{role}: the run in {folder} is not finished: start its command again")
  return folder


class _Predicted(NamedTuple):
  """The records of one run for the validation and test sets, and what they were made with."""

  config: ConfigDict
  data: Data
  record: dict[str, Any]
  threshold: float
  rows: dict[str, list[Record]]


def _config(folder: pathlib.Path) -> ConfigDict:
  """The configuration of a run, without folders of its data that are no longer there."""
  config = ConfigDict(saved.read(folder))
  if config.data.root and not pathlib.Path(config.data.root).expanduser().is_dir():
    config.data.root = None  # moved since; the data set is built
  if config.data.dir and not pathlib.Path(config.data.dir).expanduser().is_dir():
    config.data.dir = None  # moved too: TFDS's own folder
  return config


def _predict(folder: pathlib.Path, config: ConfigDict) -> _Predicted:
  """Records of the validation and test sets by a run's best checkpoint, at its configured or its validation set's threshold."""
  best = Checkpoints(folder / "checkpoints" / "best", read_only=True)
  known = best.restore()
  best.close()
  if known is None:
    raise no_best(folder, UserError(f"{folder} holds no checkpoint: train first", "mode=train"))
  trained = checkpoint_record.check(known[1], best.folder)["config"]
  if differ := differences(trained, plain(config)):
    raise files.damaged(folder / "config.json", f"its checkpoint was trained with another {listed(differ)}")
  components = make_components(config, known[1]["normalize"])
  data = run_data.open_data(config, components)
  if data.split.hash != splits.read(folder)["hash"]:
    raise UserError(f"the data set has changed since the run in {folder} was trained: train it again")
  variables, record = restoring.restore_best(config, folder, components)
  task, threshold, largest = components.task, config.eval.threshold, config.eval.largest_component
  rows = {}
  for subset in ("validation", "test"):
    logits = prediction.predict_chunks(config, components, variables, chunks.read(data, subset))
    predicted = logits.map(lambda chunk: chunk._replace(tumor=prediction.probabilities(components, chunk.tumor)))
    if threshold is None:  # validation comes first
      threshold = task.choose_threshold(predicted, largest)
    rows[subset] = chunks.in_order(
      [
        row
        for slices, tumor in predicted
        for row in task.slice_records(
          slices, tumor, task.predict(tumor, slices, threshold, largest), data=data.title, split=data.split.name
        )
      ],
      getattr(data.split, subset),
    )
  return _Predicted(config, data, record, threshold, rows)


def _report(workdir: pathlib.Path, about: dict[str, Any], runs_of: dict[str, _Predicted]) -> None:
  segmenter, classifier = runs_of["segmenter"], runs_of["classifier"]
  # With several classes a slice has a record for each: gating and the classification of slices use all of them together.
  subsets = {
    subset: (of_any_class(segmenter.rows[subset]), classifier.rows[subset]) for subset in ("validation", "test")
  }
  probability = {subset: gating.column(rows[1], "probability") for subset, rows in subsets.items()}
  label = gating.column(subsets["validation"][0], "label")
  threshold = gating.gate_threshold(probability["validation"], label, about["sensitivity"])
  passes = {subset: values >= threshold for subset, values in probability.items()}
  segmented, classified = subsets["test"]
  by_class = segmenter.rows["test"]
  gated = gating.gate(by_class, np.repeat(passes["test"], len(info_of(segmenter.record).classes)))
  ways = gating.classify_slices(subsets["validation"], subsets["test"], classifier.threshold)
  classified_by = {
    way: [
      row | {"probability": float(p), "prediction": int(p >= cut_off)}
      for row, p in zip(classified, probabilities, strict=True)
    ]
    for way, (probabilities, cut_off) in ways.items()
  }
  summary = {
    **segmenter.data.names,
    "synthetic": segmenter.data.builder.builder_config.synthetic,
    "split_hash": segmenter.data.split.hash,
    **{
      role: {
        "run": about[role],
        "model": run.config.model.name,
        "threshold": run.threshold,
        "checkpoint": {"step": run.record["step"], "arrays_sha256": run.record["arrays_sha256"]},
      }
      for role, run in runs_of.items()
    },
    "gate": {
      "sensitivity_asked": about["sensitivity"],
      "threshold": threshold,
      "threshold_from": "chosen on the validation set",
      "validation": gating.gate_effect(subsets["validation"][0], passes["validation"]),
    },
    "thresholds": {way: cut_off for way, (_, cut_off) in ways.items()},
    **provenance(),
    "intervals": bootstrap.about(len({row["patient"] for row in segmented})),
    "test": {
      "gate": gating.gate_effect(segmented, passes["test"], intervals=True),
      "segmentation": {"alone": summarize(by_class, intervals=True), "gated": summarize(gated, intervals=True)},
      "classification": {way: summarize_classes(rows, intervals=True) for way, rows in classified_by.items()},
    },
  }
  rows = [
    {
      **row,
      "classifier_probability": float(probability["test"][index]),
      "gate_passes": int(passes["test"][index]),
      **{f"{way}_probability": classified_by[way][index]["probability"] for way in gating.FEATURES},
      **{f"{way}_prediction": classified_by[way][index]["prediction"] for way in gating.WAYS},
    }
    for index, row in enumerate(segmented)
  ]
  table, title = cascade_table(summary), heading(summary)
  written = [
    files.write_csv(workdir / "slices.csv", rows),
    write_summary(workdir, summary),
    files.write_bytes(workdir / "table.txt", f"{table}\n".encode()),
    figures.save_gate(workdir / "figures/gate.png", segmented, probability["test"], threshold, title=title),
    html.write_report(workdir, show_slices=segmenter.config.report.show_slices),
  ]
  console.show(summary, written)
