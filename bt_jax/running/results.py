"""From the tables of a run, or of many folds, to its numbers: `summary.json`, `table.txt` and `report.html`."""

import dataclasses
import datetime
import functools
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import bt_jax
from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.evaluation import association, baselines, bootstrap, calibration, subgroups, surface
from bt_jax.evaluation.aggregation import score_of, summarize_distances
from bt_jax.evaluation.rows import Row
from bt_jax.report.page import html
from bt_jax.running.judges import Judge

_ENOUGH = 20  # patients, to look for associations with their genes


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

  def write(self, workdir: pathlib.Path) -> list[pathlib.Path]:
    """Writes each table that has rows, and removes what an earlier evaluation left of one that has none."""
    written = []
    for name, rows in vars(self).items():
      path = workdir / f"{name}.csv"
      if rows:
        written.append(files.write_csv(path, rows))
      else:
        path.unlink(missing_ok=True)
    return written

  @classmethod
  def read(cls, workdir: pathlib.Path) -> "Tables":
    """The tables of a run; raises UserError where it has no rows."""
    path = {field.name: workdir / f"{field.name}.csv" for field in dataclasses.fields(cls)}
    tables = cls(**{name: files.read_csv(file) if file.is_file() else [] for name, file in path.items()})
    if not tables.slices or not tables.patients:
      raise UserError(f"{workdir} holds no rows of test slices: finish its run with the command that began it")
    return tables

  @classmethod
  def joined(cls, several: "list[Tables]") -> "Tables":
    """The rows of several runs, one after another."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: [row for tables in several for row in getattr(tables, name)] for name in names})


def about_this() -> dict[str, Any]:
  """What made the results: versions, commit and time, for `summary.json`."""
  packages = ("jax", "jaxlib", "flax", "optax", "numpy")
  return {
    "versions": {
      "bt_jax": bt_jax.__version__,
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in packages},
    },
    "commit": _commit(),
    "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }


@functools.cache
def _commit() -> str | None:
  """Of the checkout that this code runs from, `-dirty` where files differ from it; None elsewhere."""
  root = pathlib.Path(bt_jax.__file__).parent.parent
  if not (root / ".git").exists():
    return None
  try:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
  except (OSError, subprocess.SubprocessError):  # no git here
    return None


def summarize(
  tables: Tables,
  judge: Judge,
  about: dict[str, Any],
  *,
  groupings: tuple[str, ...],
  parameters: dict[str, dict[str, Any]] | None = None,
  everyone: list[Row] | None = None,
) -> dict[str, Any]:
  """The whole `summary.json` of tables.

  Args:
    tables: of the test part.
    judge: of the task.
    about: what else stands in it; with `leaky`, and `temperatures` by `pixels` and `slices`.
    groupings: names of subgroups.
    parameters: of the baselines; None where they differ from fold to fold.
    everyone: rows of patients for what their true masks alone tell; None: those of the tables.
  """
  test = judge.summarize(tables.slices, intervals=True)
  whole = not about["leaky"]
  cut = {"why": "the random split cuts volumes, and this is measured on whole ones"}
  if tables.reliability:  # of a segmenter
    test["volume"] = {"unit": "voxels", **test["volume"]} if whole else cut
    distances = functools.partial(summarize_distances, tables.patients, intervals=True)
    test["surface"] = {"empty": surface.EMPTY, **distances()} if whole else cut
  test["calibration"] = _calibration(tables, about["temperatures"])
  pick = lambda rows: _pick(judge.summarize(rows, intervals=True), judge.headline)
  test["subgroups"] = subgroups.summarize(tables.patients, tables.slices, groupings, pick)
  test["associations"] = _associations(tables, everyone or tables.patients) if whole else cut
  return {
    **about,
    "intervals": bootstrap.about(test["patients"]),
    "test": test,
    "baselines": [
      {"name": name, **baselines.told(name), "parameters": (parameters or {}).get(name)}
      | {"test": judge.summarize([row for row in tables.baselines if row["baseline"] == name], intervals=True)}
      for name in dict.fromkeys(row["baseline"] for row in tables.baselines)
    ],
  }


def _calibration(tables: Tables, temperatures: dict[str, float | None]) -> dict[str, Any]:
  patients = len(tables.patients)
  numbers = {
    "slices": calibration.slice_errors(tables.slices, {"ece": "probability", "ece_calibrated": calibration.CALIBRATED})
  }
  if tables.reliability:
    numbers["pixels"] = calibration.pixel_errors(tables.reliability)
  return {name: {"temperature": temperatures[name], **bootstrap.estimate(of, patients)} for name, of in numbers.items()}


def _pick(test: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
  """Some numbers of a summary by short names, each with its interval."""
  return {
    f"{short}{ending}": score_of(test, f"{name}{ending}") for short, name in names.items() for ending in ("", "_ci95")
  }


def _associations(tables: Tables, everyone: list[Row]) -> dict[str, Any]:
  """Of shapes in the radiologists' masks and, where there are enough, in the predicted ones; `why` where there are not."""
  found = {}
  for kind, patients in (("truth", everyone), ("predicted", tables.patients if tables.reliability else [])):
    if len(patients) >= _ENOUGH:
      found[kind] = association.associations(patients, f"{kind}_")
    elif patients:
      found["why"] = (
        f"{kind} masks of {len(patients)} patients: expected {_ENOUGH} or more to look for associations with genes"
      )
  return found


def write(
  workdir: pathlib.Path,
  tables: Tables,
  summary: dict[str, Any],
  judge: Judge,
  *,
  show_slices: bool,
  drawn: Sequence[pathlib.Path] = (),
) -> None:
  """Writes tables, summary and report, and prints the table and what was written.

  Args:
    workdir: the folder of the run.
    tables: of its test part.
    summary: made of them.
    judge: of the task.
    show_slices: whether the report may show slices.
    drawn: the pictures that were written already.
  """
  table = judge.table(summary)
  written = [
    *tables.write(workdir),
    files.write_json(workdir / "summary.json", summary),
    files.write_bytes(workdir / "table.txt", f"{table}\n".encode()),
    *drawn,
    html.write_report(workdir, show_slices=show_slices),
  ]
  print(f"\n{table}\n\nwritten:\n" + "\n".join(f"  {path}" for path in written))


def report(workdir: pathlib.Path | None, show_slices: bool | None) -> None:
  """Writes `report.html` of the run in `workdir` again, from its tables and pictures alone.

  Args:
    workdir: the folder of a run, of pooled folds or of a cascade.
    show_slices: whether the page shows slices; None: as the run's configuration says.

  Raises:
    UserError: there is no folder, or it holds no finished run.
  """
  if workdir is None:
    raise UserError("--mode=report needs the folder of a finished run: --workdir=RUN")
  if show_slices is None:
    path = workdir / "config.json"
    config = files.read_json(path) if path.is_file() else {}
    show_slices = config.get("report", {}).get("show_slices", True)
  print(f"written:\n  {html.write_report(workdir, show_slices=show_slices)}")
