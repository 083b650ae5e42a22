"""Which slices make batch number n, and the slices of a split as arrays on the device."""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from bt_jax.schema import Slices


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(size)


def train_indices(*, seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
  """The slices of training batch `step`, from 0: int32 [batch_size], a pure function of its arguments.

  Batches are cut from one endless sequence of shuffled epochs, so every batch is full, every slice is seen once before
  any is seen again, and a resumed run sees what an unbroken one would.
  """
  places = np.arange(step * batch_size, (step + 1) * batch_size)
  return np.array([_permutation(seed, place // size, size)[place % size] for place in places.tolist()], np.int32)


def eval_batches(size: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Every slice once, in order: (indices int32 [batch_size], valid bool [batch_size]); the last batch is padded."""
  for start in range(0, size, batch_size):
    indices = np.arange(start, start + batch_size, dtype=np.int32)
    yield np.where(indices < size, indices, 0), indices < size


def resident(slices: Slices, sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
  """The slices as device arrays, still uint8: 0.26 MB each, 1 GB for the whole data set."""
  names = ("image", "mask", "volume_mean", "volume_std")
  return {name: jax.device_put(getattr(slices, name), sharding) for name in names}
