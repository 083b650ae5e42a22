"""The training step and the prediction step: pure functions made of parts."""

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bt_jax.losses import Loss
from bt_jax.pipeline.preprocess import Augment
from bt_jax.training.finetune import keep_statistics
from bt_jax.training.state import PyTree, TrainState
from bt_jax.training.task import Task

Data = dict[str, jax.Array]  # a whole split on the device, see pipeline/feed.py


def _gather(data: Data, indices: Int[Array, "batch"]) -> Data:
  return {name: array[indices] for name, array in data.items()}


def make_train_step(
  *,
  model: nn.Module,
  task: Task,
  preprocess: Callable,
  augment: Augment,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  ema_decay: float,
  mixup: float,
  kept_statistics: Collection[str],
  seed: int,
) -> Callable[[TrainState, Data, Int[Array, "batch"]], tuple[TrainState, Float[Array, ""]]]:
  """Makes `train_step(state, data, indices) -> (state, loss)`, one step on the slices `indices` of `data`.

  Randomness is a function of `seed` and `state.step` alone. A step whose loss or outcome is not finite is counted, and
  otherwise changes nothing but `state.nonfinite_step`, so the parameters before it survive.

  Args:
    model: called with `train=True`.
    task: what its outputs are compared with.
    preprocess: see `make_preprocess`.
    augment: see `make_augment`.
    loss: per example; the objective is its mean over the batch, each times the slice's weight.
    optimizer: as made by `make_optimizer`.
    ema_decay: of the moving average; read only where the state has one. The average follows faster at first:
      min(ema_decay, (1 + step) / (10 + step)).
    mixup: alpha of Zhang et al. 2018 (arXiv:1710.09412), images and targets mixed with those of the batch reversed by a
      share from Beta(alpha, alpha); 0 mixes nothing.
    kept_statistics: the stages whose batch norm goes by its running statistics and keeps them.
    seed: of augmentation, dropout and mixup.
  """

  def train_step(state: TrainState, data: Data, indices: Int[Array, "batch"]) -> tuple[TrainState, Float[Array, ""]]:
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    augment_key, dropout_key = jax.random.split(step_key)
    batch = _gather(data, indices)
    weight = batch["weight"]
    images, masks = preprocess(batch, augment, augment_key)
    targets = task.target(batch["label"], masks)
    if mixup:
      share = jax.random.beta(jax.random.fold_in(step_key, 2), mixup, mixup)
      images, targets, weight = (share * array + (1 - share) * array[::-1] for array in (images, targets, weight))

    def objective(params: PyTree) -> tuple[Float[Array, ""], tuple[jax.Array, PyTree]]:
      with nn.intercept_methods(keep_statistics(kept_statistics)):
        outputs, updates = model.apply(
          state.variables | {"params": params},
          images,
          train=True,
          mutable=["batch_stats"],
          rngs={"dropout": dropout_key},
        )
      return (loss(outputs, targets) * weight).mean(), (outputs, updates)

    (value, (outputs, updates)), gradient = jax.value_and_grad(objective, has_aux=True)(state.variables["params"])
    change, opt_state = optimizer.update(gradient, state.opt_state, state.variables["params"])
    variables = {**state.variables, "params": optax.apply_updates(state.variables["params"], change), **updates}
    average = state.average
    if average is not None:
      decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
      average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, variables)
    stepped = state.replace(
      variables=variables,
      average=average,
      opt_state=opt_state,
      loss_sum=state.loss_sum + value,
      accuracy_sum=state.accuracy_sum + task.accuracy(outputs, targets),
    )
    finite = jnp.isfinite(value)
    for leaf in jax.tree.leaves(variables):  # a gradient that is not finite, or a step too far, ends here
      finite &= jnp.isfinite(leaf).all()
    failed = state.replace(nonfinite_step=jnp.where(state.nonfinite_step < 0, state.step, state.nonfinite_step))
    state = jax.tree.map(lambda good, bad: jnp.where(finite, good, bad), stepped, failed)
    return state.replace(step=state.step + 1), value

  return train_step


def make_predict_step(*, model: nn.Module, task: Task, preprocess: Callable) -> Callable:
  """Makes `predict_step(variables, data, indices) -> logits`, float32.

  By the task they are [batch, height, width] on the data's own grid, or [batch]. A segmenter's logits are resized, so that results at different input sizes are scored against the same truth.
  """

  def predict_step(variables: PyTree, data: Data, indices: Int[Array, "batch"]) -> Float[Array, "batch *grid"]:
    batch = _gather(data, indices)
    images, _ = preprocess(batch)
    return task.tumor_logits(model.apply(variables, images, train=False), batch["image"].shape[1])

  return predict_step
