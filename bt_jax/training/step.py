"""The training step and the prediction step: pure functions made of components."""

from collections.abc import Callable, Collection
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from bt_jax.distributed import global_batch
from bt_jax.losses import Loss
from bt_jax.pipeline.preprocess import Augment, Batch
from bt_jax.schema import Tumor
from bt_jax.tasks.task import Task
from bt_jax.training.finetune import keep_statistics
from bt_jax.training.train_state import PyTree, TrainState

TrainStep = Callable[[TrainState, Batch, Float[Array, ""]], tuple[TrainState, Float[Array, ""]]]


@runtime_checkable
class StepComponents(Protocol):
  """What a training step is made of; `runs.components.Components` has it all.

  Attributes:
    model: called with `train=True`.
    task: what its outputs are compared with.
    preprocess: see `make_preprocess`.
    augment: see `make_augment`.
    loss: per example; the objective is its mean over the batch, each times the slice's weight.
    optimizer: as made by `make_optimizer`, for a learning rate of 1.
    kept_statistics: the stages whose batch norm goes by its running statistics and keeps them.
  """

  model: nn.Module
  task: Task
  preprocess: Callable
  augment: Augment
  loss: Loss
  optimizer: optax.GradientTransformation
  kept_statistics: Collection[str]


@runtime_checkable
class StepOptions(Protocol):
  """How a step trains; the section `train` of a configuration has it all.

  Attributes:
    ema_decay: of the moving average; read only where the state has one. The average follows faster at first:
      min(ema_decay, (1 + step) / (10 + step)).
    mixup: alpha of Zhang et al. 2018 (arXiv:1710.09412), images mixed with those of the batch reversed by a share from
      Beta(alpha, alpha), and in the same shares the losses of both targets, each times its own slice's weight; 0 mixes
      nothing.
    accumulate: microbatches, one after another in less memory; gradients are their mean. Batch norm and a pooled loss see
      one of them at a time.
    remat: see `keep_products`; the rest is computed again. Of use on GPUs and TPUs: XLA undoes it on a CPU.
    seed: of augmentation, dropout and mixup.
  """

  ema_decay: float
  mixup: float
  accumulate: int
  remat: bool
  seed: int


