"""Where the parts are put together: build, train, evaluate and convert."""

import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

import bt_jax
from bt_jax import files, machine, runs, warmstart
from bt_jax.datasets import splits
from bt_jax.errors import UserError
from bt_jax.fitting import fit
from bt_jax.parts import Parts, make_parts
from bt_jax.pretrained.convert import check_fits, save_converted
from bt_jax.pretrained.sources import READERS
from bt_jax.report import figures
from bt_jax.report.tables import heading
from bt_jax.runs import Data, open_data, plain
from bt_jax.schema import Slices
from bt_jax.training import hosts, parallel
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.workdir import begin, claim


def build(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Builds the data set of a configuration; the folder of a run has no part in it."""
  del workdir
  print(f"built in {runs.build(config).data_path}")


def default_workdir(config: ConfigDict, mode: str) -> pathlib.Path:
  """`runs/<model>_<preset>_<split>`, or for converted weights `runs/weights_<source>`, for who names no folder."""
  if mode == "convert":
    source = pathlib.Path(config.model.pretrained)
    name = source.stem if source.suffix in READERS else config.model.pretrained.replace("/", "--")
    return pathlib.Path("runs") / f"weights_{name}"
  kind = config.split.kind
  part = {"random": splits.RANDOM_NAME, "buda10": splits.BUDA_NAME}.get(kind, f"fold_{config.split.fold:02d}")
  return pathlib.Path("runs") / "_".join(filter(None, (config.model.name, config.preset, part)))


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Trains a configuration in `workdir`, or goes on where it stopped, then evaluates it on the test part.

  Raises:
    UserError: a field cannot be, the data is not right, the folder holds another run, or the loss is not finite.
    Stopped: Ctrl-C or SIGTERM, once the state is saved.
  """
  machine.prepare(config)
  parts = make_parts(config)  # a wrong field is told before any weights are fetched
  parallel.check_batch_size(parts.mesh, "train.batch_size", config.train.batch_size, config.train.accumulate)
  with hosts.together():
    # A run that has a checkpoint needs its first weights no more.
    saved = Checkpoints(workdir / "checkpoints" / "latest").exist
    weights = None if saved else warmstart.load(config.model.pretrained)
    if weights is not None:
      check_fits(parts.shapes, weights, variant=config.model.variant)
      warmstart.check_same(workdir, weights)
  parts = make_parts(config, warmstart.normalization(workdir, weights))
  with claim(workdir, plain(config), new=True, host_timeout=config.host_timeout):
    with hosts.together():
      data = open_data(config, parts)
      warmstart.check_no_leak(data.split, weights)
      begin(workdir, plain(config))
      data.write_split(workdir)
    fit(config, workdir, parts, data, weights)
    _evaluate(config, workdir, parts, data)


def evaluate(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Evaluates the best checkpoint of the run in `workdir` again; only the `eval` fields may differ from the run's.

  Raises:
    UserError: as `train`, or there is no run or no checkpoint.
  """
  machine.prepare(config)
  parts = make_parts(config, warmstart.normalization(workdir, None))
  with claim(workdir, plain(config), new=False, may_differ="eval", host_timeout=config.host_timeout):
    with hosts.together():
      data = open_data(config, parts)
      data.write_split(workdir)
    _evaluate(config, workdir, parts, data)


def convert(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Writes the weights that `model.pretrained` names by our names, once, with what they are beside them.

  Raises:
    UserError: no weights are named, they are not those of a ResNet-50, or the folder holds others.
  """
  weights = None if warmstart.is_run(config.model.pretrained) else warmstart.load(config.model.pretrained)
  if weights is None:
    raise UserError(
      "nothing to convert: name a weight file or a hub name with --config.model.pretrained; a run's folder can be named there "
      "as it is"
    )
  written = save_converted(weights, workdir)
  print(f"{weights.origin}: ResNet-50, {weights.variant} variant, inputs normalised as {weights.normalize}")
  print("written:\n" + "\n".join(f"  {path}" for path in written))
  print(f"start from it with --config.model.pretrained={workdir} --config.model.variant={weights.variant}")


def _evaluate(config: ConfigDict, workdir: pathlib.Path, parts: Parts, data: Data) -> None:
  variables, record = runs.restore_best(config, workdir, parts)
  latest = Checkpoints(workdir / "checkpoints" / "latest")
  # The best checkpoint's history ends with its own epoch.
  history = (latest.restore() or (None, record))[1]["history"]
  latest.close()
  judge, largest, threshold = parts.judge, config.eval.largest_component, config.eval.threshold

  def predict(part: str) -> tuple[Slices, np.ndarray]:
    slices = data.read(part)
    return slices, runs.probabilities(runs.predict(config, parts, variables, slices))

  chosen = threshold is None
  if chosen:
    validation, probabilities = predict("validation")
    threshold = judge.threshold(probabilities, validation, largest)
  test, probabilities = predict("test")
  if test.ids != list(data.split.test):
    raise RuntimeError("the slices read are not those of the split")
  if not hosts.is_first():
    return
  predictions = judge.predict(probabilities, test, threshold, largest)
  rows = judge.rows(test, probabilities, predictions, data=data.title, split=data.split.name)
  summary = {
    **data.names,
    "synthetic": data.builder.builder_config.synthetic,
    "split_hash": data.split.hash,
    "parts": {part: len(getattr(data.split, part)) for part in splits.PARTS},
    "task": config.task,
    "model": config.model.name,
    "normalize": parts.normalize,
    "threshold": threshold,
    "threshold_from": "chosen on the validation part" if chosen else "from the configuration",
    "largest_component": largest,
    "checkpoint": {"step": record["step"], "arrays_sha256": record["arrays_sha256"]},
    "epochs": {"trained": history[-1]["epoch"], "planned": config.train.epochs},
    "versions": {"bt_jax": bt_jax.__version__, "jax": jax.__version__},
    "devices": runs.devices(),
    "test": judge.summarize(rows),
  }
  table, title = judge.table(summary), heading(summary)
  written = [
    files.write_csv(workdir / "slices.csv", rows),
    files.write_csv(workdir / "patients.csv", judge.patients(rows)),
    files.write_json(workdir / "summary.json", summary),
    files.write_bytes(workdir / "table.txt", f"{table}\n".encode()),
    figures.save_curves(workdir / "figures/curves.png", history, title=title, score=config.train.score),
    *judge.draw(workdir / "figures", test, predictions, rows, summary["test"], title=title),
  ]
  print(f"\n{table}\n\nwritten:\n" + "\n".join(f"  {path}" for path in written))
  print(f"curves while training: tensorboard --logdir={workdir / 'tensorboard'}")
