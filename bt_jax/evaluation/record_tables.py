"""The tables of a run: writes them, reads them back, and checks that they are consistent before they are used."""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from pydantic import Field

from bt_jax import files, metrics
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.registry import groups_of, info_of
from bt_jax.errors import UserError
from bt_jax.evaluation import aggregation, calibration, class_statistics, outline
from bt_jax.evaluation.bootstrap import Numbers
from bt_jax.evaluation.records import Record, of_any_class, patient_records
from bt_jax.evaluation.shape import FEATURES
from bt_jax.evaluation.summary_files import check_files, need, read_summary
from bt_jax.files import EVALUATE, Amount, Code, Count, Flag, Real, Share, Text

_NAMES, _SLICE = ("data", "split"), ("data", "split", "case", "patient", "slice", "label", "probability")
_SHAPES = {kind: tuple(f"{kind}_{feature}" for feature in FEATURES) for kind in ("truth", "predicted")}
# The type of each column, which is the same in all tables; columns not named here are text.
_KINDS = {
  **dict.fromkeys(("slice", "slices", "tumor_slices", *metrics.Counts._fields, "truth_voxels", "pixels", "tumor_pixels"), Count),
  **dict.fromkeys(("epoch", "step"), Count),
  **dict.fromkeys(outline.COLUMNS, Count | None),
  **dict.fromkeys(("label", "prediction", "calibrated", "gate_passes"), Flag),
  **dict.fromkeys(("data", "split", "case", "patient", "baseline", "unit", "class"), Text),
  **dict.fromkeys(("probability", "classifier_probability", calibration.CALIBRATED, *metrics.METRICS, "train_accuracy", "validation_accuracy"), Share),
  **dict.fromkeys(("train_loss", "validation_loss", "validation_score"), Real),
  **dict.fromkeys(("learning_rate", "slices_per_second", "probability_sum"), Amount),
  "bin": Annotated[int, Field(ge=0, lt=calibration.BINS)],
  **dict.fromkeys((*_SHAPES["truth"], *_SHAPES["predicted"]), Real | None),
  **dict.fromkeys(aggregation.DISTANCES, Amount | None),
}  # fmt: skip


def kind_of(column: str) -> Any:
  """The type of a column, see `files.read_csv`; that of a field of patients depends on the data set."""
  return _KINDS.get(column, Text | None)


def _patient_kinds(info: DatasetInfo) -> dict[str, Any]:
  """The type of each field of a data set's patients."""
  groups = groups_of(info)
  kinds = dict.fromkeys(info.patient_fields, Text | None)
  return kinds | dict.fromkeys(groups.codes, Code) | dict.fromkeys(groups.flags, bool)