def make_train_step(components: StepComponents, options: StepOptions) -> TrainStep:
  """Makes `train_step(state, batch, learning_rate) -> (state, loss)`.

  Randomness is a function of `seed` and `state.step` alone. A step whose loss or outcome is not finite is counted, and
  otherwise changes nothing but `state.nonfinite_step`, so the parameters before it survive. The learning rate comes from
  outside, so that runs whose epochs differ in length share one compiled step.
  """
  model, task, optimizer, mixup = components.model, components.task, components.optimizer, options.mixup

  def forward(params: PyTree, statistics: PyTree, images: jax.Array, key: jax.Array) -> tuple[PyTree, PyTree]:
    with nn.intercept_methods(keep_statistics(components.kept_statistics)):
      return model.apply(
        {"params": params, "batch_stats": statistics},
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": key},
      )

  if options.remat:
    forward = keep_products(forward)

  def gradient_of(params: PyTree, statistics: PyTree, batch: Batch, key: jax.Array) -> tuple[PyTree, PyTree, jax.Array]:
    """The gradient, the new statistics, and loss and accuracy, of one microbatch."""
    augment_key, dropout_key, mixup_key = jax.random.split(key, 3)
    images, masks = components.preprocess(batch, components.augment, augment_key)
    targets, weight = task.target(batch["label"], masks), batch["weight"]
    labels = [(1.0, targets, weight)]  # of each image: their shares, and what they weigh
    if mixup:
      share = jax.random.beta(mixup_key, mixup, mixup)
      images = share * images + (1 - share) * global_batch.reverse(images)
      labels = [(share, targets, weight), (1 - share, global_batch.reverse(targets), global_batch.reverse(weight))]

    def objective(params: PyTree) -> tuple[Float[Array, ""], tuple[PyTree, PyTree]]:
      outputs, updates = forward(params, statistics, images, dropout_key)
      # Each label weighs what its own class does: a mean weight would be that of neither.
      losses = sum(share * weight * components.loss(outputs, target) for share, target, weight in labels)
      return losses.mean(), (outputs, updates)

    (value, (outputs, updates)), gradient = jax.value_and_grad(objective, has_aux=True)(params)
    loss_and_accuracy = jnp.stack([value, task.accuracy(outputs, sum(share * target for share, target, _ in labels))])
    return gradient, updates.get("batch_stats", {}), loss_and_accuracy

  def train_step(
    state: TrainState, batch: Batch, learning_rate: Float[Array, ""]
  ) -> tuple[TrainState, Float[Array, ""]]:
    key = jax.random.fold_in(jax.random.key(options.seed), state.step)
    params, statistics = state.variables["params"], state.variables["batch_stats"]
    if options.accumulate == 1:
      gradient, statistics, loss_and_accuracy = gradient_of(params, statistics, batch, key)
    else:

      def add(carry: tuple, microbatch: tuple) -> tuple[tuple, None]:
        gradient, statistics, loss_and_accuracy = carry
        more, statistics, more_loss_and_accuracy = gradient_of(params, statistics, *microbatch)
        return (jax.tree.map(jnp.add, gradient, more), statistics, loss_and_accuracy + more_loss_and_accuracy), None

      first = jax.tree.map(jnp.zeros_like, params), statistics, jnp.zeros(2)
      count = options.accumulate
      # Every microbatch takes examples from everywhere in the batch, so that it is on all devices.
      microbatches = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)
      # On a CPU a convolution inside a loop runs on one thread.
      unroll = jax.default_backend() == "cpu"
      sums, _ = lax.scan(add, first, (microbatches, jax.random.split(key, count)), unroll=unroll)
      gradient, statistics, loss_and_accuracy = sums[0], sums[1], sums[2] / count
      gradient = jax.tree.map(lambda x: x / count, gradient)
    gradient, (value, accuracy) = jax.tree.map(global_batch.mean, (gradient, loss_and_accuracy))

    change, opt_state = optimizer.update(gradient, state.opt_state, params)
    change = jax.tree.map(lambda x: learning_rate * x, change)
    variables = {**state.variables, "params": optax.apply_updates(params, change), "batch_stats": statistics}
    average = state.average
    if average is not None:
      decay = jnp.minimum(options.ema_decay, (1 + state.step) / (10 + state.step))
      average = optax.incremental_update(variables, average, 1 - decay)
    stepped = state.replace(
      variables=variables,
      average=average,
      opt_state=opt_state,
      loss_sum=state.loss_sum + value,
      accuracy_sum=state.accuracy_sum + accuracy,
    )
    finite = jnp.isfinite(value)
    for leaf in jax.tree.leaves(variables):  # a gradient that is not finite, or a step too far, ends here
      finite &= jnp.isfinite(leaf).all()
    failed = state.replace(nonfinite_step=jnp.where(state.nonfinite_step < 0, state.step, state.nonfinite_step))
    # A `where` for every leaf would have the compiler repeat the whole test in each.
    state = lax.cond(finite, lambda: stepped, lambda: failed)
    return state.replace(step=state.step + 1), value

  return train_step


def keep_products(forward: Callable) -> Callable:
  """The function, keeping for the backward pass only what convolutions and matrix products put out."""
  return jax.checkpoint(
    forward, policy=lambda primitive, *_, **__: primitive.name in ("conv_general_dilated", "dot_general")
  )


def make_resident_step(train_step: TrainStep) -> Callable:
  """Makes `steps(state, indices, data, learning_rates, count) -> (state, last loss)` out of the step: several at once.

  `data` is a whole part on the device, `indices` [batch, n] and `learning_rates` [n] are those of n steps, of which the
  first `count` are taken; the number is no part of the program, so that one is compiled for all.
  """

  def steps(
    state: TrainState, indices: jax.Array, data: Batch, learning_rates: jax.Array, count: jax.Array
  ) -> tuple[TrainState, jax.Array]:
    def one(at: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
      batch = {name: array[indices[:, at]] for name, array in data.items()}
      return train_step(carry[0], batch, learning_rates[at])

    return lax.fori_loop(0, count, one, (state, jnp.float32(0)))

  return steps


def make_predict_step(*, model: nn.Module, task: Task, preprocess: Callable) -> Callable:
  """Makes `predict_step(variables, batch) -> logits`, float32, as `Tumor`.

  A segmenter's are resized to the data's own grid, so that results at different input sizes are scored against the same
  truth.
  """

  def predict_step(variables: PyTree, batch: Batch) -> Tumor:
    images, _ = preprocess(batch)
    return task.tumor(model.apply(variables, images, train=False), batch["image"].shape[1])

  return predict_step
