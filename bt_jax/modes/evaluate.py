"""Evaluates the best checkpoint of a run: records by `runs.evaluator`, baselines, and the report."""

import functools
import pathlib
import shutil
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from bt_jax.datasets.info import DatasetInfo
from bt_jax.distributed import hosts, setup
from bt_jax.errors import UserError
from bt_jax.evaluation import subgroups
from bt_jax.paper import baselines
from bt_jax.reporting import figures, run_summary
from bt_jax.reporting.page import sprites
from bt_jax.reporting.text_tables import heading
from bt_jax.runs import warm_start
from bt_jax.runs.components import Components, make_components
from bt_jax.runs.evaluator import Evaluation, evaluate_best
from bt_jax.runs.run_data import Data, open_data
from bt_jax.runs.workdir import claim, default_workdir, plain
from bt_jax.schema import Slices

_NEW_VOLUMES = "volumes.new"  # so that an evaluation that is stopped leaves those of the one before


def evaluate(config: ConfigDict, workdir: pathlib.Path | None) -> None:
  """Evaluates the best checkpoint of the run in `workdir` again; only the `eval` fields may differ from the run's.

  Raises:
    UserError: as in `train`, or there is no run or no checkpoint.
  """
  workdir = workdir or default_workdir(config)
  setup.prepare(config)
  components = make_components(config, warm_start.normalization(workdir, None))
  with claim(workdir, plain(config), new=False, may_differ="eval", host_timeout=config.host_timeout):
    with hosts.together():
      data = open_data(config, components)
      data.write_split(workdir)
    if not data.split.test:
      raise UserError(
        f"{workdir} was trained on all slices, and none is left to test: cross-validate its configuration instead",
        "mode=crossval",
      )
    report_best(config, workdir, components, data)


def report_best(config: ConfigDict, workdir: pathlib.Path, components: Components, data: Data) -> None:
  """Writes tables, figures and report of the best checkpoint of the run in `workdir`."""
  parameters: dict[str, Any] = {}
  info, masks = components.info, components.task.predicts_masks
  # The baselines know only one class of lesion, like the paper.
  compared = config.eval.baselines and len(info.classes) == 1
  predict_baselines = functools.partial(_baselines, data, parameters) if compared else lambda test: {}
  volumes = workdir / _NEW_VOLUMES
  if hosts.is_first():
    shutil.rmtree(volumes, ignore_errors=True)  # of an evaluation that was stopped

  def save(slices: Slices, predictions: np.ndarray) -> None:
    if config.report.show_slices:
      sprites.save_volumes(volumes, slices, predictions if masks else None, reference=info.reference_index)

  evaluation = evaluate_best(config, workdir, components, data, baselines=predict_baselines, save=save)
  if evaluation is None:
    return
  groupings = subgroups.parse(config.report.subgroups, components.info)
  summary = run_summary.summarize(
    evaluation.tables, components.task, evaluation.about, groupings=groupings, parameters=parameters
  )
  drawn = _draw(config, workdir, evaluation, info=info, title=heading(summary))
  run_summary.write(workdir, evaluation.tables, summary, show_slices=config.report.show_slices, drawn=drawn)
  print(f"curves while training: tensorboard --logdir={workdir / 'tensorboard'}")


def _baselines(data: Data, parameters: dict[str, Any], test: Slices) -> dict[str, np.ndarray]:
  """The masks of every baseline; what is fitted on training slices is stored in `parameters`, for further calls."""
  masks = {}
  if not parameters:
    sample = data.reader.read(baselines.sample_ids(data.split.train, data.labels("train"), seed=0))
    for name in tqdm(baselines.METHODS, desc="baselines", unit="method", leave=False, disable=None):
      parameters[name] = baselines.fit(name, sample, seed=0)
  for name, fitted in parameters.items():
    masks[name] = baselines.predict(name, test, fitted, seed=0)
  if data.split.leaky:
    nearest = baselines.nearest_ids(data.split.train, test.ids)
    known = sorted({name for name in nearest if name is not None})
    masks[baselines.COPY] = baselines.copy_nearest(nearest, data.reader.read(known))
  return masks


def _draw(
  config: ConfigDict, workdir: pathlib.Path, evaluation: Evaluation, *, info: DatasetInfo, title: str
) -> list[pathlib.Path]:
  folder, volumes, show = workdir / "figures", workdir / "volumes", config.report.show_slices
  for path in (volumes, *folder.glob("overlays_*.png")):  # of an earlier evaluation
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
  if show:
    (workdir / _NEW_VOLUMES).rename(volumes)
  evaluated = figures.Evaluated(volumes if show else None, evaluation.tables.slices, info)
  return [
    figures.save_curves(folder / "curves.png", evaluation.history, title=title, score=config.train.score),
    *figures.OF_TASK[config.task](folder, evaluated, title=title),
  ]
