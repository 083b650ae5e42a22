"""FLAIR in the place of sequences that are missing, or that training leaves out at random."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from bt_jax.datasets.channels import FLAIR, OWN, Channel
from bt_jax.distributed import global_batch
from bt_jax.schema import CHANNELS

FLAIR_ONLY = "flair_only"  # what records call the network that sees FLAIR in all channels

Batch = dict[str, Array | np.ndarray]


def flair_for(batch: Batch, missing: Bool[Array | np.ndarray, "batch sequences"], context: Sequence[Channel]) -> Batch:
  """The batch with FLAIR, its neighbours' and its statistics in the place of the missing sequences of each slice.

  Args:
    batch: with `image`, the slice's own channels and those of `context`, `volume_mean` and `volume_std`.
    missing: of each slice, by place in `CHANNELS`.
    context: see `context_of`.
  """
  kept = (*OWN, *context)
  source = np.array([kept.index(Channel(FLAIR, channel.offset)) for channel in kept])
  lost = missing[:, np.array([channel.sequence for channel in kept])][:, None, None]
  changed = {"image": jnp.where(lost, batch["image"][..., source], batch["image"])}
  for name in ("volume_mean", "volume_std"):
    changed[name] = jnp.where(missing, batch[name][:, FLAIR : FLAIR + 1], batch[name])
  return {**batch, **changed}


def flair_alone(batch: Batch, context: Sequence[Channel]) -> Batch:
  """The batch, of NumPy arrays, as if no slice had another sequence than FLAIR."""
  missing = np.ones((len(batch["image"]), len(CHANNELS)), bool)
  return {name: np.asarray(array) for name, array in flair_for(batch, missing, context).items()}


def make_drop(probability: float, context: Sequence[Channel]) -> Callable[[Key[Array, ""], Batch], Batch]:
  """Makes `drop(key, batch)`: with this probability a slice loses pre, post, or both, one as likely as the other."""
  losses = [[name in lost for name in CHANNELS] for lost in (("pre",), ("post",), ("pre", "post"))]

  def of_slice(key: Key[Array, ""]) -> Bool[Array, "sequences"]:
    whether, which = jax.random.split(key)
    chosen = jnp.array(losses)[jax.random.randint(which, (), 0, len(losses))]
    return chosen & jax.random.bernoulli(whether, probability)

  def drop(key: Key[Array, ""], batch: Batch) -> Batch:
    if not probability:
      return batch
    return flair_for(batch, jax.vmap(of_slice)(global_batch.keys(key, len(batch["image"]))), context)

  return drop
