"""Where the parts are put together: build, train, evaluate and convert."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

import bt_jax
from bt_jax import files, runs, warmstart
from bt_jax.datasets import splits
from bt_jax.errors import UserError
from bt_jax.evaluation.aggregation import score_of
from bt_jax.parts import Parts, make_parts
from bt_jax.pipeline import feed
from bt_jax.pretrained.convert import Weights, check_fits, fill_encoder, save_converted
from bt_jax.pretrained.sources import READERS
from bt_jax.report import figures
from bt_jax.report.tables import heading
from bt_jax.runs import Data, first_state, open_data, plain
from bt_jax.schema import Slices
from bt_jax.training import loop, parallel
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.training.state import TrainState
from bt_jax.training.step import make_train_step
from bt_jax.workdir import begin, claim


def default_workdir(config: ConfigDict, mode: str) -> pathlib.Path:
  """`runs/<model>_<preset>_<split>`, or for converted weights `runs/weights_<source>`, for who names no folder."""
  if mode == "convert":
    source = pathlib.Path(config.model.pretrained)
    name = source.stem if source.suffix in READERS else config.model.pretrained.replace("/", "--")
    return pathlib.Path("runs") / f"weights_{name}"
  part = f"fold_{config.split.fold:02d}" if config.split.kind == "fold" else splits.RANDOM_NAME
  return pathlib.Path("runs") / "_".join(filter(None, (config.model.name, config.preset, part)))


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Trains a configuration in `workdir`, or goes on where it stopped, then evaluates it on the test part.

  Raises:
    UserError: a field cannot be, the data is not right, the folder holds another run, or the loss is not finite.
    loop.Stopped: Ctrl-C or SIGTERM, once the state is saved.
  """
  parts = make_parts(config)  # a wrong field is told before any weights are fetched
  # A run that has a checkpoint needs its first weights no more.
  saved = Checkpoints(workdir / "checkpoints" / "latest").exist
  weights = None if saved else warmstart.load(config.model.pretrained)
  if weights is not None:
    check_fits(parts.shapes, weights, variant=config.model.variant)
    warmstart.check_same(workdir, weights)
  parts = make_parts(config, warmstart.normalization(workdir, weights))
  with claim(workdir, plain(config), new=True):
    data = open_data(config, parts)
    warmstart.check_no_leak(data.split, weights)
    begin(workdir, plain(config))
    data.write_split(workdir)
    _train(config, workdir, parts, data, weights)
    _evaluate(config, workdir, parts, data)


