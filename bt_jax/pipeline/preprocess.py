"""From stored slices to network inputs: resizing, augmentation and normalisation, pure, inside the compiled step."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bt_jax.datasets.channels import context_of, own_channels, parse_channels
from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import choose
from bt_jax.pipeline import percentiles
from bt_jax.schema import Batch

Image = Float[Array, "batch size size channels"]
Masks = Float[Array, "batch size size classes"]


class Augment(NamedTuple):
  """The random changes of training slices.

  Attributes:
    sequences: maps a key and a batch of stored slices to such a batch.
    pixels: maps a key, images in 0..1 and masks to such images and masks.
  """

  sequences: Callable[[jax.Array, Batch], Batch]
  pixels: Callable[[jax.Array, Image, Masks], tuple[Image, Masks]]


UNCHANGED = Augment(sequences=lambda key, batch: batch, pixels=lambda key, image, mask: (image, mask))

# Statistics of ImageNet's red, green and blue: torchvision's in 0..1, those of Keras's "caffe" mode in 0..255.
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)


def _volume(image: Image, batch: Batch, positions: Sequence[int]) -> Image:
  mean, std = (batch[name][:, None, None, np.array(positions)] / 255 for name in ("volume_mean", "volume_std"))
  return (image - mean) / jnp.maximum(std, 1 / 255)  # the standard deviation of a constant volume is 0


def _percentiles(image: Image, batch: Batch, positions: Sequence[int]) -> Image:
  statistics = batch["volume_percentiles"][:, None, None, np.array(positions)] / 255
  low, high, mean, std = jnp.moveaxis(statistics, -1, 0)
  return (jnp.clip(image, low, high) - mean) / jnp.maximum(std, 1 / 255)


def _image(image: Image, batch: Batch, positions: Sequence[int]) -> Image:
  axes = (1, 2, 3)
  return (image - image.mean(axes, keepdims=True)) / jnp.maximum(image.std(axes, keepdims=True), 1 / 255)


def _unit(image: Image, batch: Batch, positions: Sequence[int]) -> Image:
  return image


def _symmetric(image: Image, batch: Batch, positions: Sequence[int]) -> Image:
  return 2 * image - 1


def _in_turn(colours: Sequence[float], channels: int) -> Float[np.ndarray, " channels"]:
  """A value for each channel: those of red, green and blue, repeated if there are more channels."""
  return np.array([colours[channel % len(colours)] for channel in range(channels)], np.float32)


def _imagenet(image: Image, batch: Batch, positions: Sequence[int]) -> Image:
  return (image - _in_turn(_TORCH_MEAN, len(positions))) / _in_turn(_TORCH_STD, len(positions))


def _caffe(image: Image, batch: Batch, positions: Sequence[int]) -> Image:
  """Blue, green, red in 0..255, minus their means."""
  return 255 * image[..., ::-1] - _in_turn(_CAFFE_MEAN[::-1], len(positions))


# The normalisation schemes; checkpoints and published weights record theirs.
SCHEMES = {
  "volume": _volume,
  percentiles.NAME: _percentiles,
  "image": _image,
  "unit": _unit,
  "symmetric": _symmetric,
  "imagenet": _imagenet,
  "caffe": _caffe,
}


def resize(
  image: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch {size} {size} channels"]:
  """Resizes linearly, averaging where it shrinks.

  >>> resize(jnp.zeros((1, 4, 4, 3)), 2).shape
  (1, 2, 2, 3)
  """
  if image.shape[1:3] == (size, size):
    return image
  return jax.image.resize(image, (image.shape[0], size, size, image.shape[3]), "linear")


def _white(dtype: np.dtype) -> float:
  """The intensity that becomes 1: the largest value of an integer type, or 255 for the floats of a scan."""
  return float(jnp.iinfo(dtype).max) if jnp.issubdtype(dtype, jnp.integer) else 255.0


def make_preprocess(*, size: int, normalize: str, channels: str, info: DatasetInfo) -> Callable:
  """Makes the function from a batch of stored slices to network inputs and targets.

  Args:
    size: pixels; slices are resized to `size` x `size`.
    normalize: a name of `SCHEMES`. `volume`: z-score with the mean and standard deviation of the slice's own volume, by
      channel. `percentiles`: the same between the 10th and 99th percentile of the volume around the head, see
      `pipeline.percentiles`. `image`: z-score over the slice's own pixels, all channels together. `unit`: 0..1. `symmetric`: -1..1
      (EfficientNet-Lite and RadImageNet). `imagenet` and `caffe`: with the statistics of ImageNet's colours, as the
      weights of torchvision and of Keras expect.
    channels: see `parse_channels`; any number, in any order.
    info: description of the data set.

  Returns:
    `preprocess(batch, augment=None, key=None)` -> (inputs float32 [batch, size, size, channels], masks float32 [batch,
    size, size, classes] in {0, 1}). The image of the batch has the slice's own channels and those of `context_of`. The
    returned masks are None where the batch has none.

  Raises:
    UserError: there is no such scheme or no such channel.
  """
  scheme = choose("data.normalize", normalize, SCHEMES)
  shown = parse_channels(channels, info)
  stored = (*own_channels(info), *context_of(shown, info))
  positions = np.array([stored.index(channel) for channel in shown])
  sequences = [channel.sequence for channel in shown]

  def preprocess(
    batch: Batch,
    augment: Augment | None = None,
    key: jax.Array | None = None,
  ) -> tuple[Image, Masks | None]:
    if augment is not None:
      sequences_key, pixels_key = jax.random.split(key)
      batch = augment.sequences(sequences_key, batch)
    # Augmentation comes before normalisation: it needs intensities in 0..1, where black is 0 and gamma is meaningful.
    image = resize(batch["image"].astype(jnp.float32) / _white(batch["image"].dtype), size)
    mask = resize(batch["mask"].astype(jnp.float32), size) if "mask" in batch else None
    if augment is not None:
      image, mask = augment.pixels(pixels_key, image, mask)
    image = scheme(image[..., positions], batch, sequences)
    return image, None if mask is None else (mask >= 0.5).astype(jnp.float32)

  return preprocess
