"""Which slices make batch number n, and the slices of a split as arrays on the device."""

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Int

from bt_jax.errors import UserError, choose
from bt_jax.schema import Slices

Groups = Sequence[Int[np.ndarray, "_"]]

# From labels to the groups of slices that training batches are filled from, in turn.
SAMPLINGS = {
  "all": lambda labels: [np.arange(len(labels))],
  "balanced": lambda labels: [np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)],
  "tumor": lambda labels: [np.flatnonzero(labels == 1)],
}


def sampling_groups(sampling: str, labels: Int[np.ndarray, "n"]) -> Groups:
  """The groups of a sampling; raises UserError where there is no such sampling or a group is empty."""
  groups = choose("train.sampling", sampling, SAMPLINGS)(labels)
  if not all(len(group) for group in groups):
    raise UserError(f"train.sampling={sampling} needs slices with and without a tumour in the training part: take all")
  return groups


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, group: int, size: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch, group]).permutation(size)


def train_indices(*, seed: int, step: int, batch_size: int, groups: Groups) -> Int[np.ndarray, "batch_size"]:
  """The slices of training batch `step`, from 0: int32 [batch_size], a pure function of its arguments.

  Batches are cut from one endless sequence that takes from each group in turn; each group is an endless sequence of
  shuffled epochs. So every batch is full, every slice of a group is seen once before any is seen again, and a resumed
  run sees what an unbroken one would.
  """
  indices = np.empty(batch_size, np.int32)
  for at in range(batch_size):
    place, group = divmod(step * batch_size + at, len(groups))
    epoch, within = divmod(place, len(groups[group]))
    indices[at] = groups[group][_permutation(seed, epoch, group, len(groups[group]))[within]]
  return indices


def eval_batches(size: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Every slice once, in order: (indices int32 [batch_size], valid bool [batch_size]); the last batch is padded."""
  for start in range(0, size, batch_size):
    indices = np.arange(start, start + batch_size, dtype=np.int32)
    yield np.where(indices < size, indices, 0), indices < size


def resident(slices: Slices, sharding: jax.sharding.Sharding, *, class_weights: str = "none") -> dict[str, jax.Array]:
  """The slices as device arrays, still uint8: 0.26 MB each, 1 GB for the whole data set.

  Args:
    slices: of one part.
    sharding: where they go.
    class_weights: `none`, or `balanced`: each slice weighs n / (2 x the slices of its class) in the objective.

  Raises:
    UserError: no such weights.
  """
  balanced = choose("train.class_weights", class_weights, {"none": False, "balanced": True})
  weight = np.ones(len(slices), np.float32)
  if balanced:
    counts = np.bincount(slices.label, minlength=2)
    weight = (len(slices) / (2 * np.maximum(counts, 1)))[slices.label].astype(np.float32)
  arrays = {name: getattr(slices, name) for name in ("image", "mask", "label", "volume_mean", "volume_std")}
  return {name: jax.device_put(array, sharding) for name, array in (arrays | {"weight": weight}).items()}
