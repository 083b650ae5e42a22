"""The training step and the prediction step: pure functions made of components."""

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from bt_jax.distributed import global_batch
from bt_jax.losses import Loss
from bt_jax.pipeline.preprocess import Augment
from bt_jax.schema import Batch, Tumor
from bt_jax.tasks.task import Task
from bt_jax.training.finetune import keep_statistics
from bt_jax.training.train_state import PyTree, TrainState


class ResidentBatches(NamedTuple):
  """The batches of several steps, as indices into a training set that is on the device.

  Attributes:
    slices: the whole training set.
    indices: indices of the slices of each batch.
    count: how many of these batches are used. It is an array, so that one program is compiled for any number of steps.
  """

  slices: Batch
  indices: Int[Array, "batch steps"]
  count: Int[Array, ""]


TrainStep = Callable[[TrainState, Batch, Float[Array, ""]], tuple[TrainState, Float[Array, ""]]]
ResidentStep = Callable[[TrainState, ResidentBatches, Float[Array, " steps"]], tuple[TrainState, Float[Array, ""]]]


@runtime_checkable
class StepComponents(Protocol):
  """The components of a training step; `runs.components.Components` has them all.

  Attributes:
    model: the network, called with `train=True`.
    task: the task, which makes the targets.
    preprocess: see `make_preprocess`.
    augment: see `make_augment`.
    loss: loss per example; the objective is its mean over the batch, weighted by slice.
    optimizer: as made by `make_optimizer`, for a learning rate of 1.
    kept_statistics: the stages whose batch norm uses its running statistics and leaves them unchanged.
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
  """Options of a training step; the section `train` of a configuration has them all.

  Attributes:
    ema_decay: decay of the moving average, used only if the state has one. The average follows faster at first: the
      decay is min(ema_decay, (1 + step) / (10 + step)).
    mixup: alpha of Zhang et al. 2018 (arXiv:1710.09412). Images are mixed with those of the reversed batch by a share
      from Beta(alpha, alpha). The losses of both targets are mixed by the same share, each weighted by its own slice; 0
      turns mixup off.
    accumulate: number of microbatches, processed one after another to save memory; gradients are averaged. Batch norm
      and a pooled loss see one microbatch at a time.
    remat: rematerialise all but what `keep_products` keeps. Useful on GPUs and TPUs; on a CPU, XLA undoes it.
    seed: seed of augmentation, dropout and mixup.
  """

  ema_decay: float
  mixup: float
  accumulate: int
  remat: bool
  seed: int


# From Python 3.12 on a check of protocols does not see the fields of a ConfigDict, which it has by __getattr__.
def make_train_step(components: StepComponents, options: StepOptions | ConfigDict) -> TrainStep:
  """Makes `train_step(state, batch, learning_rate) -> (state, loss)`.

  Randomness depends only on `seed` and `state.step`. If the loss or the updated parameters are not finite, a step
  changes only `state.step` and `state.nonfinite_step`, so the parameters before it survive. The learning rate is an
  argument, so that runs whose epochs differ in length share one compiled step.
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
    """The gradient, the new batch statistics, and the loss and accuracy of one microbatch."""
    augment_key, dropout_key, mixup_key = jax.random.split(key, 3)
    images, masks = components.preprocess(batch, components.augment, augment_key)
    targets, weight = task.target(batch["label"], masks), batch["weight"]
    labels = [(1.0, targets, weight)]  # (share, targets, weights) of each image's labels
    if mixup:
      share = jax.random.beta(mixup_key, mixup, mixup)
      images = share * images + (1 - share) * global_batch.reverse(images)
      labels = [(share, targets, weight), (1 - share, global_batch.reverse(targets), global_batch.reverse(weight))]

    def objective(params: PyTree) -> tuple[Float[Array, ""], tuple[PyTree, PyTree]]:
      outputs, updates = forward(params, statistics, images, dropout_key)
      # Each label has the weight of its own class: a mean weight would suit neither.
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
      # Every microbatch takes examples from across the batch, so that it is spread over all devices.
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
    for leaf in jax.tree.leaves(variables):  # catches a gradient that is not finite, and an update that overflows
      finite &= jnp.isfinite(leaf).all()
    failed = state.replace(nonfinite_step=jnp.where(state.nonfinite_step < 0, state.step, state.nonfinite_step))
    # With a `where` for every leaf, the compiler would repeat the whole test in each.
    state = lax.cond(finite, lambda: stepped, lambda: failed)
    return state.replace(step=state.step + 1), value

  return train_step


def keep_products(forward: Callable) -> Callable:
  """Rematerialises `forward`: only the outputs of convolutions and matrix products are kept for the backward pass."""
  return jax.checkpoint(
    forward, policy=lambda primitive, *_, **__: primitive.name in ("conv_general_dilated", "dot_general")
  )


def make_resident_step(train_step: TrainStep) -> ResidentStep:
  """Makes `resident_step(state, batches, learning_rates) -> (state, last loss)`, several steps per call."""

  def resident_step(
    state: TrainState, batches: ResidentBatches, learning_rates: Float[Array, " steps"]
  ) -> tuple[TrainState, Float[Array, ""]]:
    def one(number: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
      indices = batches.indices[:, number]
      batch = {name: array[indices] for name, array in batches.slices.items()}
      return train_step(carry[0], batch, learning_rates[number])

    return lax.fori_loop(0, batches.count, one, (state, jnp.float32(0)))

  return resident_step


def make_predict_step(*, model: nn.Module, task: Task, preprocess: Callable) -> Callable:
  """Makes `predict_step(variables, batch) -> logits`, float32, as `Tumor`.

  A segmenter's logits are resized to the data's own grid, so that results at different input sizes are scored against
  the same ground truth.
  """

  def predict_step(variables: PyTree, batch: Batch) -> Tumor:
    images, _ = preprocess(batch)
    return task.tumor(model.apply(variables, images, train=False), batch["image"].shape[1])

  return predict_step
