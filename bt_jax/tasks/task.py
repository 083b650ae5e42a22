"""What a network is trained for: marking a tumour's pixels, or telling whether a slice has one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bt_jax.losses import CLASSIFICATION_LOSSES, SEGMENTATION_LOSSES, Loss
from bt_jax.models import CLASSIFIERS, SEGMENTERS
from bt_jax.models.lite_unet import MaskAndSlice
from bt_jax.pipeline.preprocess import resize


class Tumor(NamedTuple):
  """Logits, or probabilities, of tumour.

  Attributes:
    pixels: of every pixel; None of a classifier.
    slices: of any tumour in the slice: a classifier's, a segmenter's head for slices, or else its highest pixel.
  """

  pixels: Float[Array, "batch height width"] | None
  slices: Float[Array, "batch"]


class Task(NamedTuple):
  """How a network's outputs, targets and predictions belong together.

  Attributes:
    models: the networks for it, by name.
    losses: the names of its losses.
    target: from labels int32 [batch] and masks [batch, height, width, 1] to what the loss compares with.
    accuracy: from outputs and targets to the share that is right.
    tumor: from outputs and the pixels of the data's own grid to logits, as `Tumor`.
    outputs: from those, and whether the network has a head for slices, back to outputs with the same probabilities.
  """

  models: dict[str, Callable[..., nn.Module]]
  losses: tuple[str, ...]
  target: Callable
  accuracy: Callable
  tumor: Callable
  outputs: Callable


def _mask_target(
  label: Int[Array, "batch"], masks: Float[Array, "batch height width 1"]
) -> Float[Array, "batch height width 1"]:
  return masks


def _pixel_accuracy(
  outputs: Float[Array, "batch height width 1"] | MaskAndSlice, masks: Float[Array, "batch height width 1"]
) -> Float[Array, ""]:
  logits = outputs.mask if isinstance(outputs, MaskAndSlice) else outputs
  return ((logits > 0) == (masks > 0.5)).mean(dtype=jnp.float32)


def _segmented(outputs: Float[Array, "batch height width 1"] | MaskAndSlice, size: int) -> Tumor:
  if isinstance(outputs, MaskAndSlice):
    return Tumor(resize(outputs.mask, size)[..., 0], outputs.slice)
  pixels = resize(outputs, size)[..., 0]
  return Tumor(pixels, pixels.max((1, 2)))


def _segmenter_outputs(logits: Tumor, slice_head: bool) -> Float[Array, "batch height width 1"] | MaskAndSlice:
  mask = logits.pixels[..., None]
  return MaskAndSlice(mask, logits.slices) if slice_head else mask


def _classifier_outputs(logits: Tumor, slice_head: bool) -> Float[Array, "batch classes"]:
  return jnp.stack([jnp.zeros_like(logits.slices), logits.slices], axis=-1)


def _label_target(
  label: Int[Array, "batch"], masks: Float[Array, "batch height width 1"]
) -> Float[Array, "batch classes"]:
  return jax.nn.one_hot(label, 2)


def _slice_accuracy(logits: Float[Array, "batch classes"], shares: Float[Array, "batch classes"]) -> Float[Array, ""]:
  return (logits.argmax(-1) == shares.argmax(-1)).mean(dtype=jnp.float32)


def with_slices(loss: Loss) -> Callable[[MaskAndSlice, Float[Array, "batch height width 1"]], Float[Array, "batch"]]:
  """The loss of masks, plus the binary cross-entropy of whether the mask of the slice, as augmented, has any tumour."""

  def both(outputs: MaskAndSlice, masks: Float[Array, "batch height width 1"]) -> Float[Array, "batch"]:
    label = (masks > 0.5).any((1, 2, 3)).astype(jnp.float32)
    return loss(outputs.mask, masks) + optax.sigmoid_binary_cross_entropy(outputs.slice, label)

  return both


TASKS = {
  "segmentation": Task(
    models=SEGMENTERS,
    losses=SEGMENTATION_LOSSES,
    target=_mask_target,
    accuracy=_pixel_accuracy,
    tumor=_segmented,
    outputs=_segmenter_outputs,
  ),
  # softmax([no, yes]) = sigmoid(yes - no)
  "classification": Task(
    models=CLASSIFIERS,
    losses=CLASSIFICATION_LOSSES,
    target=_label_target,
    accuracy=_slice_accuracy,
    tumor=lambda outputs, size: Tumor(None, outputs[:, 1] - outputs[:, 0]),
    outputs=_classifier_outputs,
  ),
}
