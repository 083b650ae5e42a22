"""A small U-Net decoder on an EfficientNet-Lite encoder: a segmenter that a CPU can train."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bt_jax.models.efficientnet_lite import SKIPS, EfficientNetLite
from bt_jax.models.layers import ConvBlock, check_size


class LiteUNet(nn.Module):
  """Each level of the decoder doubles the picture, joins the encoder's features of that size, and convolves twice.

  Attributes:
    encoder: size of the encoder, a name of `efficientnet_lite.ENCODERS`.
    features: channels of the decoder's levels, finest first; the finest is half as large as the input.
    dtype: of the computation; parameters, batch statistics and logits are float32.
  """

  encoder: str = "lite0"
  features: tuple[int, ...] = (32, 48, 64, 128)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch height width 1"]:
    """Returns logits; raises UserError where height or width does not divide by 32."""
    check_size(x, len(SKIPS))
    batch, height, width, _ = x.shape
    stages = EfficientNetLite(self.encoder, dtype=self.dtype, name="encoder")(x, train=train)
    x = stages[SKIPS[-1]]
    for level in reversed(range(len(self.features))):
      x = jnp.concatenate([upsample_2x2(x), stages[SKIPS[level]]], axis=-1)
      x = ConvBlock(self.features[level], self.dtype, name=f"decoder{level + 1}")(x, train=train)
    x = nn.Conv(1, (3, 3), dtype=jnp.float32, name="head")(x)
    return jax.image.resize(x, (batch, height, width, 1), "linear")


def upsample_2x2(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch 2*height 2*width channels"]:
  """Every pixel four times."""
  batch, height, width, channels = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
  return x.reshape(batch, 2 * height, 2 * width, channels)
