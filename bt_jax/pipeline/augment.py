"""Random flips, warps, gain, gamma, noise and lost sequences: pure JAX, image and mask under one warp."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from bt_jax.datasets.channels import Channel
from bt_jax.datasets.info import DatasetInfo
from bt_jax.distributed import global_batch
from bt_jax.pipeline.missing_sequences import make_drop
from bt_jax.pipeline.preprocess import Augment


def make_augment(
  *,
  flip: bool,
  rotation_degrees: float,
  scale: float,
  shift: float,
  gain: float,
  offset: float,
  gamma: float,
  noise: float,
  drop_sequence: float,
  info: DatasetInfo,
  context: Sequence[Channel] = (),
) -> Augment:
  """Makes the augmentation; every argument at 0 leaves a batch as it is.

  Args:
    flip: mirror left and right, every other time.
    rotation_degrees: up to this angle, either way.
    scale: the picture grows or shrinks by a factor between 1 / (1 + scale) and 1 + scale.
    shift: up to this share of the width, in either direction of each axis.
    gain: each channel times a factor of its own between 1 / (1 + gain) and 1 + gain.
    offset: each channel plus a number of its own, up to this either way, where intensities are in 0..1.
    gamma: intensity ** g with log g uniform in +-log(1 + gamma).
    noise: standard deviation of Gaussian noise, up to this, where intensities are in 0..1.
    drop_sequence: probability that channels are replaced by the reference, as where they are missing, see `make_drop`.
    info: of the data set.
    context: the neighbours that a batch holds, see `channels.context_of`.

  Returns:
    See `Augment`; images are float [batch, height, width, channels], masks float [batch, height, width, classes] in 0..1, and
    come back in 0..1, interpolated.
  """

  def one(
    key: jax.Array, image: Float[Array, "height width channels"], mask: Float[Array, "height width classes"]
  ) -> tuple[Float[Array, "height width channels"], Float[Array, "height width classes"]]:
    keys = iter(jax.random.split(key, 9))

    def uniform(limit: float, shape: tuple[int, ...] = ()) -> jax.Array:
      return jax.random.uniform(next(keys), shape, minval=-limit, maxval=limit)

    mirror = jnp.where(flip & jax.random.bernoulli(next(keys)), -1.0, 1.0)
    matrix = rotation_matrix(jnp.deg2rad(uniform(rotation_degrees))) * jnp.exp(uniform(math.log1p(scale)))
    moved = uniform(shift, (2,)) * jnp.array(image.shape[:2])
    warped = warp(jnp.concatenate([image, mask], axis=-1), matrix * jnp.array([1.0, mirror]), moved)
    image, mask = jnp.split(warped, [image.shape[-1]], axis=-1)
    if gamma:  # the small floor keeps the power's slope finite at black
      image = jnp.maximum(image, 1e-6) ** jnp.exp(uniform(math.log1p(gamma)))
    if noise:
      image = image + jnp.abs(uniform(noise)) * jax.random.normal(next(keys), image.shape)
    channels = image.shape[-1:]
    return image * jnp.exp(uniform(math.log1p(gain), channels)) + uniform(offset, channels), mask

  def pixels(key, image, mask):
    return jax.vmap(one)(global_batch.keys(key, image.shape[0]), image, mask)

  return Augment(make_drop(drop_sequence, context, info), pixels)


def rotation_matrix(angle: Float[Array, ""]) -> Float[Array, "2 2"]:
  """The rotation by `angle` radians in (row, column) coordinates.

  >>> rotation_matrix(jnp.deg2rad(jnp.float32(60)))[0].round(3).tolist() == [0.5, -jnp.sqrt(0.75).round(3)]
  True
  """
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.array([[cos, -sin], [sin, cos]])


def warp(
  image: Float[Array, "height width channels"], matrix: Float[Array, "2 2"], offset: Float[Array, "2"]
) -> Float[Array, "height width channels"]:
  """The picture whose pixel p shows `image` at centre + matrix (p - centre) + offset, linearly, 0 outside.

  Coordinates are (row, column) in pixels; the centre is that of the picture.

  >>> image = jnp.arange(3.0).reshape(1, 3, 1)
  >>> warp(image, jnp.diag(jnp.array([1.0, -1.0])), jnp.zeros(2))[0, :, 0].tolist()  # mirrored
  [2.0, 1.0, 0.0]
  >>> warp(image, jnp.eye(2), jnp.array([0.0, 1.0]))[0, :, 0].tolist()  # from one column to the right
  [1.0, 2.0, 0.0]
  """
  height, width, _ = image.shape
  centre = (jnp.array([height, width]) - 1) / 2
  grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1)
  source = (grid - centre) @ matrix.T + centre + offset
  sample = lambda channel: map_coordinates(channel, (source[..., 0], source[..., 1]), order=1, mode="constant")
  return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)
