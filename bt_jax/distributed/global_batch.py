"""Operations over the global batch, also where each device sees only a shard of it.

Inside `pmap` the axis `batch` is named, and every device runs the program on its own shard. Elsewhere, including `jit`
over several devices, the program sees all examples. The same code is correct in both cases if every operation over the
batch uses this module.
"""

import contextlib
import contextvars
from collections.abc import Iterator

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
  """The sum of `x` over the shards and, within `Totals`, over the chunks of a batch."""
  x = lax.psum(x, AXIS) if parts() > 1 else x
  totals = _totals.get()
  return x if totals is None else totals._next(x)


def mean(x: Array) -> Array:
  """The mean of `x` over the shards, which are equally large."""
  return lax.pmean(x, AXIS) if parts() > 1 else x


class Totals:
  """The totals of a batch that a function, which is not compiled, sees in chunks.

  It is called with each chunk twice: within `add`, and then within `use`, where `total` returns the sum over all chunks.
  A function without totals needs only the first.

  >>> totals, chunks = Totals(), [jax.numpy.array([1, 2]), jax.numpy.array([4])]
  >>> for context in (totals.add, totals.use):
  ...   for chunk in chunks:
  ...     with context():
  ...       print(total(chunk.sum()))
  3
  4
  7
  7
  """

  def __init__(self):
    self._sums: list[Array] = []
    self._calls, self._adding, self._chunks = 0, True, 0

  @property
  def matter(self) -> bool:
    """Whether a function that was called with each chunk would have had other totals for the whole batch."""
    return self._chunks > 1 and bool(self._sums)

  def add(self) -> contextlib.AbstractContextManager[None]:
    """Context that adds up the totals of a chunk."""
    self._chunks += 1
    return self._within(adding=True)

  def use(self) -> contextlib.AbstractContextManager[None]:
    """Context in which a chunk has the totals of all chunks."""
    return self._within(adding=False)

  @contextlib.contextmanager
  def _within(self, *, adding: bool) -> Iterator[None]:
    self._calls, self._adding = 0, adding
    token = _totals.set(self)
    try:
      yield
    finally:
      _totals.reset(token)

  def _next(self, x: Array) -> Array:
    call, self._calls = self._calls, self._calls + 1
    if not self._adding:
      return self._sums[call]
    if call < len(self._sums):
      self._sums[call] += x
    else:
      self._sums.append(x)
    return x


_totals: contextvars.ContextVar[Totals | None] = contextvars.ContextVar("totals", default=None)


def keys(key: Key[Array, ""], count: int) -> Key[Array, " {count}"]:
  """A key for each of the `count` examples of this shard, the same however the batch is sharded."""
  every = jax.random.split(key, count * parts())
  return every if parts() == 1 else lax.dynamic_slice_in_dim(every, lax.axis_index(AXIS) * count, count)


def reverse(x: Shaped[Array, " batch *_"]) -> Shaped[Array, " batch *_"]:
  """The examples of the batch in reverse order."""
  if (count := parts()) > 1:
    x = lax.ppermute(x, AXIS, [(part, count - 1 - part) for part in range(count)])
  return x[::-1]
