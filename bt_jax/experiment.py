"""Where the parts are put together: build, train and evaluate a configuration."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter
from tqdm import tqdm

import bt_jax
from bt_jax import files
from bt_jax.datasets import splits, store
from bt_jax.errors import UserError
from bt_jax.evaluation.aggregation import score_of, summarize
from bt_jax.evaluation.postprocess import choose_threshold, predict_masks
from bt_jax.evaluation.rows import patient_rows, slice_rows
from bt_jax.parts import Parts, data_variant, make_parts
from bt_jax.pipeline import feed
from bt_jax.report import figures
from bt_jax.report.tables import heading, results_table
from bt_jax.schema import Slices
from bt_jax.training import loop, parallel
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.training.state import PyTree, TrainState, init_state
from bt_jax.training.step import make_train_step
from bt_jax.workdir import begin, claim


@dataclasses.dataclass(frozen=True)
class Data:
  """The data set of a run, its split, and what outputs call them."""

  builder: store.Builder
  index: list[store.SliceId]
  split: splits.Split

  @property
  def title(self) -> str:
    return self.builder.builder_config.title

  @property
  def names(self) -> dict[str, Any]:
    """The fields that stand in every output."""
    return {"data": self.title, "split": self.split.name, "leaky": self.split.leaky}

  def read(self, part: str) -> Slices:
    """The slices of `train`, `validation` or `test`."""
    return store.read_slices(self.builder, list(getattr(self.split, part)), self.index)


def build(config: ConfigDict) -> store.Builder:
  """Opens the data set of a configuration, building it first if need be."""
  return store.open_or_build(data_variant(config), root=config.data.root, data_dir=config.data.dir)


def default_workdir(config: ConfigDict) -> pathlib.Path:
  """`runs/<model>_<preset>_<split>`, for who names no folder."""
  part = f"fold_{config.split.fold:02d}" if config.split.kind == "fold" else splits.RANDOM_NAME
  return pathlib.Path("runs") / "_".join(filter(None, (config.model.name, config.preset, part)))


def _plain(config: ConfigDict) -> dict[str, Any]:
  """The configuration as it comes back from JSON."""
  return json.loads(json.dumps(config.to_dict()))


def _open_data(config: ConfigDict) -> Data:
  builder = build(config)
  index = store.read_index(builder)
  split = splits.make_split(index, kind=config.split.kind, fold=config.split.fold, seed=config.split.seed)
  return Data(builder, index, split)


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Trains a configuration in `workdir`, or goes on where it stopped, then evaluates it on the test part.

  Raises:
    UserError: a field cannot be, the data is not right, the folder holds another run, or the loss is not finite.
    loop.Stopped: Ctrl-C or SIGTERM, once the state is saved.
  """
  parts = make_parts(config)
  with claim(workdir, _plain(config), new=True):
    data = _open_data(config)
    begin(workdir, _plain(config))
    _write_split(data, workdir)
    _train(config, workdir, parts, data)
    _evaluate(config, workdir, parts, data)


