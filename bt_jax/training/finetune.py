"""Fine-tuning by stage: learning rates of the stages of a network, and the stages that keep their batch statistics."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import optax
from flax import linen as nn

from bt_jax.errors import UserError
from bt_jax.models.layers import BatchNorm

PyTree = Any


def stage_of(path: tuple[str, ...]) -> str:
  """The stage that a parameter or layer belongs to: the first name of its path, or the second inside an encoder."""
  return path[1] if path[0] == "encoder" and len(path) > 1 else path[0]


def stages_of(tree: PyTree) -> list[str]:
  """The stages of a tree of parameters or statistics, in the order of the tree."""
  return list(dict.fromkeys(_leaf_stage(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)))


def _leaf_stage(path: tuple[Any, ...]) -> str:
  return stage_of(tuple(key.key for key in path))


def parse_rates(text: str, params: PyTree) -> dict[str, float]:
  """Parses factors of the learning rate by stage, such as `stem=0,stage1=0.1`; stages not named have factor 1.

  Args:
    text: the text from the configuration.
    params: parameters of the network, or their shapes.

  Raises:
    UserError: the text has another form, a factor is negative, or the network has no such stage.
  """
  stages = stages_of(params)
  rates = {}
  for part in filter(None, text.replace(" ", "").split(",")):
    stage, _, factor = part.partition("=")
    try:
      rates[stage] = float(factor)
    except ValueError:
      rates[stage] = -1.0
    if not 0 <= rates[stage] < float("inf"):
      raise UserError(f"train.stage_rates has {part!r}, expected stage=factor with a factor of 0 or more, e.g. stem=0")
    if stage not in stages:
      raise UserError(
        f"train.stage_rates names {stage!r}, which is no stage of this network: it has {', '.join(stages)}"
      )
  return rates


def by_stage(optimizer: optax.GradientTransformation, rates: dict[str, float]) -> optax.GradientTransformation:
  """Scales the optimiser's updates by a factor for each stage; factor 0 freezes a stage, without weight decay."""
  if not rates:
    return optimizer
  parts = {
    factor: optax.chain(optimizer, optax.scale(factor)) if factor else optax.set_to_zero()
    for factor in {1.0, *rates.values()}
  }
  label = lambda path, _: rates.get(_leaf_stage(path), 1.0)
  return optax.partition(parts, lambda params: jax.tree_util.tree_map_with_path(label, params))


def keep_statistics(stages: Collection[str]) -> Callable:
  """An interceptor that makes batch norm in these stages use its running statistics and leave them unchanged."""

  def interceptor(next_function: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    module = context.module
    if isinstance(module, BatchNorm) and stage_of(module.path) in stages:
      kwargs = kwargs | {"use_running_average": True}
    return next_function(*args, **kwargs)

  return interceptor
