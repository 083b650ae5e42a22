"""Layers the networks share."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from bt_jax.distributed import global_batch
from bt_jax.errors import UserError, choose


def max_pool_2x2(
  x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height//2 width//2 channels"]:
  """2 x 2 max pooling as two rounds of comparing neighbours.

  On a CPU its gradient is several times faster than that of `reduce_window`. `max` over an axis is not an alternative:
  its gradient divides by the number of elements equal to the maximum, and where the compiler computes them twice with
  different rounding, that number is 0 and the gradient NaN. Here the gradient follows the result of the comparison.
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


class BatchNorm(nn.Module):
  """Batch norm over the whole batch (Ioffe and Szegedy 2015, arXiv:1502.03167), however it is sharded over devices.

  Every network here uses this layer and says at the call whether to normalize by the batch or by the running statistics,
  so that training can keep the statistics of some stages (see `training/finetune.py`).

  Mean and variance take one pass, and one all-reduce, as E[d^2] - E[d]^2 with d the difference from the running mean.
  Digits are lost only where the batch's mean lies many standard deviations away from the running mean.

  Attributes:
    momentum: share of the running statistics that stays.
    epsilon: added to the variance.
    unbiased: whether the running variance is divided by n - 1, as PyTorch keeps it, or by n, as Flax and Keras do.
    dtype: of the computation; parameters and statistics are float32.
  """

  momentum: float = 0.99
  epsilon: float = 1e-5
  unbiased: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "*batch channels"], *, use_running_average: bool
  ) -> Float[Array, "*batch channels"]:
    shape = x.shape[-1:]
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
    scale = self.param("scale", nn.initializers.ones_init(), shape)
    bias = self.param("bias", nn.initializers.zeros_init(), shape)
    if use_running_average:
      factor = lax.rsqrt(running_var.value + self.epsilon) * scale
      return ((x - running_mean.value) * factor + bias).astype(self.dtype)
    centre = lax.stop_gradient(running_mean.value)
    out, mean, var = normalize(x.astype(self.dtype), scale, bias, centre, self.epsilon)
    if self.is_mutable_collection("batch_stats") and not self.is_initializing():
      count = x.size // x.shape[-1] * global_batch.parts()
      kept = var * (count / max(count - 1, 1)) if self.unbiased else var
      for running, new in ((running_mean, mean), (running_var, kept)):
        running.value = self.momentum * running.value + (1 - self.momentum) * lax.stop_gradient(new)
    return out


Channels = Float[Array, "channels"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def normalize(
  x: Float[Array, "*batch channels"], scale: Channels, bias: Channels, centre: Channels, epsilon: float
) -> tuple[Float[Array, "*batch channels"], Channels, Channels]:
  """Batch norm by the batch's own statistics, with a gradient of its own that passes over the batch less often.

  Args:
    x: the batch, or one shard of it, see `distributed.global_batch`.
    scale: of each channel.
    bias: of each channel.
    centre: a value close to the mean, see `BatchNorm`.
    epsilon: added to the variance.

  Returns:
    The normalized batch, in the type of `x`, and the mean and variance of the whole batch, without a gradient.
  """
  return _normalize(x, scale, bias, centre, epsilon)[0]


def _normalize(
  x: Array, scale: Array, bias: Array, centre: Array, epsilon: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array, Array]]:
  axes = range(x.ndim - 1)
  distance = x.astype(jnp.float32) - centre
  shift, square = global_batch.mean(jnp.stack([distance.mean(axes), jnp.square(distance).mean(axes)]))
  mean, var = centre + shift, jnp.maximum(square - jnp.square(shift), 0)
  inverse = lax.rsqrt(var + epsilon)
  factor = inverse * scale
  out = (x * factor + (bias - mean * factor)).astype(x.dtype)
  return (out, mean, var), (x, mean, inverse, scale)


def _normalize_gradient(
  epsilon: float, saved: tuple[Array, Array, Array, Array], gradients: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array, None]:
  """With h = (x - mean) / standard deviation: the gradient less its mean and less h times the mean of gradient times h."""
  x, mean, inverse, scale = saved
  gradient, axes = gradients[0].astype(jnp.float32), range(x.ndim - 1)
  sums = jnp.stack([gradient.sum(axes), (gradient * (x - mean)).sum(axes)])
  level, slope = global_batch.mean(sums / (x.size // x.shape[-1]))
  factor, slope = inverse * scale, jnp.square(inverse) * slope
  to_x = gradient * factor - x * (factor * slope) + factor * (mean * slope - level)
  return to_x.astype(x.dtype), sums[1] * inverse, sums[0], None


normalize.defvjp(_normalize, _normalize_gradient)


NORMS = ("batch", "group")
GROUP_CHANNELS = 8


def norm(
  x: Float[Array, "batch height width channels"],
  kind: str,
  *,
  name: str,
  train: bool,
  dtype: Any,
  momentum: float = 0.9,
  epsilon: float = 1e-5,
) -> Float[Array, "batch height width channels"]:
  """Batch norm or group norm, as the layer `name` of the module that calls it.

  Group norm (Wu and He 2018, arXiv:1803.08494) normalizes each slice by itself, in training as in inference: so it has no
  running statistics, and devices exchange nothing for it. A group has `GROUP_CHANNELS` channels, or as many as divide both
  them and the number of channels.

  Args:
    x: features.
    kind: `batch` or `group`.
    name: of the layer.
    train: whether batch norm normalizes by the batch.
    dtype: of the computation.
    momentum: of batch norm's running statistics.
    epsilon: added to the variance.

  Raises:
    UserError: `kind` is neither.
  """
  choose("model.norm", kind, dict.fromkeys(NORMS))
  if kind == "group":
    size = math.gcd(x.shape[-1], GROUP_CHANNELS)
    layer = functools.partial(nn.GroupNorm, num_groups=None, group_size=size, epsilon=epsilon, dtype=dtype, name=name)
    return layer(use_fast_variance=False)(x)  # as a difference of means it would lose digits where the mean is large
  return BatchNorm(momentum=momentum, epsilon=epsilon, dtype=dtype, name=name)(x, use_running_average=not train)


class Dropout(nn.Module):
  """Sets a share of the features of each example to 0 and scales the rest up (Srivastava et al. 2014).

  Each example has a key of its own, so that the result is the same however the batch is sharded over devices.

  Attributes:
    rate: the share.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Float[Array, " batch *features"], *, train: bool) -> Float[Array, " batch *features"]:
    if not train:
      return x
    keys = global_batch.keys(self.make_rng("dropout"), x.shape[0])
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - self.rate), 0)


class ConvBlock(nn.Module):
  """Twice: 3 x 3 convolution, norm, ReLU.

  Attributes:
    features: channels that come out.
    dtype: of the computation; parameters and batch statistics are float32.
    norm: `batch` or `group`, see `norm`.
  """

  features: int
  dtype: Any = jnp.float32
  norm: str = "batch"

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
      x = nn.relu(norm(x, self.norm, name=f"norm{index}", train=train, dtype=self.dtype))
    return x


def check_size(x: Float[Array, "batch height width channels"], halvings: int) -> None:
  """Raises UserError, naming the nearest valid sizes, where the image cannot be halved that often."""
  factor = 2**halvings
  for size in x.shape[1:3]:
    if size < factor or size % factor:
      below, above = size // factor * factor, -(-size // factor) * factor
      sizes = f"{below} or {max(above, factor)}" if below else f"{factor}"
      raise UserError(
        f"an input of {size} pixels cannot be halved {halvings} times, as this network does: set data.size to {sizes}",
        "data.size",
      )
