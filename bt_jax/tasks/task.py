"""What a task is: how a network's outputs, targets, predictions and records belong together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from bt_jax.evaluation.bootstrap import Numbers
from bt_jax.evaluation.records import Record
from bt_jax.schema import Slices, Tumor


class Task(NamedTuple):
  """Everything that differs between segmentation and classification.

  Attributes:
    models: the networks for it, by name.
    losses: the names of its losses.
    target: from labels int32 [batch] and masks [batch, height, width, 1] to what the loss compares with.
    accuracy: from outputs and targets to the share that is right.
    tumor: from outputs and the pixels of the data's own grid to logits, as `Tumor`.
    outputs: from those, and whether the network has a head for slices, back to outputs with the same probabilities.
    scores: the statistics of a summary that may choose the best checkpoint, by dotted name; `loss` may too, for every task.
    headline: those that stand for it in subgroups and lines of progress, by dotted name, with a short name each.
    choose_threshold: the best one for (probabilities, slices, largest_component).
    predict: from (probabilities, slices, threshold, largest_component) to what is predicted.
    slice_records: from (slices, probabilities, predictions, data=, split=) to a record for each slice.
    patient_records: from those to a record for each patient.
    summarize: from records of slices to the statistics; with `intervals=True`, to their intervals too.
    numbers: from records of slices to the same statistics of any sample of the patients.
    by_patient: the columns of `patients.csv` in which two runs are compared.
  """

  models: dict[str, Callable[..., nn.Module]]
  losses: tuple[str, ...]
  target: Callable
  accuracy: Callable
  tumor: Callable
  outputs: Callable
  scores: tuple[str, ...]
  headline: dict[str, str]
  choose_threshold: Callable[[Tumor, Slices, bool], float]
  predict: Callable[[Tumor, Slices, float, bool], np.ndarray]
  slice_records: Callable[..., list[Record]]
  patient_records: Callable[[list[Record]], list[Record]]
  summarize: Callable[..., dict[str, Any]]
  numbers: Callable[[list[Record]], Numbers]
  by_patient: tuple[str, ...]
