"""Trains a configuration and evaluates it."""

import pathlib

from ml_collections import ConfigDict

from bt_jax.distributed import hosts, setup, sharding
from bt_jax.modes.evaluate import report_best
from bt_jax.runs import loggers, unused_fields, warm_start
from bt_jax.runs.components import make_components
from bt_jax.runs.run_data import open_data
from bt_jax.runs.trainer import fit
from bt_jax.runs.transfer import check_no_leak
from bt_jax.runs.workdir import begin, claim, default_workdir, plain
from bt_jax.training.checkpoints import Checkpoints


def train(config: ConfigDict, workdir: pathlib.Path | None) -> None:
  """Trains a configuration in `workdir`, or resumes it where it stopped, then evaluates it on the test set, if it has one.

  Raises:
    UserError: a field is invalid, something is wrong with the data, the folder holds another run, or the loss is not
      finite.
    Stopped: Ctrl-C or SIGTERM, once the state is saved.
  """
  workdir = workdir or default_workdir(config)
  setup.prepare(config)
  components = make_components(config)  # a wrong field is reported before any weights are fetched
  unused_fields.check(config, workdir, components.info)
  loggers.parse(config.log)
  sharding.check_batch_size(components.mesh, "train.batch_size", config.train.batch_size, config.train.accumulate)
  with hosts.together():
    # A run that has a checkpoint no longer needs its first weights.
    saved = Checkpoints(workdir / "checkpoints" / "latest").exist
    weights = None if saved else warm_start.load(config.model.pretrained)
    if weights is not None:
      warm_start.check_fits(components, weights)
      warm_start.check_same(workdir, weights)
  components = make_components(config, warm_start.normalization(workdir, weights))
  with claim(workdir, plain(config), new=True, host_timeout=config.host_timeout):
    with hosts.together():
      data = open_data(config, components)
      if weights is not None:
        check_no_leak(data.split, data.index, weights)
      begin(workdir, plain(config))
      data.write_split(workdir)
    fit(config, workdir, components, data, weights)
    if data.split.test:
      report_best(config, workdir, components, data)
    else:
      print(
        f"trained on all {len(data.split.train)} slices, and tested on none: write it as one file with --mode=export "
        f"--checkpoint={workdir} --runs=FOLDER --output=FILE.safetensors, where FOLDER holds the cross-validation"
      )
