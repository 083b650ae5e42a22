"""The tables of a run: written, read back, and checked against each other before anything is made of them."""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from bt_jax import files, metrics
from bt_jax.errors import UserError
from bt_jax.evaluation import calibration
from bt_jax.evaluation.rows import Row

# What a summary, its test part and each row of slices must have, by task.
_SUMMARY = (
  "data", "split", "leaky", "synthetic", "split_hash", "task", "model", "normalize", "threshold", "threshold_from",
  "largest_component", "temperatures", "epochs", "seconds", "commit", "intervals", "baselines", "test",
)  # fmt: skip
_TEST = {
  "segmentation": ("pooled", "patient", "slice", "detection", "volume", "surface"),
  "classification": ("accuracy", "roc_auc", "specificity", "confusion", "per_class", "macro"),
}
_ROW = ("case", "patient", "slice", "label", "probability", calibration.CALIBRATED)
_JUDGED = {"segmentation": metrics.Counts._fields, "classification": ("prediction",)}
_CURE = "evaluate its run again, with --mode=evaluate"


@dataclasses.dataclass(frozen=True)
class Tables:
  """The rows that every number is made from.

  Attributes:
    slices: one per test slice.
    patients: one per patient.
    reliability: pixels of each patient by bin of probability; none of a classifier.
    baselines: as `slices`, for every baseline, which the column `baseline` names.
  """

  slices: list[Row]
  patients: list[Row]
  reliability: list[Row]
  baselines: list[Row]

  def write(self, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes each table that has rows, and removes what an earlier evaluation left of one that has none."""
    written = []
    for name, rows in vars(self).items():
      path = folder / f"{name}.csv"
      if rows:
        written.append(files.write_csv(path, rows))
      else:
        path.unlink(missing_ok=True)
    return written

  @classmethod
  def read(cls, folder: pathlib.Path) -> "Tables":
    """The tables in a folder; raises UserError where it has no rows of slices or of patients."""
    path = {field.name: folder / f"{field.name}.csv" for field in dataclasses.fields(cls)}
    tables = cls(**{name: files.read_csv(file) if file.is_file() else [] for name, file in path.items()})
    for name in ("slices", "patients"):
      if not getattr(tables, name):
        raise UserError(f"{path[name]} is missing or has no rows: {_CURE}")
    return tables

  @classmethod
  def joined(cls, several: "list[Tables]") -> "Tables":
    """The rows of several runs, one after another."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: [row for tables in several for row in getattr(tables, name)] for name in names})


def read_run(folder: pathlib.Path) -> tuple[dict[str, Any], Tables]:
  """The summary and the tables of a finished run.

  Raises:
    UserError: there is none, it is damaged or of another version, or its tables do not fit each other.
  """
  summary = read_summary(folder, _SUMMARY)
  task, test = summary["task"], summary["test"]
  if task not in _TEST:
    raise UserError(f"{folder}/summary.json is of the task {task!r}, expected one of {', '.join(_TEST)}")
  _need(
    folder / "summary.json",
    "test",
    test,
    ("slices", "patients", "calibration", "subgroups", "associations", *_TEST[task]),
  )
  tables = Tables.read(folder)
  _check(folder, tables, (*_ROW, *_JUDGED[task]))
  if len(tables.slices) != test["slices"]:
    raise UserError(
      f"{folder}/slices.csv has {len(tables.slices)} rows, but summary.json {test['slices']} slices: {_CURE}"
    )
  return summary, tables


def read_summary(folder: pathlib.Path, names: Iterable[str]) -> dict[str, Any]:
  """The `summary.json` in a folder, with at least these fields; raises UserError where there is none such."""
  path = folder / "summary.json"
  if not path.is_file():
    raise UserError(f"{folder} holds no finished run, as it has no summary.json: name the folder of one, or finish it")
  summary = files.read_json(path)
  _need(path, "it", summary, names)
  return summary


def _need(path: pathlib.Path, what: str, group: Any, names: Iterable[str]) -> None:
  missing = [name for name in names if not isinstance(group, dict) or name not in group]
  if missing:
    raise UserError(f"{path} is damaged or of another version ({what} lacks {', '.join(missing)}): {_CURE}")


def _check(folder: pathlib.Path, tables: Tables, columns: tuple[str, ...]) -> None:
  for name, rows in (("slices", tables.slices), ("baselines", tables.baselines)):
    empty = [column for column in columns if any(row.get(column) is None for row in rows)]
    if name == "baselines":  # which know no temperature
      empty = [column for column in empty if column != calibration.CALIBRATED]
    if empty:
      raise UserError(f"{folder}/{name}.csv is damaged or of another version (no value in {', '.join(empty)}): {_CURE}")
  patients = Counter(row["patient"] for row in tables.patients)
  expected = {row["patient"] for row in tables.slices}
  if wrong := sorted({name for name, times in patients.items() if times > 1} | (expected ^ patients.keys())):
    raise UserError(f"{folder}/patients.csv does not have {wrong[0]} once, and slices.csv does: {_CURE}")
  ids = [(row["case"], row["slice"]) for row in tables.slices]
  for name in dict.fromkeys(row.get("baseline") for row in tables.baselines):
    if [(row["case"], row["slice"]) for row in tables.baselines if row.get("baseline") == name] != ids:
      raise UserError(f"{folder}/baselines.csv has other slices for {name} than slices.csv: {_CURE}")
  bins = Counter(row.get("patient") for row in tables.reliability)
  if tables.reliability and bins != dict.fromkeys(expected, 2 * calibration.BINS):
    raise UserError(f"{folder}/reliability.csv does not have {2 * calibration.BINS} rows for each patient: {_CURE}")
