"""Which slices are in batch n, and how they get to the devices: from memory, or streamed from disk."""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags
from jaxtyping import Float, Int

from bt_jax.errors import UserError, choose, needs
from bt_jax.schema import Batch, Slices

if TYPE_CHECKING:
  import grain

Groups = Sequence[Int[np.ndarray, " _"]]

# Maps labels to the groups of slices from which training batches are filled in turn.
SAMPLINGS = {
  "all": lambda labels: [np.arange(len(labels))],
  "balanced": lambda labels: [np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)],
  "tumor": lambda labels: [np.flatnonzero(labels == 1)],
}


def sampling_groups(sampling: str, labels: Int[np.ndarray, " n"]) -> Groups:
  """The groups of a sampling scheme; raises UserError if there is no such scheme or a group is empty."""
  groups = choose("train.sampling", sampling, SAMPLINGS)(labels)
  if not all(len(group) for group in groups):
    raise UserError(f"train.sampling={sampling} needs slices with and without a tumour in the training set: take all")
  return groups


def epoch_size(groups: Groups) -> int:
  """Number of slices in an epoch: from each group as many as the smallest has, so that its slices are seen once."""
  return len(groups) * min(map(len, groups))


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, group: int, size: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch, group]).permutation(size)


def train_indices(*, seed: int, step: int, batch_size: int, groups: Groups) -> Int[np.ndarray, " batch_size"]:
  """The slices of training batch `step`, from 0: int32 [batch_size], a pure function of the arguments.

  Batches are consecutive pieces of one endless sequence that takes from each group in turn; each group is an endless
  sequence of shuffled epochs. So every batch is full, every slice of a group is seen once before any is seen again, and
  a resumed run sees the same batches as an uninterrupted one.
  """
  indices = np.empty(batch_size, np.int32)
  for offset in range(batch_size):
    position, group = divmod(step * batch_size + offset, len(groups))
    epoch, within = divmod(position, len(groups[group]))
    indices[offset] = groups[group][_permutation(seed, epoch, group, len(groups[group]))[within]]
  return indices


def eval_batches(size: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Every slice once, in order: (indices int32 [batch_size], valid bool [batch_size]); the last batch is padded."""
  for start in range(0, size, batch_size):
    indices = np.arange(start, start + batch_size, dtype=np.int32)
    yield np.where(indices < size, indices, 0), indices < size


def slice_weights(class_weights: str, labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
  """The weight of each slice in the objective: 1 or, for `balanced`, n / (2 x number of slices in its class).

  Raises:
    UserError: there is no such weighting.
  """
  if not choose("train.class_weights", class_weights, {"none": False, "balanced": True}):
    return np.ones(len(labels), np.float32)
  counts = np.bincount(labels, minlength=2)
  return (len(labels) / (2 * np.maximum(counts, 1)))[labels].astype(np.float32)


def arrays(slices: Slices, weights: Float[np.ndarray, " n"] | None = None) -> Batch:
  """The arrays of slices that a step takes; weights default to 1."""
  names = ["mask", "label", "volume_mean", "volume_std"]
  if slices.volume_percentiles is not None:
    names.append("volume_percentiles")
  weights = np.ones(len(slices), np.float32) if weights is None else weights
  near = slices.context
  image = slices.image if near is None else np.concatenate([slices.image, near], axis=-1)
  return {"image": image} | {name: getattr(slices, name) for name in names} | {"weight": weights}


# The feeds by name, with the fields of a configuration that each takes.
FEEDS = {
  "auto": {"data.workers", "train.steps_per_dispatch"},
  "resident": {"train.steps_per_dispatch"},
  "stream": {"data.workers"},
}
_RESIDENT_SHARE = 0.25  # of the memory; the rest is left for the network


def choose_feed(feed: str, slices: int, slice_bytes: int, memory: int) -> tuple[str, str]:
  """The feed, and the reason as text: `auto` is `resident` if the slices take at most a quarter of `memory` bytes.

  Raises:
    UserError: there is no such feed.
  """
  choose("feed", feed, FEEDS)
  size = slices * slice_bytes
  sizes = f"{slices} slices take {size / 1e9:.2f} GB of {memory / 1e9:.0f} GB"
  if feed == "auto":
    feed = "resident" if size <= _RESIDENT_SHARE * memory else "stream"
    return feed, f"chosen because {sizes}"
  return feed, f"as configured; {sizes}"


@dataclasses.dataclass(frozen=True)
class Batches:
  """Training batches read from disk, each by its index; cheap to send to a worker process.

  Attributes:
    read: maps ids to slices.
    ids: ids of the training slices.
    weights: see `slice_weights`.
    order: `train_indices` with all arguments bound except `step`.
    rows: the rows of a batch that this host reads.
  """

  read: Callable[[Sequence[str]], Slices]
  ids: Sequence[str]
  weights: Float[np.ndarray, " n"]
  order: Callable[..., Int[np.ndarray, " batch_size"]]
  rows: Int[np.ndarray, " _"]

  def __call__(self, step: int) -> Batch:
    indices = self.order(step=step)[self.rows]
    return arrays(self.read([self.ids[index] for index in indices]), self.weights[indices])


def stream(batches: Batches, *, start: int, stop: int, workers: int, ahead: int = 2) -> "grain.DatasetIterator":
  """The batches from step `start` up to `stop`, read ahead by Grain.

  A batch is a function of its index, so a run that restarts at any step sees the same batches as an uninterrupted one.

  Args:
    batches: reads one batch.
    start: the first step.
    stop: the step after the last.
    workers: number of reading processes; 0 reads in threads of this process.
    ahead: number of batches that each worker prefetches.

  Returns:
    An iterator, to be closed, over `arrays` of each batch.
  """
  with needs("train", "feed=stream"):  # resident slices do without
    import grain

  if not flags.FLAGS.is_parsed():  # Grain reads flags of its own, which are parsed only by launch.py
    flags.FLAGS.mark_as_parsed()
  steps = grain.MapDataset.range(start, stop).map(batches)
  if not workers:
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * ahead)))
  iterable = steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
  options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
  return iter(iterable.mp_prefetch(options, worker_init_fn=_in_worker))


def _in_worker(worker: int, workers: int) -> None:
  for number in (signal.SIGINT, signal.SIGTERM):  # handled by the training process, which ends its workers
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  os.environ["JAX_PLATFORMS"] = "cpu"


def _end_with_parent() -> None:
  """Ends this worker when its parent ends: a killed parent cannot end its workers."""
  multiprocessing.parent_process().join()
  os._exit(1)
