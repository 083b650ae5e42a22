"""A small U-Net decoder on an EfficientNet-Lite encoder: a segmenter that a CPU can train."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bt_jax.models.efficientnet_lite import SKIPS, EfficientNetLite
from bt_jax.models.layers import ConvBlock, check_size


class MaskAndSlice(NamedTuple):
  """The output of a segmenter with a slice head.

  Attributes:
    mask: logits of each pixel.
    slice: logit of "any tumour in this slice".
  """

  mask: Float[Array, "batch height width classes"]
  slice: Float[Array, " batch"]


class LiteUNet(nn.Module):
  """Each level of the decoder doubles the image, joins the encoder's features of that size, and convolves twice.

  >>> network = bt_jax.models.LiteUNet()
  >>> images = jax.ShapeDtypeStruct((8, 96, 96, 3), jnp.float32)
  >>> logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
  >>> logits.shape
  (8, 96, 96, 1)

  Attributes:
    encoder: size of the encoder, a name of `efficientnet_lite.ENCODERS`.
    features: channels of the decoder's levels, finest first; the finest is half as large as the input.
    slice_head: whether the mean and the maximum of the deepest features also predict if there is any tumour.
    classes: of masks, each with a logit at every pixel.
    dtype: of the computation; parameters, batch statistics and logits are float32.
  """

  encoder: str = "lite0"
  features: tuple[int, ...] = (32, 48, 64, 128)
  slice_head: bool = False
  classes: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch height width classes"] | MaskAndSlice:
    """Returns logits, of masks alone or of slices too; raises UserError where height or width does not divide by 32."""
    check_size(x, len(SKIPS))
    batch, height, width, _ = x.shape
    stages = EfficientNetLite(self.encoder, dtype=self.dtype, name="encoder")(x, train=train)
    deepest = x = stages[SKIPS[-1]]
    for level in reversed(range(len(self.features))):
      x = jnp.concatenate([upsample_2x2(x), stages[SKIPS[level]]], axis=-1)
      x = ConvBlock(self.features[level], self.dtype, name=f"decoder{level + 1}")(x, train=train)
    x = nn.Conv(self.classes, (3, 3), dtype=jnp.float32, name="head")(x)
    mask = jax.image.resize(x, (batch, height, width, self.classes), "linear")
    if not self.slice_head:
      return mask
    pooled = jnp.concatenate(
      [deepest.mean((1, 2), dtype=jnp.float32), deepest.max((1, 2)).astype(jnp.float32)], axis=-1
    )
    return MaskAndSlice(mask, nn.Dense(1, name="slice_head")(pooled)[:, 0])


def upsample_2x2(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch 2*height 2*width channels"]:
  """Nearest-neighbour upsampling by 2."""
  batch, height, width, channels = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
  return x.reshape(batch, 2 * height, 2 * width, channels)
