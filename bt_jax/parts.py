"""From a configuration to the parts of an experiment; every wrong field is told here, before any data is touched."""

import dataclasses
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
    variant: the data set's builder configuration.
    mesh: the devices.
    optimizer: from the steps of an epoch to the schedule and the optimiser.
    predict_step: compiled.
  """

  variant: str
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
    variant=data_variant(config),
    mesh=mesh,
    model=model,
    preprocess=preprocess,
    augment=make_augment(**config.augment),
    loss=loss,
    optimizer=optimizer,
    predict_step=parallel.compile_predict_step(make_predict_step(model=model, preprocess=preprocess, loss=loss), mesh),
  )


def _check_numbers(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
  parallel.check_batch_size(mesh, "train.batch_size", config.train.batch_size)
  parallel.check_batch_size(mesh, "eval.batch_size", config.eval.batch_size)
  for name, value in (
    ("train.epochs", config.train.epochs),
    ("model.width", config.model.width),
    ("model.depth", config.model.depth),
  ):
    if value < 1:
      raise UserError(f"{name} is {value}, expected 1 or more")
  for name, value in (("train.ema_decay", config.train.ema_decay), ("eval.threshold", config.eval.threshold)):
    if value is not None and not 0 <= value <= 1:
      raise UserError(f"{name} is {value}, expected 0 to 1")
  check_size(config.data.size, config.model.depth)
