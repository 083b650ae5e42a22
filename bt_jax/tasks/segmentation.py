"""Segmentation: a network segments each class of tumour."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from bt_jax.errors import UserError
from bt_jax.evaluation import aggregation, postprocess, records
from bt_jax.evaluation.bootstrap import Numbers
from bt_jax.evaluation.records import Record
from bt_jax.losses import SEGMENTATION_LOSSES, Loss
from bt_jax.models import SEGMENTERS
from bt_jax.models.lite_unet import MaskAndSlice
from bt_jax.pipeline.preprocess import resize
from bt_jax.schema import Predicted, Slices, Tumor
from bt_jax.tasks.task import Task

Masks = Float[Array, "batch height width classes"]


class Segmentation(Task):
  """One class, or several classes that are mutually exclusive or overlap."""

  models = SEGMENTERS
  losses = SEGMENTATION_LOSSES
  scores = aggregation.SCORES
  headline = {
    "pooled_dice": "pooled.dice",
    "dice_mean": "patient.dice_mean",
    "dice_median": "patient.dice_median",
    "sensitivity": "detection.sensitivity",
    "false_positive_rate": "detection.false_positive_rate",
  }
  by_patient = ("dice", "iou", "precision", "recall", "hd95", "assd")
  predicts_masks = True

  @staticmethod
  def check(config: ConfigDict) -> None:
    if config.train.mixup or config.train.class_weights != "none":
      raise UserError(
        "train.mixup and train.class_weights are for classification: leave them out, or try train.sampling"
      )

  @property
  def outputs(self) -> int:
    return len(self.info.classes)

  def target(self, label: Int[Array, " batch"], masks: Masks) -> Masks:
    return masks

  def accuracy(self, outputs: Masks | MaskAndSlice, targets: Masks) -> Float[Array, ""]:
    logits = outputs.mask if isinstance(outputs, MaskAndSlice) else outputs
    predicted = logits > 0
    if not self._sigmoid:
      likeliest = logits.argmax(-1)[..., None] == jnp.arange(self.outputs)
      predicted = likeliest & (self._of_any(logits) > 0)[..., None]
    return (predicted == (targets > 0.5)).mean(dtype=jnp.float32)

  def tumor(self, outputs: Masks | MaskAndSlice, size: int) -> Tumor:
    if isinstance(outputs, MaskAndSlice):
      return Tumor(resize(outputs.mask, size), outputs.slice)
    pixels = resize(outputs, size)
    return Tumor(pixels, self._of_any(pixels).max((1, 2)))

  @property
  def _sigmoid(self) -> bool:
    """Whether each class has a probability of its own, see `class_probabilities`."""
    return self.info.overlapping or self.outputs == 1

  def _of_any(self, pixels: Masks) -> Float[Array, "batch height width"]:
    """Log-odds of any class: the log-sum-exp if classes are mutually exclusive, as the background's logit is 0."""
    return pixels.max(-1) if self._sigmoid else jax.nn.logsumexp(pixels, axis=-1)

  def as_outputs(self, logits: Tumor, slice_head: bool) -> Masks | MaskAndSlice:
    return MaskAndSlice(logits.pixels, logits.slices) if slice_head else logits.pixels

  def choose_threshold(self, predicted: Iterable[Predicted], largest_component: bool) -> float:
    return postprocess.choose_threshold(
      predicted, largest_component=largest_component, overlapping=self.info.overlapping
    )

  def predict(self, probabilities: Tumor, slices: Slices, threshold: float, largest_component: bool) -> np.ndarray:
    return postprocess.predict_masks(
      probabilities.pixels,
      slices,
      threshold=threshold,
      largest_component=largest_component,
      overlapping=self.info.overlapping,
    )

  def as_predicted(self, masks: Bool[np.ndarray, "n height width"]) -> tuple[Tumor, np.ndarray]:
    return Tumor(masks[..., None].astype(np.float32), masks.any((1, 2)).astype(np.float32)), masks[..., None]

  def slice_records(
    self, slices: Slices, probabilities: Tumor, predictions: np.ndarray, *, data: str, split: str
  ) -> list[Record]:
    return records.slice_records(
      slices, probabilities.slices, predictions, data=data, split=split, classes=self.info.classes
    )

  @staticmethod
  def patient_records(rows: list[Record]) -> list[Record]:
    return records.patient_records(rows)

  @staticmethod
  def summarize(rows: list[Record], *, intervals: bool = False) -> dict[str, Any]:
    return aggregation.summarize(rows, intervals=intervals)

  @staticmethod
  def numbers(rows: list[Record]) -> Numbers:
    return aggregation.numbers_of(rows)


def with_slices(loss: Loss) -> Callable[[MaskAndSlice, Masks], Float[Array, " batch"]]:
  """The loss of masks plus binary cross-entropy of the slice head, whose target is any tumour in the augmented mask."""

  def both(outputs: MaskAndSlice, masks: Masks) -> Float[Array, " batch"]:
    label = (masks > 0.5).any((1, 2, 3)).astype(jnp.float32)
    return loss(outputs.mask, masks) + optax.sigmoid_binary_cross_entropy(outputs.slice, label)

  return both
