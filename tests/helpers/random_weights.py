"""Random variables of a network without the seconds that compiling its initialisation takes."""

import flax
import jax
import numpy as np


def random_variables(model: flax.linen.Module, images: jax.Array, seed: int = 0) -> dict:
  """What `model.init` gives, from NumPy: He-scaled normal kernels, variances and scales of 1, all else 0."""
  rng = np.random.default_rng(seed)

  def leaf(path: tuple[str, ...], like: jax.ShapeDtypeStruct) -> np.ndarray:
    if path[-1] == "kernel":
      return (rng.normal(size=like.shape) * np.sqrt(2 / np.prod(like.shape[:-1]))).astype(like.dtype)
    return np.full(like.shape, path[-1] in ("scale", "var"), like.dtype)

  shapes = flax.traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0), images))
  return flax.traverse_util.unflatten_dict({path: leaf(path, like) for path, like in shapes.items()})
