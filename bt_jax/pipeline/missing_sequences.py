"""Replaces missing channels, and channels that training drops at random, by the reference channel."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from bt_jax.datasets.channels import Channel, own_channels
from bt_jax.datasets.info import DatasetInfo
from bt_jax.distributed import global_batch
from bt_jax.schema import Batch


def replace(
  batch: Batch, missing: Bool[Array | np.ndarray, "batch channels"], context: Sequence[Channel], info: DatasetInfo
) -> Batch:
  """Replaces the missing channels of each slice, their neighbours and their statistics by those of the reference.

  Args:
    batch: batch with `image` (the slice's own channels and those of `context`) and the statistics of its volume.
    missing: which channels each slice lacks, in the order of the data set's channels.
    context: see `context_of`.
    info: description of the data set.
  """
  kept, reference = (*own_channels(info), *context), info.reference_index
  source = np.array([kept.index(Channel(reference, channel.offset)) for channel in kept])
  lost = missing[:, np.array([channel.sequence for channel in kept])][:, None, None]
  changed = {"image": jnp.where(lost, batch["image"][..., source], batch["image"])}
  for name in {"volume_mean", "volume_std", "volume_percentiles"} & batch.keys():
    statistics = batch[name]
    of_channel = missing.reshape(*missing.shape, *[1] * (statistics.ndim - 2))
    changed[name] = jnp.where(of_channel, statistics[:, reference : reference + 1], statistics)
  return {**batch, **changed}


def reference_alone(batch: Batch, context: Sequence[Channel], info: DatasetInfo) -> Batch:
  """The batch, as NumPy arrays, as if every slice had only the reference channel."""
  missing = np.ones((len(batch["image"]), len(info.channels)), bool)
  return {name: np.asarray(array) for name, array in replace(batch, missing, context, info).items()}


def make_drop(
  probability: float, context: Sequence[Channel], info: DatasetInfo
) -> Callable[[Key[Array, ""], Batch], Batch]:
  """Makes `drop(key, batch)`: with this probability a slice loses some or all channels other than the reference.

  All subsets are equally likely: for LGG, pre, post, or both. The data set must have a channel besides the reference.
  """
  others = [name for name in info.channels if name != info.reference]
  choices = [lost for count in range(1, len(others) + 1) for lost in itertools.combinations(others, count)]
  losses = [[name in lost for name in info.channels] for lost in choices]

  def of_slice(key: Key[Array, ""]) -> Bool[Array, " channels"]:
    whether, which = jax.random.split(key)
    chosen = jnp.array(losses)[jax.random.randint(which, (), 0, len(losses))]
    return chosen & jax.random.bernoulli(whether, probability)

  def drop(key: Key[Array, ""], batch: Batch) -> Batch:
    if not probability:
      return batch
    return replace(batch, jax.vmap(of_slice)(global_batch.keys(key, len(batch["image"]))), context, info)

  return drop
