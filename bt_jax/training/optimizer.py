"""Optimisers and learning-rate schedules, by name."""

from collections.abc import Callable

import jax
import optax

from bt_jax.errors import choose
from bt_jax.options import taken


def make_schedule(*, name: str, learning_rate: float, warmup_steps: int, steps: int) -> optax.Schedule:
  """Rises linearly from 0 over `warmup_steps`, then stays constant (`constant`) or decays to 0 at `steps` (`cosine`).

  Raises:
    UserError: there is no such schedule.
  """
  schedules = {
    "cosine": lambda: optax.warmup_cosine_decay_schedule(
      0.0, learning_rate, warmup_steps, max(steps, warmup_steps + 1)
    ),
    "constant": lambda: optax.join_schedules(
      [optax.linear_schedule(0.0, learning_rate, warmup_steps), optax.constant_schedule(learning_rate)], [warmup_steps]
    ),
  }
  return choose("train.schedule", name, schedules)()


def _kernels(params: optax.Params) -> optax.Params:
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


# By name. The keyword arguments of each are fields of a configuration's section `train`.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "sgd": lambda *, momentum: optax.sgd(1.0, momentum=momentum, nesterov=True),
  "adam": lambda *, epsilon: optax.adam(1.0, eps=epsilon),
  "adamw": lambda *, epsilon, weight_decay: optax.adamw(1.0, eps=epsilon, weight_decay=weight_decay, mask=_kernels),
}


def make_optimizer(*, name: str, **fields: float) -> optax.GradientTransformation:
  """The optimiser of this name with a learning rate of 1; the training step scales its updates by the learning rate.

  Args:
    name: `sgd` (with Nesterov momentum), `adam` or `adamw`.
    fields: of all optimisers; those that only others take are ignored.
      `momentum`: of `sgd`. `epsilon`: of `adam` and `adamw`. `weight_decay`: of `adamw`, for kernels only: not for
      biases or batch norm's scales and shifts.

  Raises:
    UserError: there is no such optimiser.
  """
  optimizer = choose("train.optimizer", name, OPTIMIZERS)
  return optimizer(**taken(optimizer, fields))