@dataclasses.dataclass(frozen=True)
class Tables:
  """The records that all statistics are derived from.

  Attributes:
    slices: one record per test slice and class.
    patients: one record per patient and class.
    reliability: pixels of each patient by bin of probability; empty for a classifier.
    baselines: like `slices`, for every baseline, which the column `baseline` names.
  """

  slices: list[Record]
  patients: list[Record]
  reliability: list[Record]
  baselines: list[Record]

  def write(self, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes each table that has rows, and deletes the file of an earlier evaluation if a table has none."""
    written = []
    for name, rows in vars(self).items():
      path = folder / f"{name}.csv"
      if rows:
        written.append(files.write_csv(path, rows))
      else:
        path.unlink(missing_ok=True)
    return written

  @classmethod
  def read(cls, folder: pathlib.Path, task: str, *, leaky: bool, info: DatasetInfo) -> "Tables":
    """Reads the tables in a folder.

    Args:
      folder: folder of the run.
      task: task of the run, which determines the columns.
      leaky: whether its split divides volumes; volume measurements are then absent.
      info: its data set, with the fields of its patients.

    Raises:
      UserError: the table of slices or of patients has no rows, or a table is damaged.
    """
    form = _OF_TASK[task]
    measured = (*_SHAPES["truth"], "truth_voxels", *form.measured) if not leaky else ()
    of_patient = ("slices", "tumor_slices", *metrics.Counts._fields, *form.scores)
    columns = {
      "slices": (*_SLICE, *form.predicted, calibration.CALIBRATED),
      "patients": (*_NAMES, "patient", *of_patient, *info.patient_fields, *measured),
      "reliability": (*_NAMES, "patient", "calibrated", "bin", "pixels", "probability_sum", "tumor_pixels"),
      "baselines": ("baseline", *_SLICE, *form.predicted),
    }
    path = {name: folder / f"{name}.csv" for name in columns}
    of_patients = _patient_kinds(info)
    kind = {"patients": lambda column: of_patients.get(column, kind_of(column))}
    tables = cls(
      **{
        name: files.read_csv(path[name], kind.get(name, kind_of), columns[name]) if path[name].is_file() else []
        for name in columns
      }
    )
    for name in ("slices", "patients"):
      if not getattr(tables, name):
        raise UserError(f"{path[name]} is missing or has no rows: {EVALUATE}", *EVALUATE.arguments)
    return tables

  @classmethod
  def joined(cls, several: "list[Tables]") -> "Tables":
    """Concatenates the tables of several runs; a column that some of them lack has no value in their rows."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: _alike([row for tables in several for row in getattr(tables, name)]) for name in names})


def _alike(rows: list[Record]) -> list[Record]:
  """The rows with all columns of any of them."""
  columns = dict.fromkeys(name for row in rows for name in row)
  return [{name: row.get(name) for name in columns} for row in rows]


def read_run(folder: pathlib.Path) -> tuple[dict[str, Any], Tables]:
  """Reads the summary and the tables of a finished run.

  Raises:
    UserError: there is none, it is damaged or of another version, or its tables are inconsistent with each other or
      with the summary.
  """
  summary, path = read_summary(folder), folder / "summary.json"
  if "segmenter" in summary:
    raise UserError(f"{folder} is a cascade, expected the run of one network: name another")
  tables = Tables.read(folder, summary["task"], leaky=summary["leaky"], info=info_of(summary))
  _check(folder, tables, summary["task"])
  check_files(folder, summary)
  test, slices = summary["test"], of_any_class(tables.slices)
  counted = {
    "slices": len(slices),
    "patients": len({row["patient"] for row in tables.patients}),
    "tumor_slices": sum(row["label"] for row in slices),
  }
  for name, count in counted.items():
    if test[name] != count:
      raise files.damaged(path, f"test.{name} is {test[name]}, and the tables have {count}", EVALUATE)
  _check_summary(path, summary, tables)
  return summary, tables


def _check_summary(path: pathlib.Path, summary: dict[str, Any], tables: Tables) -> None:
  """Raises UserError if the summary lacks a statistic that its tables give, or has other baselines."""
  form, test = _OF_TASK[summary["task"]], summary["test"]
  names = list(form.numbers(tables.slices)(np.arange(test["patients"])[None]))
  for baseline in summary["baselines"]:
    need(path, baseline["test"], names, f"the baseline {baseline['name']}")
  if [baseline["name"] for baseline in summary["baselines"]] != list(
    dict.fromkeys(row["baseline"] for row in tables.baselines)
  ):
    raise files.damaged(path, "its baselines are not those of baselines.csv", EVALUATE)
  need(path, test, form.check(path, summary, tables, names), "test")
  kinds = form.calibrated
  if missing := [kind for kind in kinds if kind not in test["calibration"] or kind not in summary["temperatures"]]:
    raise files.damaged(path, f"test.calibration or temperatures lack {missing[0]}", EVALUATE)


def _check_masks(path: pathlib.Path, summary: dict[str, Any], tables: Tables, names: list[str]) -> list[str]:
  """The statistics that the summary of a segmenter must have; raises UserError where volumes or surfaces lack their texts."""
  test, leaky = summary["test"], summary["leaky"]
  for group, texts in (("volume", ("unit",)), ("surface", ("unit", "empty"))):
    texts = ("why",) if leaky else texts
    if not isinstance(test.get(group), dict) or any(not isinstance(test[group].get(text), str) for text in texts):
      raise files.damaged(path, f"test.{group} lacks {' or '.join(texts)}", EVALUATE)
  if near := aggregation.summarize_outline(tables.slices, intervals=False):
    names = names + [f"outline.{name}" for name in flatten_dict(near, sep=".") if name not in ("patients", "why")]
  if leaky:
    return [name for name in names if not name.startswith("volume.")]
  distances = aggregation.summarize_distances(tables.patients, intervals=False)
  return names + [f"surface.{name}" for name in flatten_dict(distances, sep=".") if name != "unit"]


def _check_labels(path: pathlib.Path, summary: dict[str, Any], tables: Tables, names: list[str]) -> list[str]:
  """The statistics that the summary of a classifier must have; raises UserError where it lacks a count."""
  test, cells = summary["test"], {"confusion": ("tn", "fp", "fn", "tp"), "per_class": class_statistics.CLASSES}
  if any(not isinstance(test.get(group), dict) for group in cells):
    raise files.damaged(path, "test lacks confusion or per_class", EVALUATE)
  if any(not isinstance(test["confusion"].get(name), int) for name in cells["confusion"]):
    raise files.damaged(path, "test.confusion lacks a count", EVALUATE)
  return names


class _Form(NamedTuple):
  """What the tables and the summary of a task hold.

  Attributes:
    predicted: columns of `slices.csv` with the predictions.
    scores: columns of `patients.csv` with the scores.
    measured: columns of `patients.csv` that are measured on whole volumes, besides the shape of the truth.
    calibrated: what there is a temperature for.
    numbers: see `Task.numbers`.
    of_patients: see `Task.patient_records`.
    check: checks the summary, and returns the names of the statistics that it must have.
  """

  predicted: tuple[str, ...]
  scores: tuple[str, ...]
  measured: tuple[str, ...]
  calibrated: tuple[str, ...]
  numbers: Callable[[list[Record]], Numbers]
  of_patients: Callable[[list[Record]], list[Record]]
  check: Callable[[pathlib.Path, dict[str, Any], Tables, list[str]], list[str]]


_OF_TASK = {
  "segmentation": _Form(
    predicted=metrics.Counts._fields,
    scores=tuple(metrics.METRICS),
    measured=(*_SHAPES["predicted"], "unit", *aggregation.DISTANCES),
    calibrated=("slices", "pixels"),
    numbers=aggregation.numbers_of,
    of_patients=patient_records,
    check=_check_masks,
  ),
  "classification": _Form(
    predicted=("prediction",),
    scores=("accuracy",),
    measured=(),
    calibrated=("slices",),
    numbers=class_statistics.numbers_of,
    of_patients=class_statistics.patient_class_rows,
    check=_check_labels,
  ),
}


def _check(folder: pathlib.Path, tables: Tables, task: str) -> None:
  """Raises UserError if the tables are inconsistent with each other."""
  of_patient = lambda row: (row["patient"], row.get("class", ""))
  patients, expected = Counter(map(of_patient, tables.patients)), set(map(of_patient, tables.slices))
  if wrong := sorted({name for name, times in patients.items() if times > 1} | (expected ^ patients.keys())):
    once = f"{wrong[0][0]} once" + (f" with the class {wrong[0][1]}" if wrong[0][1] else "")
    raise UserError(f"{folder}/patients.csv does not have {once}, and slices.csv does: {EVALUATE}", *EVALUATE.arguments)
  counted = {of_patient(row): row for row in _OF_TASK[task].of_patients(tables.slices)}
  for row in tables.patients:
    for name, value in counted[of_patient(row)].items():
      written = row.get(name)
      if not (written == value or (isinstance(value, float) and np.isclose(written, value))):
        reason = f"{name} of {row['patient']} is {written!r}, and slices.csv gives {value!r}"
        raise files.damaged(folder / "patients.csv", reason, EVALUATE)
  of_slice = lambda row: (row["case"], row["slice"], row.get("class"))
  ids = list(map(of_slice, tables.slices))
  for name in dict.fromkeys(row["baseline"] for row in tables.baselines):
    if [of_slice(row) for row in tables.baselines if row["baseline"] == name] != ids:
      raise UserError(
        f"{folder}/baselines.csv has other slices for {name} than slices.csv: {EVALUATE}", *EVALUATE.arguments
      )
  bins = Counter((row["patient"], row["calibrated"], row["bin"]) for row in tables.reliability)
  once = {(name, kind, number): 1 for name, _ in expected for kind in (0, 1) for number in range(calibration.BINS)}
  if tables.reliability and bins != once:
    raise UserError(
      f"{folder}/reliability.csv does not have each of 2 x {calibration.BINS} bins once for each patient: {EVALUATE}",
      *EVALUATE.arguments,
    )
