"""From a configuration to the parts of an experiment; every wrong field is told here, before any data is touched."""

import dataclasses
import math
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from bt_jax.datasets import splits
from bt_jax.errors import UserError, choose
from bt_jax.evaluation.aggregation import SCORES
from bt_jax.losses import Loss, make_loss
from bt_jax.models import MODELS
from bt_jax.models.unet import check_size
from bt_jax.pipeline.augment import make_augment
from bt_jax.pipeline.preprocess import Augment, make_preprocess
from bt_jax.training import parallel
from bt_jax.training.optimizer import make_optimizer, make_schedule
from bt_jax.training.step import make_predict_step

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Parts:
  """What training and evaluation are put together from.

  Attributes:
    mesh: the devices.
    optimizer: from the steps of an epoch to the schedule and the optimiser.
    predict_step: compiled.
  """

  mesh: jax.sharding.Mesh
  model: nn.Module
  preprocess: Callable
  augment: Augment
  loss: Loss
  optimizer: Callable[[int], tuple[optax.Schedule, optax.GradientTransformation]]
  predict_step: Callable


def data_variant(config: ConfigDict) -> str:
  """The builder configuration that holds the data: `full`, `partial` or `phantom`."""
  return choose(
    "data.name", config.data.name, {"phantom": "phantom", "lgg": "full" if config.data.expect_full else "partial"}
  )


def make_parts(config: ConfigDict) -> Parts:
  """Makes the parts; raises UserError for the first field that cannot be."""
  if config.train.deterministic and _DETERMINISTIC not in (flags := os.environ.get("XLA_FLAGS", "")):
    os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}"  # read when JAX first looks for devices, in the next line
  data_variant(config)
  mesh = parallel.make_mesh()
  _check_numbers(config, mesh)
  splits.check_choice(kind=config.split.kind, fold=config.split.fold)
  choose("train.score", config.train.score, dict.fromkeys(SCORES))
  model = choose("model.name", config.model.name, MODELS)(
    width=config.model.width,
    depth=config.model.depth,
    dtype=choose("model.dtype", config.model.dtype, _DTYPES),
  )
  preprocess = make_preprocess(size=config.data.size, normalize=config.data.normalize)
  loss = make_loss(**config.loss)

  def optimizer(steps_per_epoch: int) -> tuple[optax.Schedule, optax.GradientTransformation]:
    schedule = make_schedule(
      learning_rate=config.train.learning_rate,
      warmup_steps=round(config.train.warmup_epochs * steps_per_epoch),
      steps=config.train.epochs * steps_per_epoch,
    )
    return schedule, make_optimizer(
      schedule,
      name=config.train.optimizer,
      momentum=config.train.momentum,
      weight_decay=config.train.weight_decay,
    )

  optimizer(1)  # so that a wrong name is told now
  return Parts(
    mesh=mesh,
    model=model,
    preprocess=preprocess,
    augment=make_augment(**config.augment),
    loss=loss,
    optimizer=optimizer,
    predict_step=parallel.compile_predict_step(make_predict_step(model=model, preprocess=preprocess), mesh),
  )


# The range of every number that has one.
_RANGES = {
  "split.seed": (0, math.inf),
  "model.width": (1, math.inf),
  "model.depth": (1, math.inf),
  "augment.rotation_degrees": (0, 180),
  "augment.scale": (0, math.inf),
  "augment.shift": (0, 1),
  "augment.gamma": (0, math.inf),
  "augment.noise": (0, math.inf),
  "loss.smooth": (0, math.inf),
  "loss.fp_weight": (0, math.inf),
  "loss.fn_weight": (0, math.inf),
  "loss.exponent": (0, math.inf),
  "train.seed": (0, math.inf),
  "train.epochs": (1, math.inf),
  "train.learning_rate": (0, math.inf),
  "train.warmup_epochs": (0, math.inf),
  "train.momentum": (0, 1),
  "train.weight_decay": (0, math.inf),
  "train.ema_decay": (0, 1),
  "train.patience": (0, math.inf),
  "eval.threshold": (0, 1),
}


def _check_numbers(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
  for name, (low, high) in _RANGES.items():
    section, field = name.split(".")
    value = config[section][field]
    if value is not None and not low <= value <= high:
      raise UserError(f"{name} is {value}, expected {low} " + ("or more" if high == math.inf else f"to {high}"))
  parallel.check_batch_size(mesh, "train.batch_size", config.train.batch_size)
  parallel.check_batch_size(mesh, "eval.batch_size", config.eval.batch_size)
  check_size(config.data.size, config.model.depth)
  if config.eval.largest_component and config.split.kind == "random":
    raise UserError(
      "eval.largest_component needs whole volumes, and split.kind=random cuts them: leave one of them out"
    )
