"""Finds and checks the runs of folds, and pools their records."""

import glob
import hashlib
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bt_jax import files
from bt_jax.datasets import splits
from bt_jax.datasets.registry import info_of
from bt_jax.datasets.splits import Folds
from bt_jax.errors import UserError
from bt_jax.evaluation import subgroups
from bt_jax.evaluation.aggregation import chosen
from bt_jax.evaluation.record_tables import Tables, read_run
from bt_jax.evaluation.records import Record, of_any_class
from bt_jax.evaluation.summary_files import is_finished
from bt_jax.reporting import run_summary
from bt_jax.runs.provenance import provenance
from bt_jax.runs.workdir import differences, listed
from bt_jax.tasks import TASKS
from configs import saved

_ALIKE = (
  "data",
  "synthetic",
  "task",
  "model",
  "normalize",
  "threshold_from",
  "largest_component",
  "mirror",
)  # must be the same in all folds


def find_folds(runs: Sequence[str], groups: list[Folds], config: dict[str, Any]) -> dict[Folds, pathlib.Path]:
  """The run of each of these groups among folders; raises UserError where one is missing, there twice, or of another configuration.

  Args:
    runs: folders of runs, of folders of runs, or patterns of either.
    groups: the folds that each run tests; runs that test others are ignored.
    config: the configuration that each must have, as nested dictionaries.
  """
  run_of: dict[Folds, pathlib.Path] = {}
  for run in runs:
    matches = [pathlib.Path(match) for match in sorted(glob.glob(str(pathlib.Path(run).expanduser())))]
    folders = [folder for match in matches for folder in ([match] if _is_run(match) else sorted(match.glob("*")))]
    folders = [folder for folder in folders if _is_run(folder)]
    if not folders:
      raise UserError(f"--runs: {run} holds no run: name the folders of finished folds, or a pattern of them")
    for folder in folders:
      folds = splits.tested_folds(saved.read(folder).get("split", {}))
      if folds in run_of and folder.resolve() != run_of[folds].resolve():
        raise UserError(
          f"--runs: {run_of[folds]} and {folder} are both of {splits.folds_label(folds)}: leave one of them out"
        )
      if folds in groups:
        run_of[folds] = folder
  if missing := [folds for folds in groups if folds not in run_of]:
    raise UserError(
      f"--runs: there is no run of the folds {', '.join(map(splits.format_folds, missing))}: train them, name those there are "
      "with --config.crossval.folds, or say by --config.crossval.group how many folds each run tests"
    )
  for folds, folder in run_of.items():
    if not is_finished(folder):
      raise UserError(
        f"--runs: the run of {splits.folds_label(folds)} in {folder} is not finished: start its command again"
      )
    check_same(folder, config | {"split": splits.testing(config["split"], folds)})
  return {folds: run_of[folds] for folds in groups}


def _is_run(folder: pathlib.Path) -> bool:
  """Whether a folder holds a single run; a pooled cross-validation has no split."""
  return (folder / "config.json").is_file() and (folder / "split.json").is_file()


def check_same(folder: pathlib.Path, config: dict[str, Any]) -> None:
  """Raises UserError where the run in a folder does not have this configuration, given as nested dictionaries."""
  if differ := differences(saved.read(folder), config):
    raise UserError(
      f"{folder} is of another configuration, which differs in {listed(differ)}: folds of one configuration "
      "only are pooled; leave it out, or choose another --workdir"
    )


def pool(
  folders: dict[Folds, pathlib.Path], *, groupings: tuple[str, ...], everyone: list[Record] | None = None
) -> tuple[dict[str, Any], Tables]:
  """The pooled summary and tables of folds.

  Args:
    folders: folder of the finished run that tests these folds.
    groupings: names of subgroups.
    everyone: records of all patients with the shapes of their true masks; None where these folds have all patients.

  Raises:
    UserError: folds have different data, a record is missing or there twice, or a network saw a patient that it is
      evaluated on.
  """
  split_of = {fold: splits.read(folder) for fold, folder in folders.items()}
  runs = {fold: read_run(folder) for fold, folder in folders.items()}
  for fold, (summary, tables) in runs.items():
    if TASKS[summary["task"]].predicts_masks and not tables.reliability:
      raise UserError(f"{folders[fold]}/reliability.csv is missing: evaluate the run again, with --mode=evaluate")
  summaries, tables_of = ({fold: run[item] for fold, run in runs.items()} for item in (0, 1))
  first = next(iter(summaries.values()))
  every, count, group = info_of(first).folds, sum(map(len, folders)), max(map(len, folders))
  check(folders, split_of, tables_of, complete=count == every)
  _check_evaluated_alike(folders, summaries)
  _check_fields(folders, summaries, groupings)
  tables = Tables.joined(list(tables_of.values()))
  title = (
    f"{'' if count == every else f'{count} of '}{every} patient folds{f', {group} to a training' if group > 1 else ''}"
  )
  hashes = "".join(split["hash"] for split in split_of.values())
  about = {
    "data": first["data"],
    "split": title,
    "leaky": False,
    "synthetic": first["synthetic"],
    "split_hash": hashlib.sha256(hashes.encode()).hexdigest(),
    "parts": {"test": len(of_any_class(tables.slices))},
    **{name: first.get(name) for name in ("task", "info", "model", "normalize", "largest_component", "mirror")},
    **{name: "; ".join(sorted({str(of[name]) for of in summaries.values()})) for name in ("devices", "machine")},
    "commits": sorted({str(of["commit"]) for of in summaries.values()}),
    "threshold": None,
    "threshold_from": f"{first['threshold_from']}, by fold",
    **dict.fromkeys(("slice_gate", "validation")),
    "temperatures": dict.fromkeys(first["temperatures"]),
    "checkpoint": None,
    "epochs": {
      "planned": first["epochs"]["planned"],
      "trained": sum(of["epochs"]["trained"] for of in summaries.values()),
    },
    "seconds": sum(summary["seconds"] for summary in summaries.values()),
    "folds": [_fold(fold, folders[fold], summary) for fold, summary in summaries.items()],
    **provenance(),
  }
  return run_summary.summarize(tables, TASKS[first["task"]], about, groupings=groupings, everyone=everyone), tables


