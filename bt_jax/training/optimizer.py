"""Optimisers and learning-rate schedules, by name."""

import jax
import optax

from bt_jax.errors import choose


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


def make_optimizer(*, name: str, momentum: float, epsilon: float, weight_decay: float) -> optax.GradientTransformation:
  """The optimiser of this name with a learning rate of 1; the training step scales its updates by the learning rate.

  Args:
    name: `sgd` (with Nesterov momentum), `adam` or `adamw`.
    momentum: momentum of `sgd`.
    epsilon: epsilon of `adam` and `adamw`.
    weight_decay: weight decay of `adamw`, for kernels only: not for biases or batch norm's scales and shifts.

  Raises:
    UserError: there is no such optimiser.
  """
  kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
  optimizers = {
    "sgd": lambda: optax.sgd(1.0, momentum=momentum, nesterov=True),
    "adam": lambda: optax.adam(1.0, eps=epsilon),
    "adamw": lambda: optax.adamw(1.0, eps=epsilon, weight_decay=weight_decay, mask=kernels),
  }
  return choose("train.optimizer", name, optimizers)()
