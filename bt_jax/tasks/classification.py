"""Classification: a network says whether a slice has any tumour."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bt_jax.evaluation import class_statistics
from bt_jax.losses import CLASSIFICATION_LOSSES
from bt_jax.models import CLASSIFIERS
from bt_jax.schema import Tumor
from bt_jax.tasks.task import Task

Classes = Float[Array, "batch classes"]


def _target(label: Int[Array, "batch"], masks: Float[Array, "batch height width 1"]) -> Classes:
  return jax.nn.one_hot(label, 2)


def _accuracy(logits: Classes, shares: Classes) -> Float[Array, ""]:
  return (logits.argmax(-1) == shares.argmax(-1)).mean(dtype=jnp.float32)


def _tumor(outputs: Classes, size: int) -> Tumor:
  """As softmax([no, yes]) = sigmoid(yes - no)."""
  return Tumor(None, outputs[:, 1] - outputs[:, 0])


def _outputs(logits: Tumor, slice_head: bool) -> Classes:
  return jnp.stack([jnp.zeros_like(logits.slices), logits.slices], axis=-1)


CLASSIFICATION = Task(
  models=CLASSIFIERS,
  losses=CLASSIFICATION_LOSSES,
  target=_target,
  accuracy=_accuracy,
  tumor=_tumor,
  outputs=_outputs,
  scores=class_statistics.SCORES,
  headline={
    "accuracy": "accuracy",
    "roc_auc": "roc_auc",
    "sensitivity": "per_class.tumor.recall",
    "specificity": "specificity",
  },
  choose_threshold=lambda probabilities, slices, largest: class_statistics.choose_threshold(
    probabilities.slices, slices.label
  ),
  predict=lambda probabilities, slices, threshold, largest: probabilities.slices >= threshold,
  slice_records=lambda slices, probabilities, predictions, **names: class_statistics.class_rows(
    slices, probabilities.slices, predictions, **names
  ),
  patient_records=class_statistics.patient_class_rows,
  summarize=class_statistics.summarize_classes,
  numbers=class_statistics.numbers_of,
  by_patient=("accuracy",),
)
