"""Operations over the global batch, also where each device sees only a shard of it.

Inside `pmap` the axis `batch` is named, and every device runs the program on its own shard. Elsewhere, including `jit`
over several devices, the program sees all examples. The same code is correct in both cases if every operation over the
batch uses this module.
"""

import jax
from jax import lax
from jaxtyping import Array, Key, Shaped

AXIS = "batch"


def parts() -> int:
  """Number of shards of the batch inside `pmap`; 1 where the program sees the whole batch."""
  try:
    return lax.axis_size(AXIS)
  except NameError:  # no such axis here
    return 1


def total(x: Array) -> Array:
  """The sum of `x` over the shards."""
  return lax.psum(x, AXIS) if parts() > 1 else x


def mean(x: Array) -> Array:
  """The mean of `x` over the shards, which are equally large."""
  return lax.pmean(x, AXIS) if parts() > 1 else x


def keys(key: Key[Array, ""], count: int) -> Key[Array, "{count}"]:
  """A key for each of the `count` examples of this shard, the same however the batch is sharded."""
  every = jax.random.split(key, count * parts())
  return every if parts() == 1 else lax.dynamic_slice_in_dim(every, lax.axis_index(AXIS) * count, count)


def reverse(x: Shaped[Array, "batch *_"]) -> Shaped[Array, "batch *_"]:
  """The examples of the batch in reverse order."""
  if (count := parts()) > 1:
    x = lax.ppermute(x, AXIS, [(part, count - 1 - part) for part in range(count)])
  return x[::-1]
