"""Layers the networks share."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bt_jax.errors import UserError


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


class BatchNorm(nn.BatchNorm):
  """Batch norm that can keep the running variance as PyTorch does: unbiased, by n - 1 instead of n.

  Every network of ours takes this one and says at the call whether it goes by the batch, so that training can keep the
  statistics of some stages (see `training/finetune.py`).

  Attributes:
    unbiased: whether it does; Flax and Keras keep the biased one.
  """

  unbiased: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, "*batch channels"], *, use_running_average: bool
  ) -> Float[Array, "*batch channels"]:
    before = self.get_variable("batch_stats", "var")
    y = super().__call__(x, use_running_average=use_running_average)
    if self.unbiased and before is not None and not use_running_average and self.is_mutable_collection("batch_stats"):
      after = self.get_variable("batch_stats", "var")
      # after = momentum before + (1 - momentum) biased; n / (n - 1) = 1 + 1 / (n - 1)
      count = x.size // x.shape[-1]
      self.put_variable("batch_stats", "var", after + (after - self.momentum * before) / max(count - 1, 1))
    return y


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
      x = BatchNorm(momentum=0.9, dtype=self.dtype, name=f"norm{index}")(x, use_running_average=not train)
      x = nn.relu(x)
    return x


def check_size(x: Float[Array, "batch height width channels"], halvings: int) -> None:
  """Raises UserError, with the next sizes that do, where the picture cannot be halved that often."""
  factor = 2**halvings
  for size in x.shape[1:3]:
    if size < factor or size % factor:
      below, above = size // factor * factor, -(-size // factor) * factor
      sizes = f"{below} or {max(above, factor)}" if below else f"{factor}"
      raise UserError(
        f"an input of {size} pixels cannot be halved {halvings} times, as this network does: the next size is {sizes}, "
        "set --config.data.size"
      )
