"""From stored bytes to what the network sees: resized, augmented, normalised; pure, and run inside the compiled step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from bt_jax.errors import choose

Augment = Callable[
  [jax.Array, Float[Array, "batch size size 3"], Float[Array, "batch size size 1"]],
  tuple[Float[Array, "batch size size 3"], Float[Array, "batch size size 1"]],
]


def resize(
  image: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch {size} {size} channels"]:
  """Resizes linearly, averaging where it shrinks."""
  if image.shape[1:3] == (size, size):
    return image
  return jax.image.resize(image, (image.shape[0], size, size, image.shape[3]), "linear")


def make_preprocess(*, size: int, normalize: str) -> Callable:
  """Makes the function from a batch of stored slices to network inputs and targets.

  Args:
    size: pixels; slices are resized to `size` x `size`.
    normalize: `volume`: (image - mean) / deviation of the slice's own volume, by channel. `unit`: image / 255.

  Returns:
    `preprocess(batch, augment=None, key=None)` -> (inputs float32 [batch, size, size, 3], masks float32
    [batch, size, size, 1] in {0, 1}), where batch has `image` and `mask` in uint8, `volume_mean` and `volume_std`.

  Raises:
    UserError: no such way to normalise.
  """
  choose("data.normalize", normalize, dict.fromkeys(("volume", "unit")))

  def preprocess(
    batch: dict[str, UInt8[Array, "..."] | Float[Array, "..."]],
    augment: Augment | None = None,
    key: jax.Array | None = None,
  ) -> tuple[Float[Array, "batch size size 3"], Float[Array, "batch size size 1"]]:
    # Augmentation sees plain intensities in 0..1, where black is 0 and gamma has a meaning; z-scores come last.
    image = resize(batch["image"].astype(jnp.float32) / 255, size)
    mask = resize(batch["mask"].astype(jnp.float32), size)
    if augment is not None:
      image, mask = augment(key, image, mask)
    if normalize == "volume":
      mean, std = (batch[name][:, None, None] / 255 for name in ("volume_mean", "volume_std"))
      image = (image - mean) / jnp.maximum(std, 1 / 255)  # a constant volume has no deviation
    return image, (mask >= 0.5).astype(jnp.float32)

  return preprocess