def evaluate(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Evaluates the best checkpoint of the run in `workdir` again; only the `eval` fields may differ from the run's.

  Raises:
    UserError: as `train`, or there is no run or no checkpoint.
  """
  parts = make_parts(config, warmstart.normalization(workdir, None))
  with claim(workdir, plain(config), new=False, may_differ="eval"):
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


def _train(config: ConfigDict, workdir: pathlib.Path, parts: Parts, data: Data, weights: Weights | None) -> None:
  labels = data.labels("train")
  groups = feed.sampling_groups(config.train.sampling, labels)
  size = len(np.unique(np.concatenate(groups)))
  steps_per_epoch = -(-size // config.train.batch_size)
  plan = loop.Plan(
    config.train.epochs * steps_per_epoch, steps_per_epoch, config.train.batch_size, config.train.patience
  )
  schedule, optimizer = parts.optimizer(steps_per_epoch)
  latest, best = (Checkpoints(workdir / "checkpoints" / name) for name in ("latest", "best"))
  history: list[loop.Row] = []
  if restored := latest.restore(first_state(config, parts, optimizer, abstract=True)):
    state, record = restored
    history = record["history"]
    _write_metrics(data, workdir, history)
  else:
    state = first_state(config, parts, optimizer, abstract=False)
    if weights is not None:
      state = _warm_start(config, workdir, parts, state, weights)
  if loop.is_finished(plan, history):
    print(f"{workdir} is trained already ({history[-1]['epoch']} epochs): nothing to train, evaluating it")
    return
  if restored:
    print(f"going on from step {int(state.step)} of {plan.steps}")

  print(f"training on {size} slices of {data.title}, {data.split.name}; devices: {_devices()}")
  everywhere = parallel.replicated(parts.mesh)
  resident = feed.resident(data.read("train"), everywhere, class_weights=config.train.class_weights)
  validation = data.read("validation")
  validation_data = feed.resident(validation, everywhere)
  compiled = parallel.compile_train_step(
    make_train_step(
      model=parts.model,
      task=parts.task,
      preprocess=parts.preprocess,
      augment=parts.augment,
      loss=parts.loss,
      optimizer=optimizer,
      ema_decay=config.train.ema_decay,
      mixup=config.train.mixup,
      kept_statistics=parts.kept_statistics,
      seed=config.train.seed,
    ),
    parts.mesh,
  )

  def step(state: TrainState, number: int) -> tuple[TrainState, jax.Array]:
    seed, batch_size = config.train.seed, config.train.batch_size
    return compiled(state, resident, feed.train_indices(seed=seed, step=number, batch_size=batch_size, groups=groups))

  def validate(state: TrainState) -> dict[str, float]:
    logits = runs.predict(config, parts, state.eval_variables, validation, validation_data)
    return _validation(config, parts, data, validation, logits)

  with SummaryWriter(str(workdir / "tensorboard"), purge_step=int(state.step) + 1) as board:
    board.add_text("run", f"{data.title}, {data.split.name}", int(state.step))

    def report(history: list[loop.Row]) -> None:
      _write_metrics(data, workdir, history)
      for name, value in history[-1].items():
        board.add_scalar(name, value, int(history[-1]["step"]))
      board.flush()

    loop.train(
      state,
      history,
      plan=plan,
      step=step,
      validate=validate,
      learning_rate=schedule,
      latest=latest,
      best=best,
      record={
        **data.names,
        "split_hash": data.split.hash,
        "config": plain(config),
        "normalize": parts.normalize,
        "bt_jax": bt_jax.__version__,
      },
      report=report,
    )
  for checkpoints in (latest, best):
    checkpoints.close()


def _warm_start(
  config: ConfigDict, workdir: pathlib.Path, parts: Parts, state: TrainState, weights: Weights
) -> TrainState:
  """The state with the encoder of `weights`, told and written down."""
  variables, told = fill_encoder(state.variables, weights)
  warmstart.record(workdir, weights, told, parts.normalize)
  variables = jax.device_put(variables, parallel.replicated(parts.mesh))
  return state.replace(
    variables=variables, average=None if state.average is None else jax.tree.map(jnp.copy, variables)
  )


def _validation(config: ConfigDict, parts: Parts, data: Data, slices: Slices, logits: np.ndarray) -> dict[str, float]:
  """Loss, accuracy and score of the validation part, as one batch and at a threshold of 0.5."""
  target = parts.task.target(jnp.asarray(slices.label), jnp.asarray(slices.mask, jnp.float32))
  outputs = parts.task.outputs(jnp.asarray(logits))
  loss = float(parts.loss(outputs, target).mean())
  if config.train.score == "loss":
    score = -loss
  else:
    probabilities = runs.probabilities(logits)
    predictions = parts.judge.predict(probabilities, slices, 0.5, False)
    rows = parts.judge.rows(slices, probabilities, predictions, data=data.title, split=data.split.name)
    score = score_of(parts.judge.summarize(rows), config.train.score)
    if score is None:
      raise UserError(
        f"train.score={config.train.score} has no value on the validation part of {data.split.name}, whose slices are all "
        "of one class: set --config.train.score=loss"
      )
  return {"loss": loss, "accuracy": float(parts.task.accuracy(outputs, target)), "score": score}


def _write_metrics(data: Data, workdir: pathlib.Path, history: list[loop.Row]) -> None:
  if history:
    rows = [{"data": data.title, "split": data.split.name, **row} for row in history]
    files.write_csv(workdir / "metrics.csv", rows)


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
    "devices": _devices(),
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


def _devices() -> str:
  devices = jax.devices()
  return f"{len(devices)} x {devices[0].device_kind}"
