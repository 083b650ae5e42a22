"""The plain classifier of the paper's Table 1."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bt_jax.errors import choose
from bt_jax.models.layers import check_size, max_pool_2x2, norm


def _average_pool_2x2(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch _ _ channels"]:
  return nn.avg_pool(x, (2, 2), (2, 2))


POOLS = {"max": max_pool_2x2, "average": _average_pool_2x2, "min": lambda x: -max_pool_2x2(-x)}


class CNN(nn.Module):
  """Convolution, norm, ReLU and pooling, several times; then one fully connected layer over all that is left.

  >>> network = bt_jax.models.CNN(classes=2)
  >>> images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
  >>> logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
  >>> logits.shape
  (8, 2)

  Attributes:
    width: channels of the first level; each level below has twice as many.
    depth: how often the image is pooled by 2 x 2.
    pool: `max`, `average` or `min`.
    norm: `batch` or `group`, see `layers.norm`.
    classes: logits that come out.
    dtype: of the computation; parameters, batch statistics and logits are float32.
  """

  width: int = 16
  depth: int = 5
  pool: str = "max"
  norm: str = "batch"
  classes: int = 2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch classes"]:
    """Returns logits; raises UserError where height or width does not divide by 2 ** depth."""
    check_size(x, self.depth)
    pool = choose("model.pool", self.pool, POOLS)
    for level in range(self.depth):
      x = Level(self.width * 2**level, self.dtype, self.norm, name=f"stage{level + 1}")(x, train=train)
      x = pool(x)
    return nn.Dense(self.classes, dtype=jnp.float32, name="head")(x.reshape(x.shape[0], -1))


class Level(nn.Module):
  """3 x 3 convolution, norm, ReLU."""

  features: int
  dtype: Any = jnp.float32
  norm: str = "batch"

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch height width features"]:
    x = nn.Conv(
      self.features, (3, 3), use_bias=False, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name="conv"
    )(x)
    return nn.relu(norm(x, self.norm, name="norm", train=train, dtype=self.dtype))
