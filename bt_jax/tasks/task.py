"""What a task is: how a network's outputs, targets, predictions and records belong together."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bt_jax.datasets.info import DatasetInfo
from bt_jax.evaluation.bootstrap import Numbers
from bt_jax.evaluation.records import Record
from bt_jax.losses import Loss, class_probabilities
from bt_jax.schema import Slices, Tumor

Outputs = Any  # of a network: an array, or a tuple of them


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
  """Everything that differs between segmentation and classification.

  Attributes:
    info: of the data set, with its channels and classes.
    models: the networks for it, by name.
    losses: for it, by name.
    scores: the statistics of a summary that may choose the best checkpoint, by dotted name; `loss` may too, for every task.
    headline: those that stand for it in subgroups and lines of progress, by dotted name, with a short name each.
    by_patient: the columns of `patients.csv` in which two runs are compared.
  """

  info: DatasetInfo
  models: ClassVar[dict[str, Callable[..., nn.Module]]]
  losses: ClassVar[dict[str, Loss]]
  scores: ClassVar[tuple[str, ...]]
  headline: ClassVar[dict[str, str]]
  by_patient: ClassVar[tuple[str, ...]]

  @property
  @abc.abstractmethod
  def outputs(self) -> int:
    """Logits of a network's head."""

  @abc.abstractmethod
  def target(
    self, label: Int[Array, "batch"], masks: Float[Array, "batch height width classes"]
  ) -> Float[Array, "batch *_"]:
    """What the loss compares outputs with."""

  @abc.abstractmethod
  def accuracy(self, outputs: Outputs, targets: Float[Array, "batch *_"]) -> Float[Array, ""]:
    """The share that is right."""

  @abc.abstractmethod
  def tumor(self, outputs: Outputs, size: int) -> Tumor:
    """Logits, those of pixels on the data's own grid of `size` x `size`."""

  @abc.abstractmethod
  def as_outputs(self, logits: Tumor, slice_head: bool) -> Outputs:
    """Outputs with the same probabilities; `slice_head`: of a network that has a head for slices."""

  @abc.abstractmethod
  def choose_threshold(self, probabilities: Tumor, slices: Slices, largest_component: bool) -> float:
    """The best one on these slices, of validation."""

  @abc.abstractmethod
  def predict(self, probabilities: Tumor, slices: Slices, threshold: float, largest_component: bool) -> np.ndarray:
    """What is predicted of each slice, bool."""

  @abc.abstractmethod
  def slice_records(
    self, slices: Slices, probabilities: Tumor, predictions: np.ndarray, *, data: str, split: str
  ) -> list[Record]:
    """A record for each slice, and class of a mask."""

  @staticmethod
  @abc.abstractmethod
  def patient_records(rows: list[Record]) -> list[Record]:
    """A record for each patient, and class of a mask, from those of slices."""

  @staticmethod
  @abc.abstractmethod
  def summarize(rows: list[Record], *, intervals: bool = False) -> dict[str, Any]:
    """The statistics of records of slices; if asked, with their intervals."""

  @staticmethod
  @abc.abstractmethod
  def numbers(rows: list[Record]) -> Numbers:
    """The same statistics of any sample of the patients."""

  def probabilities(self, logits: Tumor) -> Tumor:
    """Of logits, 0..1."""
    return probabilities(logits, self.info)


def probabilities(logits: Tumor, info: DatasetInfo) -> Tumor:
  """Probabilities of logits, 0..1: of pixels by class, and of any tumour in the slice."""
  pixels = logits.pixels
  if pixels is not None:
    pixels = class_probabilities(pixels, overlapping=info.overlapping)
  return Tumor(pixels, jax.nn.sigmoid(logits.slices))