def evaluate(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Evaluates the best checkpoint of the run in `workdir` again; only the `eval` fields may differ from the run's.

  Raises:
    UserError: as `train`, or there is no run or no checkpoint.
  """
  parts = make_parts(config)
  with claim(workdir, _plain(config), new=False, may_differ="eval"):
    data = _open_data(config)
    _write_split(data, workdir)
    _evaluate(config, workdir, parts, data)


def _write_split(data: Data, workdir: pathlib.Path) -> None:
  path = workdir / "split.json"
  if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["hash"] != data.split.hash:
    raise UserError(f"{path} is not the split of this configuration on this data set: choose another --workdir")
  files.write_json(path, data.split.to_json(data.title))


def _train(config: ConfigDict, workdir: pathlib.Path, parts: Parts, data: Data) -> None:
  size = len(data.split.train)
  steps_per_epoch = -(-size // config.train.batch_size)
  plan = loop.Plan(
    config.train.epochs * steps_per_epoch, steps_per_epoch, config.train.batch_size, config.train.patience
  )
  schedule, optimizer = parts.optimizer(steps_per_epoch)
  latest, best = (Checkpoints(workdir / "checkpoints" / name) for name in ("latest", "best"))
  history: list[loop.Row] = []
  if restored := latest.restore(_first_state(config, parts, optimizer, abstract=True)):
    state, record = restored
    history = record["history"]
    _write_metrics(data, workdir, history)
  else:
    state = _first_state(config, parts, optimizer, abstract=False)
  if loop.is_finished(plan, history):
    print(f"{workdir} is trained already ({history[-1]['epoch']} epochs): nothing to train, evaluating it")
    return
  if restored:
    print(f"going on from step {int(state.step)} of {plan.steps}")

  print(f"training on {len(data.split.train)} slices of {data.title}, {data.split.name}; devices: {_devices()}")
  everywhere = parallel.replicated(parts.mesh)
  resident = feed.resident(data.read("train"), everywhere)
  validation = data.read("validation")
  validation_data = feed.resident(validation, everywhere)
  compiled = parallel.compile_train_step(
    make_train_step(
      model=parts.model,
      preprocess=parts.preprocess,
      augment=parts.augment,
      loss=parts.loss,
      optimizer=optimizer,
      ema_decay=config.train.ema_decay,
      seed=config.train.seed,
    ),
    parts.mesh,
  )

  def step(state: TrainState, number: int) -> tuple[TrainState, jax.Array]:
    seed, batch_size = config.train.seed, config.train.batch_size
    return compiled(state, resident, feed.train_indices(seed=seed, step=number, batch_size=batch_size, size=size))

  def validate(state: TrainState) -> tuple[float, float]:
    logits = _predict(config, parts, state.eval_variables, validation, validation_data)
    loss = parts.loss(jnp.asarray(logits[..., None]), jnp.asarray(validation.mask, jnp.float32)).mean()
    probabilities = _probabilities(logits)
    masks = predict_masks(probabilities, validation, threshold=0.5, largest_component=False)
    rows = slice_rows(validation, probabilities, masks, data=data.title, split=data.split.name)
    return float(loss), score_of(summarize(rows), config.train.score)

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
        "config": _plain(config),
        "bt_jax": bt_jax.__version__,
      },
      report=report,
    )
  for checkpoints in (latest, best):
    checkpoints.close()


def _write_metrics(data: Data, workdir: pathlib.Path, history: list[loop.Row]) -> None:
  if history:
    rows = [{"data": data.title, "split": data.split.name, **row} for row in history]
    files.write_csv(workdir / "metrics.csv", rows)


def _first_state(
  config: ConfigDict, parts: Parts, optimizer: optax.GradientTransformation, *, abstract: bool
) -> TrainState:
  """The state before the first step, on all devices; `abstract`: its shapes alone, to restore a checkpoint into."""
  everywhere = parallel.replicated(parts.mesh)
  init = functools.partial(
    init_state,
    parts.model,
    optimizer,
    size=config.data.size,
    seed=config.train.seed,
    average=config.train.ema_decay > 0,
  )
  if abstract:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), jax.eval_shape(init))
  # A program that runs once should compile fast rather than run fast.
  fast = jax.jit(init, out_shardings=everywhere, compiler_options={"xla_backend_optimization_level": 0})
  return fast()


def _predict(
  config: ConfigDict, parts: Parts, variables: PyTree, slices: Slices, data: dict[str, jax.Array]
) -> np.ndarray:
  """Logits, float32 [slices, 256, 256]."""
  logits = np.empty(slices.mask.shape[:3], np.float32)
  batches = feed.eval_batches(len(slices), config.eval.batch_size)
  for indices, valid in tqdm(list(batches), desc="predicting", unit="batch", leave=False):
    logits[indices[valid]] = np.asarray(parts.predict_step(variables, data, indices))[valid]
  return logits


def _probabilities(logits: np.ndarray) -> np.ndarray:
  return np.asarray(jax.nn.sigmoid(logits))


def _evaluate(config: ConfigDict, workdir: pathlib.Path, parts: Parts, data: Data) -> None:
  _, optimizer = parts.optimizer(1)
  best = Checkpoints(workdir / "checkpoints" / "best")
  restored = best.restore(_first_state(config, parts, optimizer, abstract=True).eval_variables)
  best.close()
  if restored is None:
    raise UserError(f"{workdir} holds no checkpoint: train first, with --mode=train")
  variables, record = restored
  latest = Checkpoints(workdir / "checkpoints" / "latest")
  history = (latest.restore() or restored)[1]["history"]  # the best checkpoint's ends with its own epoch
  latest.close()

  def predict(part: str) -> tuple[Slices, np.ndarray]:
    slices = data.read(part)
    resident = feed.resident(slices, parallel.replicated(parts.mesh))
    return slices, _probabilities(_predict(config, parts, variables, slices, resident))

  threshold, largest = config.eval.threshold, config.eval.largest_component
  chosen = threshold is None
  if chosen:
    validation, probabilities = predict("validation")
    threshold = choose_threshold(probabilities, validation, largest_component=largest)
  test, probabilities = predict("test")
  if test.ids != list(data.split.test):
    raise RuntimeError("the slices read are not those of the split")
  masks = predict_masks(probabilities, test, threshold=threshold, largest_component=largest)
  rows = slice_rows(test, probabilities, masks, data=data.title, split=data.split.name)
  summary = {
    **data.names,
    "synthetic": data.builder.builder_config.synthetic,
    "split_hash": data.split.hash,
    "parts": {part: len(getattr(data.split, part)) for part in splits.PARTS},
    "threshold": threshold,
    "threshold_from": "chosen on the validation part" if chosen else "from the configuration",
    "largest_component": largest,
    "checkpoint": {"step": record["step"], "arrays_sha256": record["arrays_sha256"]},
    "epochs": {"trained": history[-1]["epoch"], "planned": config.train.epochs},
    "versions": {"bt_jax": bt_jax.__version__, "jax": jax.__version__},
    "devices": _devices(),
    "test": summarize(rows),
  }
  table, title = results_table(summary), heading(summary)
  written = [
    files.write_csv(workdir / "slices.csv", rows),
    files.write_csv(workdir / "patients.csv", patient_rows(rows)),
    files.write_json(workdir / "summary.json", summary),
    files.write_bytes(workdir / "table.txt", f"{table}\n".encode()),
    figures.save_curves(workdir / "figures/curves.png", history, title=title, score=config.train.score),
    *figures.save_overlays(workdir / "figures", test, masks, rows, title=title),
  ]
  print(f"\n{table}\n\nwritten:\n" + "\n".join(f"  {path}" for path in written))
  print(f"curves while training: tensorboard --logdir={workdir / 'tensorboard'}")


def _devices() -> str:
  devices = jax.devices()
  return f"{len(devices)} x {devices[0].device_kind}"
