"""The U-Net of Ronneberger, Fischer and Brox (2015, arXiv:1505.04597) with batch or group norm and same padding."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bt_jax.models.layers import ConvBlock, UpConv2x2, check_size, max_pool_2x2

# The published U-Net of mateuszbuda/brain-segmentation-pytorch: its name among published networks, and its fields.
UNET, UNET_FIELDS = "unet", {"width": 32, "depth": 4}


class UNet(nn.Module):
  """A contracting and an expanding path, joined at every level by a skip connection.

  >>> network = bt_jax.models.UNet(classes=2)
  >>> images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
  >>> logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
  >>> logits.shape
  (8, 64, 64, 2)

  Attributes:
    width: channels of the first level; each level below has twice as many.
    depth: how often the image is halved; height and width must divide by 2 ** depth.
    norm: `batch` or `group`, see `layers.norm`.
    classes: of masks, each with a logit at every pixel.
    dtype: of the computation; parameters, batch statistics and logits are float32.
  """

  width: int = 32
  depth: int = 4
  norm: str = "batch"
  classes: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch height width classes"]:
    """Returns logits; raises UserError where height or width does not divide by 2 ** depth."""
    check_size(x, self.depth)
    skips = []
    for level in range(self.depth):
      x = ConvBlock(self.width * 2**level, self.dtype, self.norm, name=f"encoder{level + 1}")(x, train=train)
      skips.append(x)
      x = max_pool_2x2(x)
    x = ConvBlock(self.width * 2**self.depth, self.dtype, self.norm, name="bottom")(x, train=train)
    widths = [self.width * 2**level for level in range(self.depth)]
    x = expand(x, skips, widths, dtype=self.dtype, train=train, norm=self.norm)
    return nn.Conv(self.classes, (1, 1), dtype=jnp.float32, name="head")(x)


def expand(
  x: Float[Array, "batch height width channels"],
  skips: Sequence[Float[Array, "batch _ _ _"] | None],
  features: Sequence[int],
  *,
  dtype: Any,
  train: bool,
  norm: str = "batch",
) -> Float[Array, "batch _ _ _"]:
  """The expanding path, as layers `up<n>` and `decoder<n>` of the module that calls it.

  Args:
    x: the coarsest level.
    skips: features that join at each level, finest first; None for a level without.
    features: channels of each level, finest first.
    dtype: of the computation.
    train: whether batch norm normalizes by the batch.
    norm: `batch` or `group`.
  """
  for level in reversed(range(len(features))):
    x = UpConv2x2(features[level], dtype, name=f"up{level + 1}")(x)
    if skips[level] is not None:
      x = jnp.concatenate([skips[level], x], axis=-1)
    x = ConvBlock(features[level], dtype, norm, name=f"decoder{level + 1}")(x, train=train)
  return x