def _check_evaluated_alike(folders: dict[Folds, pathlib.Path], summaries: dict[Folds, dict[str, Any]]) -> None:
  """Raises UserError where folds were evaluated in different ways, as `--mode=evaluate` may have done."""
  first = next(iter(summaries))
  for fold, summary in summaries.items():
    info_of(summaries[first]).check_same(info_of(summary), str(folders[first]), str(folders[fold]))
  baselines = {fold: [baseline["name"] for baseline in of["baselines"]] for fold, of in summaries.items()}
  for fold, summary in summaries.items():
    named = {name: (summary.get(name), summaries[first].get(name)) for name in _ALIKE}
    named["baselines"] = (baselines[fold], baselines[first])
    differ = [
      f"{name} ({there!r}, {here!r} in {folders[first]})" for name, (there, here) in named.items() if there != here
    ]
    if differ:
      raise UserError(
        f"{folders[fold]} was evaluated in another way: {', '.join(differ)}; evaluate it again as the others were, with --mode=evaluate"
      )


def _check_fields(
  folders: dict[Folds, pathlib.Path], summaries: dict[Folds, dict[str, Any]], groupings: tuple[str, ...]
) -> None:
  """Raises UserError where what is known of patients differs between folds, or cannot group them as asked."""
  first = next(iter(summaries))
  expected = info_of(summaries[first])
  for fold, summary in summaries.items():
    path, info = folders[fold] / "summary.json", info_of(summary)
    for field in ("name", "patient_fields"):  # by which the columns of patients.csv have their types
      if getattr(info, field) != getattr(expected, field):
        raise files.damaged(path, f"info.{field} is not that of {folders[first]}", files.EVALUATE)
    if lacking := [name for name in groupings if name not in subgroups.groupings_of(info)]:
      reason = f"nothing in info.name and info.patient_fields groups patients by {lacking[0]}"
      raise files.damaged(path, reason, files.EVALUATE)


def _fold(folds: Folds, folder: pathlib.Path, summary: dict[str, Any]) -> dict[str, Any]:
  test = summary["test"]
  return {
    "fold": folds[0] if len(folds) == 1 else splits.format_folds(folds),
    "run": str(folder.resolve()),
    **{name: test[name] for name in ("patients", "slices", "tumor_slices")},
    **chosen(test, TASKS[summary["task"]].headline),
    **{name: summary[name] for name in ("threshold", "temperatures", "checkpoint", "epochs", "seconds", "commit")},
  }


def check(
  folders: dict[Folds, pathlib.Path],
  split_of: dict[Folds, dict[str, Any]],
  tables_of: dict[Folds, Tables],
  *,
  complete: bool,
) -> None:
  """Raises UserError where folds cannot be pooled, see `pool`; `complete` says that they are all folds of the data set."""
  patient_of = {row["case"]: row["patient"] for tables in tables_of.values() for row in tables.slices}
  patient = lambda name: patient_of.get(_case(name), _case(name))
  everything: dict[Folds, set[str]] = {}
  tested: dict[str, Folds] = {}
  for fold, folder in folders.items():
    split, rows = split_of[fold], tables_of[fold].slices
    if split["name"] != splits.folds_name(fold):
      raise UserError(f"{folder} is of the split {split['name']}, expected {splits.folds_name(fold)}: leave it out")
    _check_rows(folder, split, rows)
    seen = {patient(name) for subset in ("train", "validation") for name in split[subset]}
    for tester in dict.fromkeys(map(patient, split["test"])):
      if tester in seen:
        raise UserError(f"{folder}: its network saw {tester}, which it is evaluated on: that leaks; train it again")
      if tester in tested:
        both = " and ".join(map(splits.format_folds, (tested[tester], fold)))
        raise UserError(f"{tester} is in the folds {both}: expected once; leave one of them out")
      tested[tester] = fold
    everything[fold] = {name for subset in splits.SUBSETS for name in split[subset]}
    first = next(iter(everything))
    if everything[fold] != everything[first]:
      differ = len(everything[fold] ^ everything[first])
      raise UserError(
        f"{folder} is of other data than {folders[first]} ({differ} slices are in one only): train both on the same"
      )
  missed = {patient(name) for names in everything.values() for name in names} - tested.keys()
  if missed and complete:
    count = sum(map(len, folders))
    raise UserError(
      f"{min(missed)} is tested in none of the {count} folds: their splits are not those of this data set"
    )


def _check_rows(folder: pathlib.Path, split: dict[str, Any], rows: list[Record]) -> None:
  counts = Counter((f"{row['case']}/{row['slice']}", row.get("class")) for row in rows)
  there = [name for name, _ in counts]
  missing, twice = set(split["test"]) - set(there), {name for (name, _), times in counts.items() if times > 1}
  foreign = set(there) - set(split["test"])
  for names, what in ((missing, "no row of"), (twice, "more than one row of"), (foreign, "a row of the foreign slice")):
    if names:
      raise UserError(
        f"{folder}/slices.csv has {what} {min(names)} ({len(names)} such slices): evaluate the run again, with --mode=evaluate"
      )


def _case(slice_id: str) -> str:
  """`TCGA_CS_4941_19960909` of `TCGA_CS_4941_19960909/12`."""
  return slice_id.rpartition("/")[0]
