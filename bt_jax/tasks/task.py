"""The interface of a task: how a network's outputs, targets, predictions and records belong together."""

import abc
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from bt_jax.datasets.info import DatasetInfo
from bt_jax.evaluation.bootstrap import Numbers
from bt_jax.evaluation.records import Record
from bt_jax.losses import Loss, class_probabilities
from bt_jax.schema import Predicted, Slices, Tumor

Outputs = Any  # the outputs of a network: an array, or a tuple of arrays


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
  """Everything that differs between segmentation and classification.

  Attributes:
    info: description of the data set, with its channels and classes.
    models: the networks for this task, by name.
    losses: the losses for this task, by name.
    scores: dotted names of the statistics of a summary that may choose the best checkpoint; every task also allows
      `loss`.
    headline: the main statistics, shown for subgroups and for validation, from short to dotted name.
    by_patient: the columns of `patients.csv` in which two runs are compared; the first ranks patients.
    predicts_masks: whether a prediction is a mask of each class, rather than a label.
  """

  info: DatasetInfo
  models: ClassVar[dict[str, Callable[..., nn.Module]]]
  losses: ClassVar[dict[str, Loss]]
  scores: ClassVar[tuple[str, ...]]
  headline: ClassVar[dict[str, str]]
  by_patient: ClassVar[tuple[str, ...]]
  predicts_masks: ClassVar[bool]

  @staticmethod
  @abc.abstractmethod
  def check(config: ConfigDict) -> None:
    """Raises UserError if a field of the configuration is for another task."""

  @property
  @abc.abstractmethod
  def outputs(self) -> int:
    """Number of logits of a network's head."""

  @abc.abstractmethod
  def target(
    self, label: Int[Array, " batch"], masks: Float[Array, "batch height width classes"]
  ) -> Float[Array, " batch *_"]:
    """The targets that the loss compares the outputs with."""

  @abc.abstractmethod
  def accuracy(self, outputs: Outputs, targets: Float[Array, " batch *_"]) -> Float[Array, ""]:
    """The share of correct pixels or slices, 0..1."""

  @abc.abstractmethod
  def tumor(self, outputs: Outputs, size: int) -> Tumor:
    """Logits of tumour from a network's outputs, with pixels on the data's own grid of `size` x `size`."""

  @abc.abstractmethod
  def as_outputs(self, logits: Tumor, slice_head: bool) -> Outputs:
    """The inverse of `tumor`: outputs with the same probabilities; `slice_head`: the network has a slice head."""

  @abc.abstractmethod
  def choose_threshold(self, predicted: Iterable[Predicted], largest_component: bool) -> float:
    """The best threshold on these validation slices with probabilities, in chunks of whole volumes."""

  @abc.abstractmethod
  def predict(self, probabilities: Tumor, slices: Slices, threshold: float, largest_component: bool) -> np.ndarray:
    """The predicted mask or label of each slice, bool."""

  @abc.abstractmethod
  def as_predicted(self, masks: Bool[np.ndarray, "n height width"]) -> tuple[Tumor, np.ndarray]:
    """Masks of a single class, such as a baseline's, as probabilities and predictions of this task."""

  @abc.abstractmethod
  def slice_records(
    self, slices: Slices, probabilities: Tumor, predictions: np.ndarray, *, data: str, split: str
  ) -> list[Record]:
    """A record for each slice, and for each class of a mask."""

  @staticmethod
  @abc.abstractmethod
  def patient_records(rows: list[Record]) -> list[Record]:
    """A record for each patient, and for each class of a mask, from the records of slices."""

  @staticmethod
  @abc.abstractmethod
  def summarize(rows: list[Record], *, intervals: bool = False) -> dict[str, Any]:
    """The statistics of the records of slices, with confidence intervals if `intervals`."""

  @staticmethod
  @abc.abstractmethod
  def numbers(rows: list[Record]) -> Numbers:
    """A function that computes the same statistics for any sample of the patients."""

  def probabilities(self, logits: Tumor) -> Tumor:
    """The probabilities for these logits, 0..1."""
    return probabilities(logits, self.info)


def probabilities(logits: Tumor, info: DatasetInfo) -> Tumor:
  """The probabilities for these logits, 0..1: for each class at each pixel, and for any tumour in the slice."""
  pixels = logits.pixels
  if pixels is not None:
    pixels = class_probabilities(pixels, overlapping=info.overlapping)
  return Tumor(pixels, jax.nn.sigmoid(logits.slices))
