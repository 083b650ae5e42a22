"""Where the parts are put together: build, train, evaluate and convert."""

import pathlib

from ml_collections import ConfigDict

from bt_jax.datasets import splits
from bt_jax.distributed import hosts, setup, sharding
from bt_jax.errors import UserError
from bt_jax.evaluation import subgroups
from bt_jax.models import encoder_of
from bt_jax.pretrained.convert import check_fits, save_converted
from bt_jax.pretrained.sources import READERS, suffix_of
from bt_jax.runs import run_data, warm_start
from bt_jax.runs.components import make_components
from bt_jax.runs.evaluator import judge_best
from bt_jax.runs.run_data import open_data, plain
from bt_jax.runs.trainer import fit
from bt_jax.runs.workdir import begin, claim
from bt_jax.training.checkpoints import Checkpoints


def build(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Builds the data set of a configuration; the folder of a run has no part in it."""
  del workdir
  print(f"built in {run_data.build(config).data_path}")


def default_workdir(config: ConfigDict, mode: str) -> pathlib.Path:
  """`runs/<model>_<preset>_<split>`, `..._crossval`, or for converted weights `runs/weights_<source>`, for who names no folder."""
  if mode == "convert":
    source = pathlib.Path(config.model.pretrained)
    name = source.stem if suffix_of(source) in READERS else config.model.pretrained.replace("/", "--")
    return pathlib.Path("runs") / f"weights_{name}"
  named = {"random": splits.RANDOM_NAME, "buda10": splits.BUDA_NAME}
  part = named.get(config.split.kind) or splits.folder_name(splits.tested_folds(config.split))
  part = "crossval" if mode == "crossval" else part
  return pathlib.Path("runs") / "_".join(filter(None, (config.model.name, config.preset, part)))


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Trains a configuration in `workdir`, or goes on where it stopped, then evaluates it on the test part.

  Raises:
    UserError: a field cannot be, the data is not right, the folder holds another run, or the loss is not finite.
    Stopped: Ctrl-C or SIGTERM, once the state is saved.
  """
  setup.prepare(config)
  subgroups.parse(config.report.subgroups)
  parts = make_components(config)  # a wrong field is told before any weights are fetched
  sharding.check_batch_size(parts.mesh, "train.batch_size", config.train.batch_size, config.train.accumulate)
  with hosts.together():
    # A run that has a checkpoint needs its first weights no more.
    saved = Checkpoints(workdir / "checkpoints" / "latest").exist
    weights = None if saved else warm_start.load(config.model.pretrained)
    if weights is not None:
      check_fits(parts.shapes, weights, encoder=encoder_of(parts.model))
      warm_start.check_same(workdir, weights)
  parts = make_components(config, warm_start.normalization(workdir, weights))
  with claim(workdir, plain(config), new=True, host_timeout=config.host_timeout):
    with hosts.together():
      data = open_data(config, parts)
      warm_start.check_no_leak(data.split, weights)
      begin(workdir, plain(config))
      data.write_split(workdir)
    fit(config, workdir, parts, data, weights)
    judge_best(config, workdir, parts, data)


def evaluate(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Evaluates the best checkpoint of the run in `workdir` again; only the `eval` fields may differ from the run's.

  Raises:
    UserError: as `train`, or there is no run or no checkpoint.
  """
  setup.prepare(config)
  subgroups.parse(config.report.subgroups)
  parts = make_components(config, warm_start.normalization(workdir, None))
  with claim(workdir, plain(config), new=False, may_differ="eval", host_timeout=config.host_timeout):
    with hosts.together():
      data = open_data(config, parts)
      data.write_split(workdir)
    judge_best(config, workdir, parts, data)


def convert(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Writes the weights that `model.pretrained` names by our names, once, with what they are beside them.

  Raises:
    UserError: no weights are named, they are of no network we have, or the folder holds others.
  """
  weights = None if warm_start.is_run(config.model.pretrained) else warm_start.load(config.model.pretrained)
  if weights is None:
    raise UserError(
      "nothing to convert: name a weight file or a hub name with --config.model.pretrained; a run's folder can be named there "
      "as it is"
    )
  written = save_converted(weights, workdir)
  print(f"{weights.origin}: {weights.title}, inputs normalised as {weights.normalize}")
  print("written:\n" + "\n".join(f"  {path}" for path in written))
  print(f"start from it with --config.model.pretrained={workdir} {weights.fields}")
