"""What a network is trained for: marking a tumour's pixels, or telling whether a slice has one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bt_jax.losses import CLASSIFICATION_LOSSES, SEGMENTATION_LOSSES
from bt_jax.models import CLASSIFIERS, SEGMENTERS
from bt_jax.pipeline.preprocess import resize


class Task(NamedTuple):
  """How a network's outputs, targets and predictions belong together.

  Attributes:
    models: the networks for it, by name.
    losses: the names of its losses.
    target: from labels int32 [batch] and masks [batch, height, width, 1] to what the loss compares with.
    accuracy: from outputs and targets to the share that is right.
    tumor_logits: from outputs and the pixels of the data's own grid to logits of tumour.
    outputs: from logits of tumour back to outputs with the same probabilities.
  """

  models: dict[str, Callable[..., nn.Module]]
  losses: tuple[str, ...]
  target: Callable
  accuracy: Callable
  tumor_logits: Callable
  outputs: Callable


def _mask_target(
  label: Int[Array, "batch"], masks: Float[Array, "batch height width 1"]
) -> Float[Array, "batch height width 1"]:
  return masks


def _pixel_accuracy(
  logits: Float[Array, "batch height width 1"], masks: Float[Array, "batch height width 1"]
) -> Float[Array, ""]:
  return ((logits > 0) == (masks > 0.5)).mean(dtype=jnp.float32)


def _label_target(
  label: Int[Array, "batch"], masks: Float[Array, "batch height width 1"]
) -> Float[Array, "batch classes"]:
  return jax.nn.one_hot(label, 2)


def _slice_accuracy(logits: Float[Array, "batch classes"], shares: Float[Array, "batch classes"]) -> Float[Array, ""]:
  return (logits.argmax(-1) == shares.argmax(-1)).mean(dtype=jnp.float32)


TASKS = {
  "segmentation": Task(
    models=SEGMENTERS,
    losses=SEGMENTATION_LOSSES,
    target=_mask_target,
    accuracy=_pixel_accuracy,
    tumor_logits=lambda outputs, size: resize(outputs, size)[..., 0],
    outputs=lambda logits: logits[..., None],
  ),
  # softmax([no, yes]) = sigmoid(yes - no)
  "classification": Task(
    models=CLASSIFIERS,
    losses=CLASSIFICATION_LOSSES,
    target=_label_target,
    accuracy=_slice_accuracy,
    tumor_logits=lambda outputs, size: outputs[:, 1] - outputs[:, 0],
    outputs=lambda logits: jnp.stack([jnp.zeros_like(logits), logits], axis=-1),
  ),
}
