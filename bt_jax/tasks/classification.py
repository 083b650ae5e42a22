"""Classification: a network predicts whether a slice has any tumour."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from bt_jax.errors import UserError
from bt_jax.evaluation import class_statistics
from bt_jax.evaluation.bootstrap import Numbers
from bt_jax.evaluation.records import Record
from bt_jax.losses import CLASSIFICATION_LOSSES
from bt_jax.models import CLASSIFIERS
from bt_jax.schema import Predicted, Slices, Tumor
from bt_jax.tasks.task import Task

Classes = Float[Array, "batch classes"]


class Classification(Task):
  """Two classes: no tumour, or a tumour of any class."""

  models = CLASSIFIERS
  losses = CLASSIFICATION_LOSSES
  scores = class_statistics.SCORES
  headline = {
    "accuracy": "accuracy",
    "roc_auc": "roc_auc",
    "sensitivity": "per_class.tumor.recall",
    "specificity": "specificity",
  }
  by_patient = ("accuracy",)
  predicts_masks = False

  @staticmethod
  def check(config: ConfigDict) -> None:
    if config.train.sampling == "tumor":
      raise UserError("train.sampling=tumor leaves a classifier one class only: take balanced or all")
    if config.eval.largest_component:
      raise UserError("eval.largest_component is for segmentation: leave it out")

  @property
  def outputs(self) -> int:
    return len(class_statistics.CLASSES)

  def target(self, label: Int[Array, " batch"], masks: Float[Array, "batch height width _"]) -> Classes:
    return jax.nn.one_hot(label, self.outputs)

  def accuracy(self, outputs: Classes, targets: Classes) -> Float[Array, ""]:
    return (outputs.argmax(-1) == targets.argmax(-1)).mean(dtype=jnp.float32)

  def tumor(self, outputs: Classes, size: int) -> Tumor:
    no_tumor, tumor = outputs.T
    return Tumor(None, tumor - no_tumor)  # softmax([no, yes]) = sigmoid(yes - no)

  def as_outputs(self, logits: Tumor, slice_head: bool) -> Classes:
    return jnp.stack([jnp.zeros_like(logits.slices), logits.slices], axis=-1)

  def choose_threshold(self, predicted: Iterable[Predicted], largest_component: bool) -> float:
    pairs = [(tumor.slices, slices.label) for slices, tumor in predicted]
    return class_statistics.choose_threshold(*map(np.concatenate, zip(*pairs, strict=True)))

  def predict(self, probabilities: Tumor, slices: Slices, threshold: float, largest_component: bool) -> np.ndarray:
    return probabilities.slices >= threshold

  def as_predicted(self, masks: Bool[np.ndarray, "n height width"]) -> tuple[Tumor, np.ndarray]:
    labels = masks.any((1, 2))
    return Tumor(None, labels.astype(np.float32)), labels

  def slice_records(
    self, slices: Slices, probabilities: Tumor, predictions: np.ndarray, *, data: str, split: str
  ) -> list[Record]:
    return class_statistics.class_rows(slices, probabilities.slices, predictions, data=data, split=split)

  @staticmethod
  def patient_records(rows: list[Record]) -> list[Record]:
    return class_statistics.patient_class_rows(rows)

  @staticmethod
  def summarize(rows: list[Record], *, intervals: bool = False) -> dict[str, Any]:
    return class_statistics.summarize_classes(rows, intervals=intervals)

  @staticmethod
  def numbers(rows: list[Record]) -> Numbers:
    return class_statistics.numbers_of(rows)
