"""Segmentation: a network marks the pixels of a tumour."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bt_jax.evaluation import aggregation, postprocess, records
from bt_jax.losses import SEGMENTATION_LOSSES, Loss
from bt_jax.models import SEGMENTERS
from bt_jax.models.lite_unet import MaskAndSlice
from bt_jax.pipeline.preprocess import resize
from bt_jax.schema import Tumor
from bt_jax.tasks.task import Task

Masks = Float[Array, "batch height width 1"]


def _target(label: Int[Array, "batch"], masks: Masks) -> Masks:
  return masks


def _accuracy(outputs: Masks | MaskAndSlice, masks: Masks) -> Float[Array, ""]:
  logits = outputs.mask if isinstance(outputs, MaskAndSlice) else outputs
  return ((logits > 0) == (masks > 0.5)).mean(dtype=jnp.float32)


def _tumor(outputs: Masks | MaskAndSlice, size: int) -> Tumor:
  if isinstance(outputs, MaskAndSlice):
    return Tumor(resize(outputs.mask, size)[..., 0], outputs.slice)
  pixels = resize(outputs, size)[..., 0]
  return Tumor(pixels, pixels.max((1, 2)))


def _outputs(logits: Tumor, slice_head: bool) -> Masks | MaskAndSlice:
  mask = logits.pixels[..., None]
  return MaskAndSlice(mask, logits.slices) if slice_head else mask


def with_slices(loss: Loss) -> Callable[[MaskAndSlice, Masks], Float[Array, "batch"]]:
  """The loss of masks, plus the binary cross-entropy of whether the mask of the slice, as augmented, has any tumour."""

  def both(outputs: MaskAndSlice, masks: Masks) -> Float[Array, "batch"]:
    label = (masks > 0.5).any((1, 2, 3)).astype(jnp.float32)
    return loss(outputs.mask, masks) + optax.sigmoid_binary_cross_entropy(outputs.slice, label)

  return both


SEGMENTATION = Task(
  models=SEGMENTERS,
  losses=SEGMENTATION_LOSSES,
  target=_target,
  accuracy=_accuracy,
  tumor=_tumor,
  outputs=_outputs,
  scores=aggregation.SCORES,
  headline={
    "pooled_dice": "pooled.dice",
    "dice_mean": "patient.dice_mean",
    "dice_median": "patient.dice_median",
    "sensitivity": "detection.sensitivity",
    "false_positive_rate": "detection.false_positive_rate",
  },
  choose_threshold=lambda probabilities, slices, largest: postprocess.choose_threshold(
    probabilities.pixels, slices, largest_component=largest
  ),
  predict=lambda probabilities, slices, threshold, largest: postprocess.predict_masks(
    probabilities.pixels, slices, threshold=threshold, largest_component=largest
  ),
  slice_records=lambda slices, probabilities, masks, **names: records.slice_records(
    slices, probabilities.slices, masks, **names
  ),
  patient_records=records.patient_records,
  summarize=aggregation.summarize,
  numbers=aggregation.numbers_of,
  by_patient=("dice", "iou", "precision", "recall", "hd95", "assd"),
)
