"""What a finished run left in its folder, read for the report."""

import pathlib
from typing import Any, NamedTuple

from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.evaluation.rows import Row
from bt_jax.evaluation.tables import Tables, read_run, read_summary

# What a cascade's summary and every line of `metrics.csv` must have.
_CASCADE = ("data", "split", "leaky", "synthetic", "classifier", "segmenter", "gate", "test", "intervals")
_HISTORY = (
  "epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "validation_score",
)  # fmt: skip


class Record(NamedTuple):
  """A finished run.

  Attributes:
    folder: of the run.
    summary: of `summary.json`.
    config: of `config.json`; empty where there is none.
    rows: of `slices.csv`.
    patients: of `patients.csv`, where there is one.
    history: of `metrics.csv`, where there is one.
    reliability: of `reliability.csv`, where there is one.
    table: of `table.txt`.
  """

  folder: pathlib.Path
  summary: dict[str, Any]
  config: dict[str, Any]
  rows: list[Row]
  patients: list[Row]
  history: list[Row]
  reliability: list[Row]
  table: str

  @property
  def task(self) -> str:
    """Segmentation, classification or cascade."""
    return "cascade" if "segmenter" in self.summary else self.summary["task"]


def read(folder: pathlib.Path) -> Record:
  """The run in a folder.

  Raises:
    UserError: there is no finished run, or its files are damaged, of another version, or do not fit each other.
  """
  if not (folder / "summary.json").is_file() or "segmenter" not in read_summary(folder, ()):
    summary, tables = read_run(folder)
  else:
    summary, rows = read_summary(folder, _CASCADE), _table(folder / "slices.csv", ("case", "patient", "slice", "label"))
    tables = Tables(rows, [], [], [])
  config, told = folder / "config.json", folder / "table.txt"
  about = files.read_json(config) if config.is_file() else {}
  if not isinstance(about, dict) or ("loss" in about) != ("train" in about):
    raise UserError(f"{config} is damaged: it is not the configuration of a run; put it back, or remove it")
  return Record(
    folder,
    summary,
    about,
    tables.slices,
    tables.patients,
    _table(folder / "metrics.csv", _HISTORY) if (folder / "metrics.csv").is_file() else [],
    tables.reliability,
    told.read_text(encoding="utf-8", errors="replace") if told.is_file() else "",
  )


def _table(path: pathlib.Path, columns: tuple[str, ...]) -> list[Row]:
  rows = files.read_csv(path) if path.is_file() else []
  missing = [name for name in columns if any(row.get(name) is None for row in rows)]
  if not rows or missing:
    told = f"no value in {', '.join(missing)}" if rows else "it has no rows"
    raise UserError(f"{path} is missing, damaged or of another version ({told}): start its run's command again")
  return rows
