"""Training of one configuration: its feed, its compiled step, its validation, and the loop over them."""

import collections
import contextlib
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import bt_jax
from bt_jax import files, machine, runs, warmstart
from bt_jax.errors import UserError
from bt_jax.evaluation.aggregation import score_of
from bt_jax.parts import Parts
from bt_jax.pipeline import feed
from bt_jax.pretrained.convert import Weights, fill_encoder
from bt_jax.runs import Data, first_state, plain
from bt_jax.schema import Slices
from bt_jax.training import hosts, loop, parallel
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.training.state import TrainState
from bt_jax.training.step import TrainStep, make_resident_step, make_train_step

Feed = Callable[[int, int], tuple[int, Any]]
Step = Callable[[TrainState, Any], tuple[TrainState, jax.Array]]


def fit(config: ConfigDict, workdir: pathlib.Path, parts: Parts, data: Data, weights: Weights | None) -> None:
  """Trains, or goes on where the run in `workdir` stopped.

  Args:
    config: of the run.
    workdir: its folder.
    parts: made of the configuration.
    data: its slices.
    weights: that a new run starts from.

  Raises:
    UserError: there is nothing to sample, the loss is not finite, or memory does not suffice.
    Stopped: Ctrl-C or SIGTERM, once the state is saved.
  """
  groups = feed.sampling_groups(config.train.sampling, data.labels("train"))
  size = len(np.unique(np.concatenate(groups)))
  steps_per_epoch = -(-size // config.train.batch_size)
  plan = loop.Plan(
    config.train.epochs * steps_per_epoch, steps_per_epoch, config.train.batch_size, config.train.patience
  )
  rates = np.asarray(jax.vmap(parts.schedule(steps_per_epoch))(jnp.arange(plan.steps)), np.float32)
  latest, best = (Checkpoints(workdir / "checkpoints" / name) for name in ("latest", "best"))
  history: list[loop.Row] = []
  if restored := latest.restore(first_state(config, parts, abstract=True)):
    state, record = restored
    history = record["history"]
    _write_metrics(data, workdir, history)
  else:
    state = first_state(config, parts, abstract=False)
    if weights is not None:
      state = _warm_start(workdir, parts, state, weights)
  if loop.is_finished(plan, history):
    print(f"{workdir} is trained already ({history[-1]['epoch']} epochs): nothing to train, evaluating it")
    return
  if restored:
    print(f"going on from step {int(state.step)} of {plan.steps}")

  print(f"training on {size} slices of {data.title}, {data.split.name}; devices: {runs.devices()}")
  validation = data.read("validation")

  def validate(state: TrainState) -> dict[str, float]:
    logits = runs.predict(config, parts, state.eval_variables, validation)
    return _validation(config, parts, data, validation, logits)

  with _told_if_memory_ends(), contextlib.ExitStack() as stack:
    take, step = feed_and_step(config, parts, data, groups=groups, rates=rates, start=int(state.step), stack=stack)
    loop.train(
      state,
      history,
      plan=plan,
      feed=take,
      step=step,
      validate=validate,
      learning_rates=rates,
      latest=latest,
      best=best,
      record={
        **data.names,
        "split_hash": data.split.hash,
        "config": plain(config),
        "normalize": parts.normalize,
        "bt_jax": bt_jax.__version__,
      },
      report=stack.enter_context(_Report(data, workdir, int(state.step))),
    )
  for checkpoints in (latest, best):
    checkpoints.close()


@contextlib.contextmanager
def _told_if_memory_ends() -> Iterator[None]:
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise UserError(
      "the memory of the device does not suffice: try --config.train.accumulate=2, --config.train.remat=True, a smaller "
      "--config.train.batch_size or --config.feed=stream"
    ) from error


def feed_and_step(
  config: ConfigDict,
  parts: Parts,
  data: Data,
  *,
  groups: feed.Groups,
  rates: np.ndarray,
  start: int,
  stack: contextlib.ExitStack,
) -> tuple[Feed, Step]:
  """What the loop takes its inputs from, by `config.feed`, and the compiled step that they fit.

  Args:
    config: of the run.
    parts: made of it.
    data: its slices.
    groups: of training slices, see `sampling_groups`.
    rates: learning rates, float32 [steps].
    start: the step to begin with.
    stack: closes the feed.
  """
  mesh, batch_size, ids = parts.mesh, config.train.batch_size, data.split.train
  weights = feed.slice_weights(config.train.class_weights, data.labels("train"))
  order = functools.partial(feed.train_indices, seed=config.train.seed, batch_size=batch_size, groups=groups)
  kind, why = feed.choose_feed(config.feed, len(ids), min(hosts.gather(_memory())))
  on_cpu = jax.default_backend() == "cpu"
  at_once = config.train.steps_per_dispatch or (1 if on_cpu else 10)
  if kind == "resident" and (at_once > 1 or not on_cpu or jax.process_count() > 1):
    print(f"feed: resident on the device ({why}), up to {at_once} steps at once")
    return _several_at_once(config, parts, _on_each_device(mesh, data, weights), order, rates, at_once)

  print(f"feed: {kind} ({why})")
  if kind == "stream":
    rows = parallel.local_rows(mesh, batch_size)
    source = feed.Batches(data.reader.read, ids, weights, order, rows)
    workers = config.data.workers
    workers = min(8, max(1, machine.cores() - 1)) if workers is None else workers
    batches = feed.stream(source, start=start, stop=len(rates), workers=workers)
    stack.enter_context(contextlib.closing(batches))
    ready = _ahead(parallel.lay_out(mesh, batch, batch_size) for batch in batches)
  else:  # a CPU's memory is the host's
    examples = feed.arrays(data.read("train"), weights)
    chosen = (order(step=step) for step in itertools.count(start))
    ready = (parallel.lay_out(mesh, {name: array[at] for name, array in examples.items()}, batch_size) for at in chosen)
  compiled = parallel.compile_step(
    config.parallel, _train_step(config, parts), mesh, cut=(False, True, False), donate=True
  )
  take = lambda done, most: (1, (next(ready), rates[done]))
  return take, lambda state, inputs: compiled(state, *inputs)


def _ahead(batches: Iterator[dict[str, jax.Array]]) -> Iterator[dict[str, jax.Array]]:
  """The same batches, each on its way to the devices while the one before is worked on."""
  waiting = collections.deque(itertools.islice(batches, 1))
  while waiting:
    waiting.extend(itertools.islice(batches, 1))
    yield waiting.popleft()


def _several_at_once(
  config: ConfigDict,
  parts: Parts,
  data: dict[str, jax.Array],
  order: Callable[..., np.ndarray],
  rates: np.ndarray,
  at_once: int,
) -> tuple[Feed, Step]:
  """The same for slices that are on the devices: what goes there is which of them make the next batches."""
  mesh, batch_size = parts.mesh, config.train.batch_size
  rows = parallel.local_rows(mesh, batch_size)
  compiled = parallel.compile_step(
    config.parallel,
    make_resident_step(_train_step(config, parts)),
    mesh,
    cut=(False, True, False, False, False),
    donate=True,
  )

  def take(done: int, most: int) -> tuple[int, Any]:
    count = min(at_once, most)
    steps = done + np.minimum(np.arange(at_once), count - 1)  # those after the last are not taken
    indices = np.stack([order(step=int(step)) for step in steps], axis=1)[rows]
    laid_out = parallel.lay_out(mesh, {"indices": indices}, batch_size)["indices"]
    return count, (laid_out, data, rates[steps], np.int32(count))

  return take, lambda state, inputs: compiled(state, *inputs)


def _train_step(config: ConfigDict, parts: Parts) -> TrainStep:
  return make_train_step(
    model=parts.model,
    task=parts.task,
    preprocess=parts.preprocess,
    augment=parts.augment,
    loss=parts.loss,
    optimizer=parts.optimizer,
    ema_decay=config.train.ema_decay,
    mixup=config.train.mixup,
    kept_statistics=parts.kept_statistics,
    pieces=config.train.accumulate,
    remat=config.train.remat,
    seed=config.train.seed,
  )


def _on_each_device(mesh: jax.sharding.Mesh, data: Data, weights: np.ndarray) -> dict[str, jax.Array]:
  """The training part on every device; each host reads a share of it, and gets the rest from the others.

  It is filled up to the size of the whole data set, so that the compiled step is the same for every split of it.
  """
  size = -(-len(data.index) // mesh.size) * mesh.size
  ids, rows = data.split.train, parallel.local_rows(mesh, size)
  mine = rows[rows < len(ids)]
  read = feed.arrays(data.reader.read([ids[at] for at in mine], progress=True), weights[mine])
  padded = {
    name: np.concatenate([array, np.zeros((len(rows) - len(mine), *array.shape[1:]), array.dtype)])
    for name, array in read.items()
  }
  return parallel.whole_on_each(mesh, parallel.lay_out(mesh, padded, size))


def _memory() -> int:
  """Bytes of the memory that a resident part would stand in: of a device, or of this machine where that is a CPU."""
  stats = jax.local_devices()[0].memory_stats()
  return stats["bytes_limit"] if stats else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _warm_start(workdir: pathlib.Path, parts: Parts, state: TrainState, weights: Weights) -> TrainState:
  """The state with the encoder of `weights`, told and written down."""
  variables, told = fill_encoder(state.variables, weights)
  if hosts.is_first():
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


class _Report:
  """Writes the history after every epoch, on the first host: `metrics.csv` and TensorBoard."""

  def __init__(self, data: Data, workdir: pathlib.Path, step: int):
    from tensorboardX import SummaryWriter  # imports torch where that is installed, which takes seconds

    self._data, self._workdir = data, workdir
    self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1) if hosts.is_first() else None
    if self._board:
      self._board.add_text("run", f"{data.title}, {data.split.name}", step)

  def __enter__(self) -> Callable[[list[loop.Row]], None]:
    return self._write

  def __exit__(self, *_: object) -> None:
    if self._board:
      self._board.close()

  def _write(self, history: list[loop.Row]) -> None:
    _write_metrics(self._data, self._workdir, history)
    if self._board:
      for name, value in history[-1].items():
        self._board.add_scalar(name, value, int(history[-1]["step"]))
      self._board.flush()


def _write_metrics(data: Data, workdir: pathlib.Path, history: list[loop.Row]) -> None:
  if history and hosts.is_first():
    rows = [{"data": data.title, "split": data.split.name, **row} for row in history]
    files.write_csv(workdir / "metrics.csv", rows)
