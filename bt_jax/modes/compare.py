"""Compares two finished runs of the same split, on a page of its own."""

import pathlib
from collections.abc import Sequence
from typing import Any

from bt_jax import files
from bt_jax.datasets.registry import info_of
from bt_jax.errors import UserError
from bt_jax.evaluation import bootstrap, comparison
from bt_jax.evaluation.aggregation import score_of
from bt_jax.evaluation.record_tables import Tables, read_run
from bt_jax.evaluation.records import of_any_class
from bt_jax.reporting import console
from bt_jax.reporting.page import comparison_page
from bt_jax.reporting.text_tables import compare_table
from bt_jax.tasks import TASKS
from bt_jax.tasks.task import Task

Group = dict[str, Any]


def compare(runs: Sequence[str], workdir: pathlib.Path | None) -> None:
  """Writes and prints the paired differences over patients of two runs.

  Args:
    runs: the folders of both; the difference is the second minus the first.
    workdir: where to write; None: `runs/compare_<first>_<second>`.

  Raises:
    UserError: there are not two runs, one is not finished, or they differ in task, split or slices.
  """
  if len(runs) != 2:
    raise UserError(f"--mode=compare takes two runs, not {len(runs)}: --runs=FIRST,SECOND")
  folders = [pathlib.Path(run).expanduser() for run in runs]
  first, second = (read_run(folder) for folder in folders)
  _check_alike(folders, first, second)
  (about, before), (_, after) = first, second
  of_first, of_second = (of_any_class(tables.patients) for tables in (before, after))
  task, patients = TASKS[about["task"]], len(of_first)
  columns = [name for name in task.by_patient if name in of_first[0] and name in of_second[0]]
  numbers = [task.numbers(tables.slices) for tables in (before, after)]
  one, two = (bootstrap.estimate(of, patients, intervals=False) for of in numbers)
  change = comparison.differences(*numbers, patients)
  summary = {
    **{name: about[name] for name in ("data", "split", "leaky", "synthetic", "split_hash", "task")},
    **{
      side: {"run": str(folder.resolve()), "model": of["model"], "commit": of["commit"]}
      for side, folder, (of, _) in zip(("first", "second"), folders, (first, second), strict=True)
    },
    "slices": len(of_any_class(before.slices)),
    "intervals": bootstrap.about(patients, shares=False),
    "headline": _headline(task, one, two, change),
    **(
      {"classes": {name: _headline(task, *of) for name, *of in _by_class(one, two, change)}} if "classes" in one else {}
    ),
    "patients": {name: comparison.paired(of_first, of_second, name) for name in columns},
    "differences": change,
  }
  table = compare_table(summary)
  names = "_".join(folder.resolve().name for folder in folders)
  workdir = workdir or pathlib.Path("runs") / f"compare_{names}"
  rows = [
    {"patient": one["patient"], **{f"{name}_{side}": of[name] for name in columns for side, of in (("first", one), ("second", two))}}
    for one, two in zip(of_first, of_second, strict=True)
  ]  # fmt: skip
  written = [
    files.write_csv(workdir / "differences.csv", rows),
    files.write_json(workdir / "comparison.json", summary),
    files.write_bytes(workdir / "comparison.txt", f"{table}\n".encode()),
    comparison_page.write_report(workdir, summary, rows),
  ]
  console.show(summary, written)


def _headline(task: type[Task], first: Group, second: Group, change: Group) -> dict[str, Group]:
  """The headline statistics of a task, in both runs."""
  return {
    short: {
      "first": score_of(first, name),
      "second": score_of(second, name),
      "difference": score_of(change, name),
      "difference_ci95": score_of(change, f"{name}_ci95"),
    }
    for short, name in task.headline.items()
  }


def _by_class(*summaries: Group) -> list[tuple[Any, ...]]:
  """The name of each class, and its part of each summary."""
  return [(name, *(summary["classes"][name] for summary in summaries)) for name in summaries[0]["classes"]]


def _check_alike(
  folders: list[pathlib.Path], first: tuple[dict[str, Any], Tables], second: tuple[dict[str, Any], Tables]
) -> None:
  (one, before), (two, after) = first, second
  info_of(one).check_same(info_of(two), str(folders[0]), str(folders[1]))
  for name, what in (("task", "task"), ("split_hash", "split")):
    if one[name] != two[name]:
      both = " and ".join(
        f"{folder}: {of['task']}, {of['data']}, {of['split']}" for folder, of in zip(folders, (one, two), strict=True)
      )
      raise UserError(
        f"--runs are not of the same {what} ({both}): only runs evaluated on the same slices are compared"
      )
  for name, key in (("slices", ("case", "slice", "class")), ("patients", ("patient", "class"))):
    ids = [[[row.get(part) for part in key] for row in getattr(tables, name)] for tables in (before, after)]
    if ids[0] != ids[1]:
      raise UserError(
        f"--runs: {name}.csv of {folders[0]} and {folders[1]} differ in their {name} or their order: evaluate both again"
      )
