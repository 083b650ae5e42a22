"""The state that training changes, as one pytree."""

import hashlib
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

PyTree = Any
Leaf = Any  # an array, or whatever a function over the tree puts in its place


@flax.struct.dataclass
class TrainState:
  """Everything a step reads and writes; restoring it restores the run.

  Attributes:
    step: steps taken, int32.
    variables: `params` and `batch_stats` of the network, float32.
    average: their exponential moving average, or None.
    opt_state: state of the optimiser.
    loss_sum: float32, sum of the mean losses of the steps since the last validation.
    accuracy_sum: float32, sum of the accuracies of the same steps.
    nonfinite_step: int32, the first step, from 0, whose loss or updated parameters were not finite; -1 if there is
      none.
  """

  step: Leaf
  variables: PyTree
  average: PyTree
  opt_state: PyTree
  loss_sum: Leaf
  accuracy_sum: Leaf
  nonfinite_step: Leaf

  @property
  def eval_variables(self) -> PyTree:
    """What validation, test and prediction use: the average if there is one."""
    return self.variables if self.average is None else self.average


def init_state(
  model: nn.Module, optimizer: optax.GradientTransformation, *, size: int, channels: int, seed: int, average: bool
) -> TrainState:
  """The state before the first step; the network is initialised for `size` x `size` slices with `channels` channels."""
  variables = model.init(jax.random.key(seed), jnp.zeros((1, size, size, channels)))
  variables = {"batch_stats": {}, **variables}
  return TrainState(
    step=jnp.int32(0),
    variables=variables,
    average=jax.tree.map(jnp.copy, variables) if average else None,
    opt_state=optimizer.init(variables["params"]),
    loss_sum=jnp.float32(0),
    accuracy_sum=jnp.float32(0),
    nonfinite_step=jnp.int32(-1),
  )


def tree_hash(tree: PyTree) -> str:
  """SHA-256 over the path and bytes of every array: equal only if two trees are equal bit for bit."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
