"""From the tables of a run, or of pooled folds, to its results: `summary.json`, `table.txt` and `report.html`."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from bt_jax import files
from bt_jax.datasets.registry import info_of
from bt_jax.evaluation import bootstrap, calibration, subgroups, surface
from bt_jax.evaluation.aggregation import chosen, summarize_distances, summarize_outline
from bt_jax.evaluation.record_tables import Tables
from bt_jax.evaluation.records import Record
from bt_jax.evaluation.summary_files import mark_finished, unmark_finished, write_summary
from bt_jax.paper import baselines, genes
from bt_jax.reporting import console, text_tables
from bt_jax.reporting.page import html
from bt_jax.tasks.task import Task

_NO_GENES = {"why": "nothing is known of the patients' genes in this data set"}
_NO_OUTLINE = {"why": "the records are of a version that did not count errors near the outline"}
_ENOUGH = 20  # fewest patients for tests of association with their genes


def summarize(
  tables: Tables,
  task: Task | type[Task],
  about: dict[str, Any],
  *,
  groupings: tuple[str, ...],
  parameters: dict[str, dict[str, Any]] | None = None,
  everyone: list[Record] | None = None,
) -> dict[str, Any]:
  """Makes the complete content of `summary.json` from the tables.

  Args:
    tables: tables of the test set.
    task: task of the run.
    about: the other fields of the summary, including `leaky`, and `temperatures` for `pixels` and `slices`.
    groupings: names of the groupings of patients.
    parameters: parameters of the baselines; None if they differ between folds.
    everyone: records of patients for tests that need only their true masks; None: the patients of the tables.
  """
  info, test = info_of(about), task.summarize(tables.slices, intervals=True)
  whole = not about["leaky"]
  cut = {"why": "the random split cuts volumes, and this is measured on whole ones"}
  if tables.reliability:  # of a segmenter
    test["volume"] = {"unit": "voxels", **test["volume"]} if whole else cut
    distances = functools.partial(summarize_distances, tables.patients, intervals=True)
    test["surface"] = {"empty": surface.EMPTY, **distances()} if whole else cut
    test["outline"] = summarize_outline(tables.slices, intervals=True) or _NO_OUTLINE
  test["calibration"] = _calibration(tables, about["temperatures"])
  pick = lambda rows: chosen(task.summarize(rows, intervals=True), task.headline)
  test["subgroups"] = subgroups.summarize(tables.patients, tables.slices, groupings, pick, info)
  associations = _associations(tables, everyone or tables.patients) if genes.known(info) else _NO_GENES
  test["associations"] = associations if whole else cut
  return {
    **about,
    "intervals": bootstrap.about(test["patients"]),
    "test": test,
    "baselines": [
      {"name": name, "title": baselines.title(name), "parameters": (parameters or {}).get(name)}
      | {"test": task.summarize([row for row in tables.baselines if row["baseline"] == name], intervals=True)}
      for name in dict.fromkeys(row["baseline"] for row in tables.baselines)
    ],
  }


def _calibration(tables: Tables, temperatures: dict[str, float | None]) -> dict[str, Any]:
  patients = len({row["patient"] for row in tables.patients})
  numbers = {
    "slices": calibration.slice_errors(tables.slices, {"ece": "probability", "ece_calibrated": calibration.CALIBRATED})
  }
  if tables.reliability:
    numbers["pixels"] = calibration.pixel_errors(tables.reliability)
  return {
    name: {
      "temperature": temperatures[name],
      "why": calibration.warning_of(temperatures[name]),
      **bootstrap.estimate(of, patients),
    }
    for name, of in numbers.items()
  }


def _associations(tables: Tables, everyone: list[Record]) -> dict[str, Any]:
  """Tests of shape against genes, for true and for predicted masks; `why` if there are too few patients for one."""
  if any("class" in row for row in tables.patients):
    return {"why": "the masks have several classes: shape is compared with genes of one"}
  tested = {}
  for kind, patients in (("truth", everyone), ("predicted", tables.patients if tables.reliability else [])):
    if len(patients) >= _ENOUGH:
      tested[kind] = genes.associations(patients, f"{kind}_")
    elif patients:
      tested["why"] = (
        f"{kind} masks of {len(patients)} patients: expected {_ENOUGH} or more to look for associations with genes"
      )
  return tested


def write(
  workdir: pathlib.Path,
  tables: Tables,
  summary: dict[str, Any],
  *,
  show_slices: bool,
  drawn: Sequence[pathlib.Path] = (),
) -> None:
  """Writes tables, summary and report, and prints the verdict, a short table and the paths written.

  Args:
    workdir: the folder of the run.
    tables: tables of its test set.
    summary: the summary made from them.
    show_slices: whether the report may show slices.
    drawn: paths of the figures that are written already.
  """
  table = text_tables.OF_TASK[summary["task"]](summary)
  unmark_finished(workdir)
  written = [
    *tables.write(workdir),
    write_summary(workdir, summary),
    files.write_bytes(workdir / "table.txt", f"{table}\n".encode()),
    *drawn,
    html.write_report(workdir, show_slices=show_slices),
  ]
  mark_finished(workdir)
  console.show(summary, written)
