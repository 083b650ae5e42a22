"""Depthwise convolution that is fast on a CPU too: there a sum of shifted products, with a gradient of its own."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]
Image = Float[Array, "batch height width channels"]
Kernel = Float[Array, "rows columns channels"]
_STRIPS = 12  # an image is split into at most so many; each is a term of the compiled sum


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
  """Zeros before and after an axis that give ceil(size / stride) outputs, as TensorFlow's `SAME` padding does.

  Where the number of zeros is odd, the larger half comes after, so that with a stride the result depends on the size.
  """
  total = max((-(-size // stride) - 1) * stride + window - size, 0)
  return total // 2, total - total // 2


class DepthwiseConv(nn.Module):
  """A convolution of each channel by itself, without a bias.

  Attributes:
    size: of the kernel, pixels along an edge.
    stride: 1 or more.
    padding: `SAME` as TensorFlow has it, or zeros before and after rows and columns.
    dtype: of the computation; the kernel is float32.
  """

  size: int
  stride: int = 1
  padding: str | Padding = "SAME"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Image) -> Float[Array, "batch out_height out_width channels"]:
    channels = x.shape[-1]
    # One channel goes in for each that comes out.
    init = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal", in_axis=(0, 1), out_axis=3)
    kernel = self.param("kernel", init, (self.size, self.size, 1, channels))[:, :, 0]
    padding = self.padding
    if padding == "SAME":
      padding = tuple(same_padding(pixels, self.size, self.stride) for pixels in x.shape[1:3])
    return depthwise_conv(x.astype(self.dtype), jnp.asarray(kernel, self.dtype), self.stride, padding)


def depthwise_conv(
  x: Image, kernel: Kernel, stride: int, padding: Padding
) -> Float[Array, "batch out_height out_width channels"]:
  """Depthwise convolution: at each output pixel the sum over the window of `x` times the kernel, channel by channel.

  XLA's own implementation, which accelerators use, is slow on a CPU; there `shifted_products` takes its place.
  """
  accelerated = functools.partial(_native, stride=stride, padding=padding)
  return lax.platform_dependent(
    x, kernel, cpu=functools.partial(shifted_products, stride=stride, padding=padding), default=accelerated
  )


def _native(x: Image, kernel: Kernel, *, stride: int, padding: Padding) -> Array:
  return lax.conv_general_dilated(
    x,
    kernel[:, :, None],
    (stride, stride),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x.shape[-1],
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def shifted_products(x: Image, kernel: Kernel, stride: int, padding: Padding) -> Array:
  """`depthwise_conv` as one fused loop: for each offset in the window, the shifted image times its weight."""
  return sum(image * kernel[offset] for offset, image in _shifted(x, kernel.shape, stride, padding).items())


def _forward(x: Image, kernel: Kernel, stride: int, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
  return shifted_products(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: Padding, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  x, kernel = saved
  shifted = _shifted(x, kernel.shape, stride, padding).values()
  to_kernel = _sum_pixels([image * gradient for image in shifted]).reshape(kernel.shape)
  return _to_input(x.shape, kernel, gradient, stride, padding), to_kernel


shifted_products.defvjp(_forward, _backward)


def _shifted(x: Image, window: tuple[int, ...], stride: int, padding: Padding) -> dict[tuple[int, int], Array]:
  """The padded image shifted by each offset of the window; with a stride, slices of its interleaved grids."""
  out = [(x.shape[axis + 1] + sum(padding[axis]) - window[axis]) // stride + 1 for axis in (0, 1)]
  # Padded further below and to the right, so that all grids are of one size.
  padded = jnp.pad(x, ((0, 0), *((before, after + stride - 1) for before, after in padding), (0, 0)))
  # Materialized once: the loop that follows is faster with plain slices.
  grids = lax.optimization_barrier(
    {
      (row, column): padded[:, row::stride, column::stride]
      for row, column in itertools.product(range(stride), repeat=2)
    }
  )
  return {
    (row, column): grids[row % stride, column % stride][
      :, row // stride : row // stride + out[0], column // stride : column // stride + out[1]
    ]
    for row, column in itertools.product(range(window[0]), range(window[1]))
  }


def _sum_pixels(images: list[Image]) -> Float[Array, "images channels"]:
  """The sums over all pixels of the batch.

  On a CPU XLA does not vectorize a reduction that keeps the last axis, but it does vectorize sums of slices, which do
  most of the work here.
  """
  rows = images[0].shape[1]
  strips = max(count for count in range(1, _STRIPS + 1) if rows % count == 0)
  partial = [sum(jnp.split(image, strips, axis=1)) for image in images]
  return lax.optimization_barrier(jnp.stack(partial)).sum((1, 2, 3))


def _to_input(shape: tuple[int, ...], kernel: Kernel, gradient: Array, stride: int, padding: Padding) -> Array:
  """The gradient of the input: on each interleaved grid of pixels, a sum over the offsets of the window that read it.

  Offset k read pixel p = stride i + phase for output q = i + (phase + before - k) / stride.
  """
  margin = max(kernel.shape[:2])
  lengths = [-(-shape[axis + 1] // stride) for axis in (0, 1)]
  after = [max(lengths[axis] + margin - gradient.shape[axis + 1], margin) for axis in (0, 1)]
  padded = lax.optimization_barrier(jnp.pad(gradient, ((0, 0), (margin, after[0]), (margin, after[1]), (0, 0))))
  grids = []
  for phase in itertools.product(range(stride), repeat=2):
    readers = [
      [
        (offset, margin + (phase[axis] + padding[axis][0] - offset) // stride)
        for offset in range((phase[axis] + padding[axis][0]) % stride, kernel.shape[axis], stride)
      ]
      for axis in (0, 1)
    ]
    terms = [
      padded[:, top : top + lengths[0], left : left + lengths[1]] * kernel[row, column]
      for (row, top), (column, left) in itertools.product(*readers)
    ]
    grids.append(sum(terms) if terms else jnp.zeros((shape[0], *lengths, shape[3]), gradient.dtype))
  if stride == 1:
    return grids[0]
  together = jnp.stack(grids, 3).reshape(shape[0], *lengths, stride, stride, shape[3])
  together = together.transpose(0, 1, 3, 2, 4, 5)
  together = together.reshape(shape[0], lengths[0] * stride, lengths[1] * stride, shape[3])
  return together[:, : shape[1], : shape[2]]
