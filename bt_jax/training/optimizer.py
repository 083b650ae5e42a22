"""Optimisers and the learning-rate schedule, by name."""

import jax
import optax

from bt_jax.errors import choose


def make_schedule(*, learning_rate: float, warmup_steps: int, steps: int) -> optax.Schedule:
  """Rises linearly from 0 over `warmup_steps`, then falls to 0 along a cosine at `steps`."""
  return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, max(steps, warmup_steps + 1))


def make_optimizer(
  schedule: optax.Schedule, *, name: str, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
  """The optimiser of this name.

  Args:
    schedule: from step to learning rate.
    name: `sgd` (Nesterov), `adam` or `adamw`.
    momentum: of `sgd`.
    weight_decay: of `adamw`, on kernels only: not on biases, batch-norm scales and shifts.

  Raises:
    UserError: no such optimiser.
  """
  kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
  optimizers = {
    "sgd": lambda: optax.sgd(schedule, momentum=momentum, nesterov=True),
    "adam": lambda: optax.adam(schedule),
    "adamw": lambda: optax.adamw(schedule, weight_decay=weight_decay, mask=kernels),
  }
  return choose("train.optimizer", name, optimizers)()
