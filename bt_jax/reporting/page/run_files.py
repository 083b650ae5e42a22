"""Reads the files of a finished run for the report."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from bt_jax import files
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.registry import info_of
from bt_jax.errors import UserError
from bt_jax.evaluation import classifier_gate
from bt_jax.evaluation.record_tables import Tables, kind_of, read_run
from bt_jax.evaluation.records import Record, of_any_class, patient_records
from bt_jax.evaluation.summary_files import check_files, read_summary
from configs import saved

# The required columns of `metrics.csv`.
_HISTORY = (
  "epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "validation_score",
)  # fmt: skip


class RunFiles(NamedTuple):
  """A finished run.

  Attributes:
    folder: folder of the run.
    summary: content of `summary.json`.
    config: content of `config.json`; empty if there is none.
    info: description of its data set.
    rows: records of `slices.csv`, merged over classes.
    patients: records of `patients.csv`, merged over classes; of a cascade those of its gated masks, if there is one class.
    slices_by_class: records of `slices.csv` by case and slice and then by class; empty if there is one class.
    history: rows of `metrics.csv`; empty if there is none.
    reliability: rows of `reliability.csv`; empty if there is none.
    table: text of `table.txt`.
  """

  folder: pathlib.Path
  summary: dict[str, Any]
  config: dict[str, Any]
  info: DatasetInfo
  rows: list[Record]
  patients: list[Record]
  slices_by_class: dict[tuple[str, int], dict[str, Record]]
  history: list[Record]
  reliability: list[Record]
  table: str

  @property
  def task(self) -> str:
    """Segmentation, classification or cascade."""
    return "cascade" if "segmenter" in self.summary else self.summary["task"]

  def history_of_folds(self) -> dict[str, list[Record]]:
    """The rows of `metrics.csv` of each pooled run whose folder is there, by fold."""
    paths = {name: run / "metrics.csv" for name, run in self.runs.items()} if self.summary.get("folds") else {}
    return {name: _table(path, _HISTORY) for name, path in paths.items() if path.is_file()}

  @property
  def runs(self) -> dict[str, pathlib.Path]:
    """The folders of the runs that this one consists of, by fold or role; without those that are no longer there.

    A run is in this folder or beside it, if they were moved together, or where it was; it is the same run if its checkpoint is.
    """
    named = {str(fold["fold"]): fold for fold in self.summary.get("folds") or []}
    named |= {role: self.summary[role] for role in ("segmenter", "classifier") if role in self.summary}
    folders = {name: self._folder_of(run) for name, run in named.items()}
    return {name: folder for name, folder in folders.items() if folder}

  def _folder_of(self, run: dict[str, Any]) -> pathlib.Path | None:
    """The folder of a run as this summary records it; those beside this one first, as only they are linked."""
    path = pathlib.Path(run.get("run") or "")
    near = (self.folder / path.name, self.folder.parent / path.name, self.folder / path) if path.name else ()
    return next((folder for folder in near if _is_of_checkpoint(folder, run.get("checkpoint"))), None)

  def of_classes(self, row: Record) -> Record:
    """A record of `slices.csv`; if there are several classes, with the record of each as `classes`."""
    classes = self.slices_by_class.get((row["case"], row["slice"]))
    return row | {"classes": classes} if classes else row


def read(folder: pathlib.Path) -> RunFiles:
  """Reads the run in a folder.

  Raises:
    UserError: there is no finished run, or its files are damaged, of another version, or inconsistent.
  """
  summary = read_summary(folder)
  # First the types of each file, which give a precise message; then whether the files are those of the summary.
  config, history, table = _config(folder), folder / "metrics.csv", folder / "table.txt"
  rows = _table(history, _HISTORY) if history.is_file() else []
  if "segmenter" in summary:
    slices = _table(folder / "slices.csv", ("case", "patient", "slice", "label"))
    tables = Tables(slices, _gated_patients(slices, info_of(summary)), [], [])
    check_files(folder, summary)
  else:
    summary, tables = read_run(folder)
  return RunFiles(
    folder,
    summary,
    config,
    info_of(summary),
    of_any_class(tables.slices),
    of_any_class(tables.patients),
    _by_slice(tables.slices),
    rows,
    tables.reliability,
    table.read_text(encoding="utf-8", errors="replace") if table.is_file() else "",
  )


def _is_of_checkpoint(folder: pathlib.Path, checkpoint: dict[str, Any] | None) -> bool:
  """Whether a folder holds the results of the checkpoint that a summary records; an older summary records none."""
  try:
    there = read_summary(folder).get("checkpoint")
  except (UserError, OSError):  # no run, a damaged one, or one of another user
    return False
  return bool(checkpoint and there) and checkpoint["arrays_sha256"] == there["arrays_sha256"]


def _gated_patients(rows: list[Record], info: DatasetInfo) -> list[Record]:
  """The patients of a cascade's slices with the gate; none where counts of several classes are merged in a slice."""
  if len(info.classes) > 1 or "gate_passes" not in rows[0]:
    return []
  return patient_records(classifier_gate.gate(rows, np.array([row["gate_passes"] for row in rows])))


def _by_slice(rows: list[Record]) -> dict[tuple[str, int], dict[str, Record]]:
  record_of: dict[tuple[str, int], dict[str, Record]] = {}
  for row in rows:
    if "class" in row:
      record_of.setdefault((row["case"], row["slice"]), {})[row["class"]] = row
  return record_of


def _config(folder: pathlib.Path) -> dict[str, Any]:
  """The configuration of a run; empty if there is none."""
  path = folder / "config.json"
  if not path.is_file():
    return {}
  config = saved.read(folder)
  if "loss" in config and config["loss"]["exponent"] <= 0:
    raise files.damaged(path, f"loss.exponent is {config['loss']['exponent']}, expected more than 0")
  return config


def _table(path: pathlib.Path, columns: tuple[str, ...]) -> list[Record]:
  remedy = "start its run's command again"
  rows = files.read_csv(path, kind_of, columns, remedy) if path.is_file() else []
  if not rows:
    raise files.damaged(path, "it is missing or has no rows", remedy)
  return rows
