"""From a configuration to the components of a run; invalid fields are reported here, before any data is read."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from bt_jax.datasets import splits
from bt_jax.datasets.channels import Channel, context_of, parse_channels
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.registry import source_of
from bt_jax.datasets.store import Source
from bt_jax.distributed import sharding
from bt_jax.errors import UserError, choose
from bt_jax.evaluation import subgroups
from bt_jax.losses import Loss, make_loss
from bt_jax.models import DTYPES, configured_model
from bt_jax.pipeline import percentiles
from bt_jax.pipeline.augment import make_augment
from bt_jax.pipeline.contrast import make_contrast
from bt_jax.pipeline.feed import FEEDS, SAMPLINGS
from bt_jax.pipeline.preprocess import Augment, make_preprocess
from bt_jax.tasks import TASKS
from bt_jax.tasks.segmentation import with_slices
from bt_jax.tasks.task import Task
from bt_jax.training import finetune
from bt_jax.training.optimizer import make_optimizer, make_schedule
from bt_jax.training.step import make_predict_step
from bt_jax.training.train_state import PyTree


@dataclasses.dataclass(frozen=True)
class Components:
  """The components of training and evaluation.

  Attributes:
    mesh: the devices.
    source: source of the data set.
    info: description of the data set.
    task: the task of the network.
    model: the network.
    channels: channels of the network's input, see `channels.parse_channels`.
    normalize: how the inputs are normalised, a name of `SCHEMES`.
    contrast: contrast enhancement, applied to every slice when it is read.
    preprocess: see `make_preprocess`.
    augment: see `make_augment`.
    loss: loss per example.
    shapes: shapes of the network's variables.
    kept_statistics: the stages whose batch statistics are not updated.
    schedule: maps the number of steps per epoch to the learning-rate schedule.
    optimizer: the optimiser, for a learning rate of 1.
    predict_step: the compiled prediction step.
  """

  mesh: jax.sharding.Mesh
  source: Source
  info: DatasetInfo
  task: Task
  model: nn.Module
  channels: tuple[Channel, ...]
  normalize: str
  contrast: Callable[[np.ndarray], np.ndarray]
  preprocess: Callable
  augment: Augment
  loss: Loss
  shapes: PyTree
  kept_statistics: set[str]
  schedule: Callable[[int], optax.Schedule]
  optimizer: optax.GradientTransformation
  predict_step: Callable


def make_components(config: ConfigDict, normalize: str = "unit") -> Components:
  """Makes the components; raises UserError for the first invalid field.

  Args:
    config: configuration of the run.
    normalize: the scheme for `data.normalize=auto`; any scheme will do if only the fields are to be checked.
  """
  choose("feed", config.feed, FEEDS)
  mesh = sharding.make_mesh()
  _check_numbers(config, mesh)
  source = source_of(config)
  info = source.info
  splits.check_choice(kind=config.split.kind, fold=config.split.fold, count=info.folds, folds=config.split.folds)
  most = max(info.folds - splits.GROUP_VALIDATION - 1, 1)  # a single fold is validated by one
  if not 1 <= config.crossval.group <= most:
    raise UserError(f"crossval.group is {config.crossval.group}, expected 1 to {most}")
  subgroups.parse(config.report.subgroups, info)
  task = choose("task", config.task, TASKS)(info)
  choose("train.score", config.train.score, dict.fromkeys((*task.scores, "loss")))
  choose("loss.name", config.loss.name, task.losses)
  choose("train.sampling", config.train.sampling, SAMPLINGS)
  fields = {**config.model, "classes": task.outputs, "dtype": choose("model.dtype", config.model.dtype, DTYPES)}
  model = configured_model(task.models, fields)
  if config.data.normalize != "auto":
    normalize = config.data.normalize
  preprocess = make_preprocess(size=config.data.size, normalize=normalize, channels=config.data.channels, info=info)
  contrast = make_contrast(config.data.contrast)
  loss = make_loss(**config.loss, overlapping=info.overlapping)
  if config.model.slice_head:
    loss = with_slices(loss)
  channels = parse_channels(config.data.channels, info)
  _check_together(config, task, normalize)
  if info.deep and config.data.contrast != "none":  # it would silently turn 16-bit slices black
    raise UserError(
      f"data.contrast={config.data.contrast} enhances slices of 8 bits, and {info.name} has 16: leave it out",
      "data.contrast=none",
    )
  # Only shapes, so that a size or stage that does not fit the network is reported before anything runs.
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, config.data.size, config.data.size, len(channels))))
  )
  rates = finetune.parse_rates(config.train.stage_rates, shapes["params"])
  statistics = shapes.get("batch_stats", {})
  kept = choose(
    "train.batch_stats",
    config.train.batch_stats,
    {"update": [], "keep": finetune.stages_of(statistics.get("encoder", statistics))},
  )
  if config.train.batch_stats == "keep" and not statistics:
    raise UserError(
      "train.batch_stats=keep is for the statistics of batch norm, and model.norm=group has none: leave one of them out",
      "train.batch_stats=update",
    )

  def schedule(steps_per_epoch: int) -> optax.Schedule:
    return make_schedule(
      name=config.train.schedule,
      learning_rate=config.train.learning_rate,
      warmup_steps=round(config.train.warmup_epochs * steps_per_epoch),
      steps=config.train.epochs * steps_per_epoch,
    )

  schedule(1)  # so that a wrong name is reported now
  optimizer = make_optimizer(
    name=config.train.optimizer,
    momentum=config.train.momentum,
    epsilon=config.train.epsilon,
    weight_decay=config.train.weight_decay,
  )
  return Components(
    mesh=mesh,
    source=source,
    info=info,
    task=task,
    model=model,
    channels=channels,
    normalize=normalize,
    contrast=contrast,
    preprocess=preprocess,
    augment=make_augment(**config.augment, info=info, context=context_of(channels, info)),
    loss=loss,
    shapes=shapes,
    kept_statistics={*kept, *(stage for stage, factor in rates.items() if not factor)},
    schedule=schedule,
    optimizer=finetune.by_stage(optimizer, rates),
    predict_step=sharding.compile_step(
      config.parallel,
      make_predict_step(model=model, task=task, preprocess=preprocess),
      mesh,
      cut=(False, True),
      cut_out=True,
    ),
  )


def _check_together(config: ConfigDict, task: Task, normalize: str) -> None:
  """Raises UserError for fields that contradict one another."""
  if config.data.contrast != "none" and normalize in ("volume", percentiles.NAME):
    raise UserError(
      f"data.contrast={config.data.contrast} changes intensities, so the statistics of data.normalize={normalize} no longer hold: "
      "set data.normalize=image",
      "data.normalize=image",
    )
  task.check(config)
  if config.train.sampling == "balanced" and config.train.class_weights == "balanced":
    raise UserError(
      "train.sampling=balanced and train.class_weights=balanced correct for the same twice: leave one out"
    )
  if config.train.patience and config.split.kind == "all":
    raise UserError(
      "train.patience needs a validation set, and split.kind=all has none: leave it out, and set train.epochs as "
      "cross-validation chose it",
      "train.epochs",
    )
  if config.eval.largest_component and config.split.kind == "random":
    raise UserError(
      "eval.largest_component needs whole volumes, and split.kind=random divides them: leave one of them out"
    )


# The range of every numeric field that has one.
RANGES = {
  "host_timeout": (1, math.inf),
  "split.seed": (0, math.inf),
  "model.width": (1, math.inf),
  "model.depth": (1, math.inf),
  "augment.rotation_degrees": (0, 180),
  "augment.scale": (0, math.inf),
  "augment.shift": (0, 1),
  "augment.gain": (0, math.inf),
  "augment.offset": (0, math.inf),
  "augment.drop_sequence": (0, 1),
  "augment.gamma": (0, math.inf),
  "augment.noise": (0, math.inf),
  "loss.smooth": (0, math.inf),
  "loss.fp_weight": (0, math.inf),
  "loss.fn_weight": (0, math.inf),
  "loss.exponent": (0, math.inf),
  "loss.label_smoothing": (0, 1),
  "train.mixup": (0, math.inf),
  "train.epsilon": (0, math.inf),
  "data.size": (1, math.inf),
  "train.seed": (0, math.inf),
  "train.epochs": (1, math.inf),
  "train.accumulate": (1, math.inf),
  "train.steps_per_dispatch": (1, math.inf),
  "data.workers": (0, math.inf),
  "train.learning_rate": (0, math.inf),
  "train.warmup_epochs": (0, math.inf),
  "train.momentum": (0, 1),
  "train.weight_decay": (0, math.inf),
  "train.ema_decay": (0, 1),
  "train.patience": (0, math.inf),
  "eval.threshold": (0, 1),
}


def _check_numbers(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
  for name, (low, high) in RANGES.items():
    value = functools.reduce(ConfigDict.__getitem__, name.split("."), config)
    if value is not None and not low <= value <= high:
      raise UserError(f"{name} is {value}, expected {low} " + ("or more" if high == math.inf else f"to {high}"))
  sharding.check_batch_size(mesh, "eval.batch_size", config.eval.batch_size)
