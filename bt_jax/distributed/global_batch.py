"""The whole batch, also where each device sees a part of it.

Inside `pmap` the axis `batch` has a name and every device runs the program on its own part; elsewhere, also under `jit`
over several devices, the program sees all examples. The same code is right in both if whatever goes over the batch goes
through here.
"""

import jax
from jax import lax
from jaxtyping import Array, Key, Shaped

AXIS = "batch"


def parts() -> int:
  """How many parts the batch is cut into where each is seen alone; 1 where the program sees all of it."""
  try:
    return lax.axis_size(AXIS)
  except NameError:  # no such axis here
    return 1


def total(x: Array) -> Array:
  """The sum of `x` over the parts."""
  return lax.psum(x, AXIS) if parts() > 1 else x


def mean(x: Array) -> Array:
  """The mean of `x` over the parts, which are equally large."""
  return lax.pmean(x, AXIS) if parts() > 1 else x


def keys(key: Key[Array, ""], count: int) -> Key[Array, "{count}"]:
  """A key for each of the `count` examples of this part, the same however the batch is cut."""
  every = jax.random.split(key, count * parts())
  return every if parts() == 1 else lax.dynamic_slice_in_dim(every, lax.axis_index(AXIS) * count, count)


def reverse(x: Shaped[Array, "batch *_"]) -> Shaped[Array, "batch *_"]:
  """The examples of the batch in reverse order."""
  if (count := parts()) > 1:
    x = lax.ppermute(x, AXIS, [(part, count - 1 - part) for part in range(count)])
  return x[::-1]
