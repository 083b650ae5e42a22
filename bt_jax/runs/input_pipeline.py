"""The input pipeline of a run, and the compiled training step for its batches."""

import collections
import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from bt_jax.distributed import hosts, setup, sharding
from bt_jax.pipeline import feed
from bt_jax.runs.components import Components
from bt_jax.runs.run_data import Data
from bt_jax.schema import Batch
from bt_jax.training.loop import InputPipeline, StepInput
from bt_jax.training.step import ResidentBatches, make_resident_step, make_train_step


def make_input_pipeline(
  config: ConfigDict,
  components: Components,
  data: Data,
  *,
  groups: feed.Groups,
  rates: np.ndarray,
  start: int,
  stack: contextlib.ExitStack,
) -> InputPipeline:
  """Makes the input pipeline that `config.feed` asks for, with the compiled step for its batches.

  Args:
    config: configuration of the run.
    components: components made from the configuration.
    data: data of the run.
    groups: groups of training slices, see `sampling_groups`.
    rates: learning rates, float32 [steps].
    start: the step to begin with.
    stack: closes the pipeline on exit.
  """
  mesh, batch_size, ids = components.mesh, config.train.batch_size, data.split.train
  weights = feed.slice_weights(config.train.class_weights, data.labels("train"))
  order = functools.partial(feed.train_indices, seed=config.train.seed, batch_size=batch_size, groups=groups)
  kind, why = feed.choose_feed(config.feed, len(ids), components.info.slice_bytes, min(hosts.gather(_memory())))
  on_cpu = jax.default_backend() == "cpu"
  at_once = config.train.steps_per_dispatch or (1 if on_cpu else 10)
  if kind == "resident" and (at_once > 1 or not on_cpu or jax.process_count() > 1):
    print(f"feed: resident on the device ({why}), up to {at_once} steps at once")
    return _several_at_once(config, components, _on_each_device(mesh, data, weights), order, rates, at_once)

  print(f"feed: {kind} ({why})")
  if kind == "stream":
    rows = sharding.local_rows(mesh, batch_size)
    source = feed.Batches(data.reader.read, ids, weights, order, rows)
    workers = config.data.workers
    workers = min(8, max(1, setup.cores() - 1)) if workers is None else workers
    batches = feed.stream(source, start=start, stop=len(rates), workers=workers)
    stack.enter_context(contextlib.closing(batches))
    ready = _ahead(sharding.lay_out(mesh, batch, batch_size) for batch in batches)
  else:  # a CPU's memory is the host's
    examples = feed.arrays(data.read("train"), weights)
    chosen = (order(step=step) for step in itertools.count(start))
    ready = (
      sharding.lay_out(mesh, {name: array[index] for name, array in examples.items()}, batch_size) for index in chosen
    )
  compiled = sharding.compile_step(
    config.parallel, make_train_step(components, config.train), mesh, cut=(False, True, False), train=True
  )
  return InputPipeline(take=lambda done, most: StepInput(1, next(ready), rates[done]), step=compiled)


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
  """The same batches; each is transferred to the devices while the one before is processed."""
  waiting = collections.deque(itertools.islice(batches, 1))
  while waiting:
    waiting.extend(itertools.islice(batches, 1))
    yield waiting.popleft()


def _several_at_once(
  config: ConfigDict,
  components: Components,
  slices: Batch,
  order: Callable[..., np.ndarray],
  rates: np.ndarray,
  at_once: int,
) -> InputPipeline:
  """The pipeline for slices that are resident on the devices: only the indices of the next batches are transferred."""
  mesh, batch_size = components.mesh, config.train.batch_size
  rows = sharding.local_rows(mesh, batch_size)
  compiled = sharding.compile_step(
    config.parallel,
    make_resident_step(make_train_step(components, config.train)),
    mesh,
    cut=(False, ResidentBatches(slices=False, indices=True, count=False), False),
    train=True,
  )

  def take(done: int, most: int) -> StepInput:
    count = min(at_once, most)
    steps = done + np.minimum(np.arange(at_once), count - 1)  # padded with the last step, which is taken once
    indices = np.stack([order(step=int(step)) for step in steps], axis=1)[rows]
    laid_out = sharding.lay_out(mesh, {"indices": indices}, batch_size)["indices"]
    return StepInput(count, ResidentBatches(slices, laid_out, np.int32(count)), rates[steps])

  return InputPipeline(take=take, step=compiled)


def _on_each_device(mesh: jax.sharding.Mesh, data: Data, weights: np.ndarray) -> Batch:
  """The training set on every device; each host reads its share, and gets the rest from the other hosts.

  It is padded to the size of the whole data set, so that all splits share one compiled step.
  """
  size = -(-len(data.index) // mesh.size) * mesh.size
  ids, rows = data.split.train, sharding.local_rows(mesh, size)
  mine = rows[rows < len(ids)]
  read = feed.arrays(data.reader.read([ids[index] for index in mine], progress=True), weights[mine])
  padded = {
    name: np.concatenate([array, np.zeros((len(rows) - len(mine), *array.shape[1:]), array.dtype)])
    for name, array in read.items()
  }
  return sharding.whole_on_each(mesh, sharding.lay_out(mesh, padded, size))


def _memory() -> int:
  """Bytes of memory for resident slices: that of a device or, on a CPU, that of this machine."""
  stats = jax.local_devices()[0].memory_stats()
  return stats["bytes_limit"] if stats else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
