"""Random flips, warps, gain, gamma, noise and dropped sequences in pure JAX; image and mask get the same warp."""

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
  """Makes the augmentation; with every argument at 0, a batch is unchanged.

  Args:
    flip: mirror left and right with probability 0.5.
    rotation_degrees: largest rotation, in either direction.
    scale: the image is scaled by a factor between 1 / (1 + scale) and 1 + scale.
    shift: largest shift along each axis, in either direction, as a share of the image size.
    gain: each channel is multiplied by its own factor between 1 / (1 + gain) and 1 + gain.
    offset: each channel is shifted by its own number between -offset and offset, for intensities in 0..1.
    gamma: intensities are raised to a power g, with log g uniform in +-log(1 + gamma).
    noise: largest standard deviation of Gaussian noise, for intensities in 0..1.
    drop_sequence: probability that channels are replaced by the reference, as if they were missing; see `make_drop`.
    info: description of the data set.
    context: the neighbouring channels in a batch, see `channels.context_of`.

  Returns:
    See `Augment`. Images are float [batch, height, width, channels]; masks are float [batch, height, width, classes] in
    0..1, and the returned masks are interpolated, in 0..1.
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
    if gamma:  # the small floor keeps the gradient of the power finite at 0
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
  """Warps an image: pixel p of the result is `image` at centre + matrix (p - centre) + offset, linear, 0 outside.

  Coordinates are (row, column) in pixels; the centre is the image centre.

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
