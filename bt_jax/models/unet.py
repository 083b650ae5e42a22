"""The U-Net of Ronneberger, Fischer and Brox (2015, arXiv:1505.04597) with batch norm and same padding."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bt_jax.errors import UserError
from bt_jax.models.layers import ConvBlock, UpConv2x2, max_pool_2x2


class UNet(nn.Module):
  """A contracting and an expanding path, joined at every level by a skip connection.

  Attributes:
    width: channels of the first level; each level below has twice as many.
    depth: how often the picture is halved; height and width must divide by 2 ** depth.
    dtype: of the computation; parameters, batch statistics and logits are float32.
  """

  width: int = 32
  depth: int = 4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch height width 1"]:
    """Returns logits; raises UserError where height or width does not divide by 2 ** depth."""
    check_size(x.shape[1], self.depth)
    check_size(x.shape[2], self.depth)
    skips = []
    for level in range(self.depth):
      x = ConvBlock(self.width * 2**level, self.dtype, name=f"encoder{level + 1}")(x, train=train)
      skips.append(x)
      x = max_pool_2x2(x)
    x = ConvBlock(self.width * 2**self.depth, self.dtype, name="bottom")(x, train=train)
    for level in reversed(range(self.depth)):
      x = UpConv2x2(self.width * 2**level, self.dtype, name=f"up{level + 1}")(x)
      x = jnp.concatenate([skips[level], x], axis=-1)
      x = ConvBlock(self.width * 2**level, self.dtype, name=f"decoder{level + 1}")(x, train=train)
    return nn.Conv(1, (1, 1), dtype=jnp.float32, name="head")(x)


def check_size(size: int, depth: int) -> None:
  """Raises UserError, with the next sizes that do, where `size` pixels cannot be halved `depth` times."""
  factor = 2**depth
  if size < factor or size % factor:
    below, above = size // factor * factor, -(-size // factor) * factor
    sizes = f"{below} or {max(above, factor)}" if below else f"{factor}"
    raise UserError(
      f"an input of {size} pixels cannot be halved {depth} times (model.depth): the next size is {sizes}, set --config.data.size"
    )
