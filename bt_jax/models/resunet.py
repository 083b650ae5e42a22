"""Residual U-Nets: on a ResNet-50 encoder, and the one from scratch of the recipe behind the paper."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bt_jax.models.layers import check_size, max_pool_2x2, norm
from bt_jax.models.resnet import HALVINGS, STAGES, ResNet50
from bt_jax.models.unet import expand


class ResUNet(nn.Module):
  """The expanding path of a U-Net on the ResNet-50 encoder, with skips from the stem and stages 1 to 3.

  >>> network = bt_jax.models.ResUNet()
  >>> images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
  >>> logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
  >>> logits.shape
  (8, 64, 64, 1)

  Attributes:
    variant: of the encoder, `torchvision` or `keras`.
    features: channels of the levels of the expanding path, finest first.
    classes: of masks, each with a logit at every pixel.
    dtype: of the computation; parameters, batch statistics and logits are float32.
  """

  variant: str = "torchvision"
  features: tuple[int, ...] = (16, 32, 64, 128, 256)
  classes: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch height width classes"]:
    """Returns logits; raises UserError where height or width does not divide by 32."""
    check_size(x, HALVINGS)
    stages = ResNet50(self.variant, dtype=self.dtype, name="encoder")(x, train=train)
    skips = [None, *(stages[name] for name in STAGES[:-1])]  # nothing has the full resolution
    x = expand(stages[STAGES[-1]], skips, self.features, dtype=self.dtype, train=train)
    return nn.Conv(self.classes, (1, 1), dtype=jnp.float32, name="head")(x)


class ResidualBlock(nn.Module):
  """1 x 1 and 3 x 3 convolutions, each with a norm, around a shortcut that has a 1 x 1 convolution of its own."""

  features: int
  dtype: Any = jnp.float32
  norm: str = "batch"

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch height width features"]:
    norm = functools.partial(_norm, kind=self.norm, train=train, dtype=self.dtype)
    shortcut = norm(_conv(x, self.features, 1, "shortcut_conv", self.dtype), name="shortcut_norm")
    x = nn.relu(norm(_conv(x, self.features, 1, "conv1", self.dtype), name="norm1"))
    x = norm(_conv(x, self.features, 3, "conv2", self.dtype), name="norm2")
    return nn.relu(x + shortcut)


class ResUNetScratch(nn.Module):
  """The segmenter of the recipe behind the paper, with the 1,210,513 parameters and batch statistics that it states.

  >>> network = bt_jax.models.ResUNetScratch()
  >>> images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
  >>> logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
  >>> logits.shape
  (8, 64, 64, 1)
  >>> sum(parameter.size for parameter in jax.tree.leaves(variables))
  1210513

  Attributes:
    width: channels of the first level; each level below has twice as many.
    depth: how often the image is halved.
    norm: `batch` or `group`, see `layers.norm`.
    classes: of masks, each with a logit at every pixel.
    dtype: of the computation; parameters, batch statistics and logits are float32.
  """

  width: int = 16
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
    for index in (1, 2):  # the recipe's order: ReLU before batch norm
      x = nn.relu(_conv(x, self.width, 3, f"stem_conv{index}", self.dtype))
      x = _norm(x, self.norm, name=f"stem_norm{index}", dtype=self.dtype, train=train)
    skips = [x]
    for level in range(1, self.depth + 1):
      x = ResidualBlock(self.width * 2**level, self.dtype, self.norm, name=f"encoder{level}")(
        max_pool_2x2(x), train=train
      )
      skips.append(x)
    for level in reversed(range(self.depth)):
      batch, height, width, channels = x.shape
      x = jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "nearest")
      x = jnp.concatenate([x, skips[level]], axis=-1)
      x = ResidualBlock(self.width * 2**level, self.dtype, self.norm, name=f"decoder{level + 1}")(x, train=train)
    return nn.Conv(self.classes, (1, 1), dtype=jnp.float32, name="head")(x)


def _conv(x: jax.Array, features: int, size: int, name: str, dtype: Any) -> jax.Array:
  return nn.Conv(features, (size, size), kernel_init=nn.initializers.he_normal(), dtype=dtype, name=name)(x)


# Keras's defaults, which the recipe keeps.
_norm = functools.partial(norm, momentum=0.99, epsilon=1e-3)
