"""Layers the networks share."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def max_pool_2x2(
  x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height//2 width//2 channels"]:
  """2 x 2 max pooling as two rounds of comparing neighbours.

  On a CPU its gradient is several times faster than that of `reduce_window`. The gradient of `max` over an axis is no
  way out: it divides by the number of elements equal to the maximum, and where the compiler computes them twice with
  different rounding that number is 0 and the gradient NaN. Here the gradient follows the comparison, whatever it says.
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  x = jnp.where(x[:, :, 0] >= x[:, :, 1], x[:, :, 0], x[:, :, 1])
  return jnp.where(x[:, :, :, 0] >= x[:, :, :, 1], x[:, :, :, 0], x[:, :, :, 1])


class UpConv2x2(nn.Module):
  """The 2 x 2 transposed convolution with stride 2, as one matrix product: its windows do not overlap.

  Attributes:
    features: channels that come out.
    dtype: of the computation; parameters are float32.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch 2*height 2*width features"]:
    batch, height, width, channels = x.shape
    kernel = self.param("kernel", nn.initializers.he_normal(), (channels, 2, 2, self.features))
    bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
    windows = jnp.einsum("bhwc,cijf->bhiwjf", x.astype(self.dtype), kernel.astype(self.dtype))
    return windows.reshape(batch, 2 * height, 2 * width, self.features) + bias.astype(self.dtype)


class ConvBlock(nn.Module):
  """Twice: 3 x 3 convolution, batch norm, ReLU.

  Attributes:
    features: channels that come out.
    dtype: of the computation; parameters and batch statistics are float32.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch height width features"]:
    for index in (1, 2):
      x = nn.Conv(
        self.features,
        (3, 3),
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        dtype=self.dtype,
        name=f"conv{index}",
      )(x)
      x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype, name=f"norm{index}")(x)
      x = nn.relu(x)
    return x
