"""Evaluates the best checkpoint of a run again."""

import pathlib

from ml_collections import ConfigDict

from bt_jax.distributed import hosts, setup
from bt_jax.evaluation import subgroups
from bt_jax.runs import warm_start
from bt_jax.runs.components import make_components
from bt_jax.runs.evaluator import judge_best
from bt_jax.runs.run_data import open_data, plain
from bt_jax.runs.workdir import claim, default_workdir


def evaluate(config: ConfigDict, workdir: pathlib.Path | None) -> None:
  """Evaluates the best checkpoint of the run in `workdir` again; only the `eval` fields may differ from the run's.

  Raises:
    UserError: as `train`, or there is no run or no checkpoint.
  """
  workdir = workdir or default_workdir(config)
  setup.prepare(config)
  subgroups.parse(config.report.subgroups)
  parts = make_components(config, warm_start.normalization(workdir, None))
  with claim(workdir, plain(config), new=False, may_differ="eval", host_timeout=config.host_timeout):
    with hosts.together():
      data = open_data(config, parts)
      data.write_split(workdir)
    judge_best(config, workdir, parts, data)
