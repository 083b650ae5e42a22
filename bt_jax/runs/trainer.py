"""Training of one configuration: validation, reports, and the loop over the steps."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bt_jax import files
from bt_jax.distributed import global_batch, hosts, sharding
from bt_jax.errors import UserError
from bt_jax.evaluation import calibration
from bt_jax.evaluation.aggregation import score_of
from bt_jax.inference import ood
from bt_jax.pipeline import feed
from bt_jax.pretrained.conversion import Weights
from bt_jax.runs import chunks, loggers, prediction, restoring, warm_start
from bt_jax.runs.chunks import Passes
from bt_jax.runs.components import Components
from bt_jax.runs.input_pipeline import make_input_pipeline
from bt_jax.runs.provenance import devices
from bt_jax.runs.run_data import Data
from bt_jax.runs.tensorboard import Board
from bt_jax.runs.transfer import TrainedRun, patients_of
from bt_jax.runs.workdir import check_there, plain
from bt_jax.schema import Predicted
from bt_jax.tasks.task import Outputs
from bt_jax.training import loop
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.training.train_state import TrainState
from bt_jax.version import __version__

_PROFILED = 16  # training volumes


def fit(
  config: ConfigDict, workdir: pathlib.Path, components: Components, data: Data, weights: Weights | TrainedRun | None
) -> None:
  """Trains, or resumes where the run in `workdir` stopped.

  Args:
    config: configuration of the run.
    workdir: folder of the run.
    components: components made from the configuration.
    data: data of the run.
    weights: the weights that a new run starts from, or None.

  Raises:
    UserError: there is nothing to sample, the loss is not finite, or the memory does not suffice.
    Stopped: Ctrl-C or SIGTERM, once the state is saved.
  """
  groups = feed.sampling_groups(config.train.sampling, data.labels("train"))
  size = feed.epoch_size(groups)
  steps_per_epoch = -(-size // config.train.batch_size)
  plan = loop.Plan(
    config.train.epochs * steps_per_epoch, steps_per_epoch, config.train.batch_size, config.train.patience
  )
  rates = np.asarray(jax.vmap(components.schedule(steps_per_epoch))(jnp.arange(plan.steps)), np.float32)
  latest, best = (Checkpoints(workdir / "checkpoints" / name) for name in ("latest", "best"))
  history: list[loop.Row] = []
  if restored := latest.restore(functools.partial(restoring.first_state, config, components, abstract=True)):
    state, record = restored
    history = record["history"]
    _write_metrics(data, workdir, history)
  else:
    state = restoring.first_state(config, components, abstract=False)
    if weights is not None:
      state = _warm_start(workdir, components, state, weights)
  if loop.is_finished(plan, history):
    print(f"{workdir} is trained already ({history[-1]['epoch']} epochs): nothing to train, evaluating it")
    return
  if restored:
    print(f"resuming from step {int(state.step)} of {plan.steps}")

  print(f"training on {size} slices an epoch of {data.title}, {data.split.name}; devices: {devices()}")
  validation = chunks.read(data, "validation") if data.split.validation else None

  def validate(state: TrainState) -> loop.Validation:
    check_there(workdir)  # before anything is saved there
    if validation is None:
      return loop.Validation({}, functools.partial(_undecided, config))
    logits = prediction.predict_chunks(config, components, state.eval_variables, validation)
    decide = functools.partial(_decide, config, components, logits)
    return loop.Validation(_validation(config, components, data, logits), decide)

  with _report_exhausted_memory(), contextlib.ExitStack() as stack:
    start = int(state.step)
    pipeline = make_input_pipeline(config, components, data, groups=groups, rates=rates, start=start, stack=stack)
    loop.train(
      state,
      history,
      plan=plan,
      pipeline=pipeline,
      validate=validate,
      learning_rates=rates,
      latest=latest,
      best=best,
      record={
        **data.names,
        "split_hash": data.split.hash,
        "config": plain(config),
        "normalize": components.normalize,
        "info": components.info.to_json(),
        "patients": _learned_from(data, weights, restored and restored[1]),
        "profile": _profile(data),
        "bt_jax": __version__,
      },
      report=stack.enter_context(_report(config, data, workdir, start)),
    )
  for checkpoints in (latest, best):
    checkpoints.close()


@contextlib.contextmanager
def _report_exhausted_memory() -> Iterator[None]:
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise UserError(
      "the memory of the device does not suffice: try train.accumulate=2, train.remat=True, a smaller train.batch_size or "
      "feed=stream",
      "train.accumulate=2",
      "train.remat=True",
      "train.batch_size",
      "feed=stream",
    ) from error


def _warm_start(
  workdir: pathlib.Path, components: Components, state: TrainState, weights: Weights | TrainedRun
) -> TrainState:
  """Fills the state from `weights`, and records what was adapted."""
  variables, adapted = warm_start.fill(components, state.variables, weights)
  if hosts.is_first():
    warm_start.record(workdir, weights, adapted, components.normalize)
  variables = jax.device_put(variables, sharding.replicated(components.mesh))
  return state.replace(
    variables=variables, average=None if state.average is None else jax.tree.map(jnp.copy, variables)
  )


def _validation(
  config: ConfigDict, components: Components, data: Data, logits: Iterable[Predicted]
) -> dict[str, float]:
  """Loss, accuracy and score of the validation set, as one batch and at a threshold of 0.5."""
  task, totals = components.task, global_batch.Totals()
  counts, losses, accuracies, rows = [], [], [], []
  for chunk in logits:
    outputs, target = _outputs_and_target(config, components, chunk)
    with totals.add():
      losses.append(float(components.loss(outputs, target).mean()))
    counts.append(len(chunk.slices))
    accuracies.append(float(task.accuracy(outputs, target)))
    if config.train.score != "loss":
      tumor = prediction.probabilities(components, chunk.tumor)
      predictions = task.predict(tumor, chunk.slices, 0.5, False)
      rows += task.slice_records(chunk.slices, tumor, predictions, data=data.title, split=data.split.name)
  if totals.matter:  # a pooled loss is of the counts of all slices
    for index, chunk in enumerate(logits):
      with totals.use():
        losses[index] = float(components.loss(*_outputs_and_target(config, components, chunk)).mean())
  loss, accuracy = (float(np.average(values, weights=counts)) for values in (losses, accuracies))
  score = -loss if config.train.score == "loss" else score_of(task.summarize(rows), config.train.score)
  if score is None:
    raise UserError(
      f"train.score={config.train.score} has no value on the validation set of {data.split.name}, whose slices are all "
      "of one class: set train.score=loss",
      "train.score=loss",
    )
  return {"loss": loss, "accuracy": accuracy, "score": score}


def _outputs_and_target(config: ConfigDict, components: Components, chunk: Predicted) -> tuple[Outputs, jax.Array]:
  slices = chunk.slices
  outputs = components.task.as_outputs(jax.tree.map(jnp.asarray, chunk.tumor), config.model.slice_head)
  return outputs, components.task.target(jnp.asarray(slices.label), jnp.asarray(slices.mask, jnp.float32))


def _decide(config: ConfigDict, components: Components, logits: Passes[Predicted]) -> dict[str, Any]:
  """What prediction needs beside the parameters, all of it from the validation set.

  These are the threshold and the temperature, and the probabilities of the slices with a tumour, from which a gate of
  any sensitivity can be chosen.
  """
  predicted = logits.map(lambda chunk: chunk._replace(tumor=prediction.probabilities(components, chunk.tumor)))
  gate = prediction.choose_gate(config, predicted)
  predicted = predicted.map(lambda chunk: chunk._replace(tumor=prediction.gated(chunk.tumor, gate)))
  threshold = config.eval.threshold
  if threshold is None:
    threshold = components.task.choose_threshold(predicted, config.eval.largest_component)
  pairs = [(tumor.slices, slices.label) for slices, tumor in predicted]
  probability, label = map(np.concatenate, zip(*pairs, strict=True))
  return {
    "threshold": threshold,
    "temperature": calibration.fit_temperature(probability, label),
    "tumor_probabilities": np.sort(probability[label == 1]).tolist(),
  }


def _learned_from(
  data: Data, weights: Weights | TrainedRun | None, restored: dict[str, Any] | None
) -> dict[str, list[str]]:
  """The patients of training and validation, and those of the weights that the run started from, for checks of leaks."""
  if restored and restored.get("patients"):
    return restored["patients"]
  earlier = (weights.patients if weights is not None else None) or {}
  ours = patients_of(data.split, data.index)
  return {subset: sorted({*patients, *earlier.get(subset, ())}) for subset, patients in ours.items()}


def _undecided(config: ConfigDict) -> dict[str, Any]:
  """The same without a validation set: placeholders, until records of a cross-validation choose, see `out_of_fold`."""
  threshold = config.eval.threshold
  placeholder = 0.5 if threshold is None else threshold
  return {"threshold": placeholder, "temperature": 1.0, "tumor_probabilities": [], "chosen": threshold is not None}


def _profile(data: Data) -> dict[str, list[float]]:
  """The profile of some training volumes, by which prediction recognises out-of-distribution scans."""
  train, cases = set(data.split.train), {}
  for entry in data.index:
    if entry.id in train:
      cases.setdefault(entry.case, []).append(entry.id)
  volumes = list(cases.values())
  chosen = np.unique(np.linspace(0, len(volumes) - 1, _PROFILED).astype(int))
  reader = dataclasses.replace(data.reader, change=np.asarray)  # without contrast enhancement, as for external scans
  return ood.profile(reader.read(volumes[index]).image[..., reader.info.reference_index] for index in chosen)


@contextlib.contextmanager
def _report(
  config: ConfigDict, data: Data, workdir: pathlib.Path, step: int
) -> Iterator[Callable[[list[loop.Row]], None]]:
  """Yields what writes the history to `metrics.csv`, TensorBoard and the loggers after every epoch, on the first host."""
  if not hosts.is_first():
    yield lambda history: None
    return
  title = f"{data.title}, {data.split.name}"
  with (
    loggers.open_loggers(loggers.parse(config.log), workdir, title, plain(config)) as opened,
    contextlib.closing(Board(workdir / "tensorboard", step)) as board,
  ):
    board.add({"run": title}, step)

    def write(history: list[loop.Row]) -> None:
      _write_metrics(data, workdir, history)
      board.add(history[-1], int(history[-1]["step"]))
      for logger in opened:
        with loggers.reported(logger.name):
          logger.add(history[-1], int(history[-1]["step"]))

    yield write


def _write_metrics(data: Data, workdir: pathlib.Path, history: list[loop.Row]) -> None:
  if history and hosts.is_first():
    rows = [{"data": data.title, "split": data.split.name, **row} for row in history]
    files.write_csv(workdir / "metrics.csv", rows)
