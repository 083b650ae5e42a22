"""Cross-validation over patient folds: trains runs that test one fold or several, in turn or side by side, and pools them."""

import pathlib
import time
from collections.abc import Sequence

from ml_collections import ConfigDict

from bt_jax.datasets import splits, store
from bt_jax.datasets.registry import source_of
from bt_jax.datasets.splits import Folds
from bt_jax.distributed import setup
from bt_jax.distributed.lanes import Lane, devices_to_share, share_out
from bt_jax.distributed.side_by_side import side_by_side
from bt_jax.errors import UserError
from bt_jax.evaluation import subgroups
from bt_jax.evaluation.aggregation import score_of
from bt_jax.evaluation.records import Record
from bt_jax.evaluation.summary_files import is_finished, read_summary
from bt_jax.evaluation.volumes import volume_columns
from bt_jax.modes import pool, train
from bt_jax.paper import genes
from bt_jax.reporting import run_summary
from bt_jax.reporting.page.phrases import duration
from bt_jax.runs import unused_fields
from bt_jax.runs.components import make_components
from bt_jax.runs.workdir import begin, claim, default_workdir, plain
from bt_jax.tasks import TASKS


def crossval(config: ConfigDict, workdir: pathlib.Path | None, runs: Sequence[str] = ()) -> None:
  """Trains the groups of `config.crossval` that are not finished, each in a folder in `workdir`, and pools their records.

  With `config.crossval.parallel`, groups are trained side by side, each by its share of the devices.

  Every patient of these folds is then predicted once, by a network that never saw it.

  Args:
    config: the configuration of every training; it names no fold to test.
    workdir: where the pooled tables go; None: `runs/<model>_<preset>_crossval`.
    runs: folders of finished folds, or patterns of them; if given, they are pooled and nothing is trained.

  Raises:
    UserError: a field is invalid; a fold is missing, damaged or of another configuration; or as in `train.train`.
    Stopped: Ctrl-C or SIGTERM, once the state of every fold in training is saved.
  """
  workdir = workdir or default_workdir(config, "crossval")
  setup.prepare(config)
  devices = None if runs else devices_to_share(config.crossval.parallel, config.parallel)
  components = make_components(config)  # a wrong field is reported before the first training
  unused_fields.check(config, workdir, components.info)
  info = components.info
  folds = splits.parse_folds("crossval.folds", config.crossval.folds, info.folds)
  groups = splits.groups_of(folds, config.crossval.group, info.folds)
  if config.split.kind != "fold":
    raise UserError(f"--mode=crossval goes over patient folds, and split.kind is {config.split.kind!r}: leave it out")
  unused_fields.check_crossval(config, trains=not runs)
  lanes = share_out(config.crossval.parallel, len(groups), devices) if devices else []
  groupings = subgroups.parse(config.report.subgroups, info)
  about = plain(config)
  about["split"] |= {"fold": None, "folds": None}
  if config.crossval.group > 1:
    about["split"]["group"] = config.crossval.group
  with claim(workdir, about, new=True):
    if runs:
      folders = pool.find_folds(runs, groups, plain(config))
    else:
      begin(workdir, about)
      folders = _train(config, workdir, groups, lanes)
    every_fold = sum(map(len, groups)) == info.folds
    everyone = None if runs or every_fold or not genes.known(info) else true_shapes(config)
    summary, tables = pool.pool(folders, groupings=groupings, everyone=everyone)
    begin(workdir, about)
    run_summary.write(workdir, tables, summary, show_slices=config.report.show_slices)


def _train(
  config: ConfigDict, workdir: pathlib.Path, groups: list[Folds], lanes: list[Lane]
) -> dict[Folds, pathlib.Path]:
  """The folder of each group, once all are finished, one after another or on these lanes."""
  folders = {folds: workdir / splits.folder_name(folds) for folds in groups}
  jobs: dict[str, tuple[ConfigDict, pathlib.Path]] = {}
  progress = _Progress(
    {splits.folds_label(folds): (folder, len(folds)) for folds, folder in folders.items()}, len(lanes) or 1
  )
  for folds, folder in folders.items():
    mine = config.copy_and_resolve_references()  # with a section `split` of its own
    mine.split.update(splits.testing(config.split, folds))
    if is_finished(folder):
      pool.check_same(folder, plain(mine))
      progress.report(splits.folds_label(folds), None)
    else:
      jobs[splits.folds_label(folds)] = mine, folder
  if lanes and jobs:
    source_of(config).open_or_build()  # once, rather than by each
    print(f"{min(len(lanes), len(jobs))} trainings side by side", flush=True)
    side_by_side(train.train, jobs, lanes, progress.report)
  for name, job in () if lanes else jobs.items():
    started = time.perf_counter()
    train.train(*job)
    progress.report(name, time.perf_counter() - started)
  return folders


class _Progress:
  """Prints a line for every finished group: its scores, how many folds are done, and an estimate of the time left.

  Args:
    groups: the folder of each group and the number of its folds, by the group's name.
    lanes: how many are trained at a time.
  """

  def __init__(self, groups: dict[str, tuple[pathlib.Path, int]], lanes: int):
    self._groups, self._lanes = groups, lanes
    self._taken: dict[str, float | None] = {}

  def report(self, name: str, seconds: float | None) -> None:
    """Prints that this group is finished: after so many seconds, or None if it was before the command started."""
    self._taken[name] = seconds
    taken = [value for value in self._taken.values() if value is not None]
    state = "finished before" if seconds is None else f"finished in {duration(seconds)}"
    unfinished = -(-(len(self._groups) - len(self._taken)) // self._lanes)
    left = f", about {duration(sum(taken) / len(taken) * unfinished)} left" if taken and unfinished else ""
    folds = sum(self._groups[done][1] for done in self._taken)
    count = f"{folds} of {sum(folds for _, folds in self._groups.values())} folds"
    print(f"{name}: {state}, {_headline(self._groups[name][0])}; {count}{left}", flush=True)


def _headline(folder: pathlib.Path) -> str:
  summary = read_summary(folder)
  names = list(TASKS[summary["task"]].headline.items())[:2]
  values = {short.replace("_", " "): score_of(summary["test"], name) for short, name in names}
  return ", ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in values.items())


def true_shapes(config: ConfigDict) -> list[Record]:
  """Shapes in the true masks of all patients of the data set, including folds that are not trained."""
  source = source_of(config)
  builder = source.open_or_build()
  index = source.read_index(builder)
  known = source.read_patients(builder, {entry.patient for entry in index})
  reader, rows = store.Reader.of(builder, source.info, index), []
  of_patient: dict[str, list[str]] = {}
  for entry in index:
    of_patient.setdefault(entry.patient, []).append(entry.id)
  for ids in of_patient.values():  # one at a time, as images are large
    slices = reader.read(ids)
    shapes = volume_columns(slices, None, spacing_mm={}, classes=reader.info.classes)
    rows += [{"patient": patient, **columns, **known[patient]} for (patient, _), columns in shapes.items()]
  return rows
