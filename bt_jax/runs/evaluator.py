"""Evaluates a run's best checkpoint on the test set: its records, and those of the baselines."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from bt_jax.datasets import splits
from bt_jax.datasets.channels import context_of
from bt_jax.distributed import hosts
from bt_jax.errors import UserError
from bt_jax.evaluation import calibration
from bt_jax.evaluation.aggregation import score_of
from bt_jax.evaluation.record_tables import Tables
from bt_jax.evaluation.records import Record
from bt_jax.evaluation.volumes import volume_columns
from bt_jax.pipeline import missing_sequences
from bt_jax.runs import chunks, prediction, restoring
from bt_jax.runs.components import Components
from bt_jax.runs.provenance import devices, provenance
from bt_jax.runs.run_data import Data
from bt_jax.schema import Predicted, Slices, Tumor
from bt_jax.training import loop
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.training.train_state import PyTree


class Evaluation(NamedTuple):
  """The results of an evaluation.

  Attributes:
    tables: the records of the predictions and of the baselines.
    about: all other facts about the run for `summary.json`.
    history: one row for each epoch of training.
  """

  tables: Tables
  about: dict[str, Any]
  history: list[Record]


def evaluate_best(
  config: ConfigDict,
  workdir: pathlib.Path,
  components: Components,
  data: Data,
  *,
  baselines: Callable[[Slices], dict[str, np.ndarray]],
  save: Callable[[Slices, np.ndarray], object],
) -> Evaluation | None:
  """Evaluates the best checkpoint of the run in `workdir`; returns None on all hosts but the first.

  Args:
    config: configuration of the run.
    workdir: folder of the run.
    components: components made from the configuration.
    data: data of the run.
    baselines: maps test slices to the predicted masks of each baseline, by name.
    save: called with test slices and the predictions for them, see `Task.predict`, some patients at a time.

  Raises:
    UserError: there is no best checkpoint, or it is not that of the best epoch.
  """
  variables, record = restoring.restore_best(config, workdir, components)
  history = _history(workdir, record)
  predict = functools.partial(_probabilities, config, components, variables)
  decision, numbers = _decide(config, components, data, predict)
  tables = _Records(config, components, data, decision)
  for slices in chunks.read(data, "test"):
    tumor = predict(slices)
    reference_only = predict(slices, reference_only=True) if config.eval.flair_only else None
    if hosts.is_first():
      save(slices, tables.add(slices, tumor, reference_only, baselines(slices)))
  if not hosts.is_first():
    return None
  about = {
    **data.names,
    "synthetic": data.builder.builder_config.synthetic,
    "split_hash": data.split.hash,
    "parts": {subset: len(getattr(data.split, subset)) for subset in splits.SUBSETS},
    "task": config.task,
    "info": components.info.to_json(),
    "model": config.model.name,
    "normalize": components.normalize,
    "threshold": decision.threshold,
    "threshold_from": "chosen on the validation set" if config.eval.threshold is None else "from the configuration",
    "slice_gate": decision.gate,
    "largest_component": config.eval.largest_component,
    "mirror": config.eval.mirror,
    "temperatures": decision.temperatures,
    # For choices between runs, which must not use the test set.
    "validation": numbers,
    "checkpoint": {"step": record["step"], "arrays_sha256": record["arrays_sha256"]},
    "epochs": {"trained": history[-1]["epoch"], "planned": config.train.epochs},
    "seconds": _seconds(config, history),
    "devices": devices(),
    **provenance(),
  }
  return Evaluation(tables.tables(), about, history)


def _history(workdir: pathlib.Path, record: dict[str, Any]) -> list[Record]:
  """The history of the whole training; the history in the best checkpoint's record ends with its own epoch."""
  latest = Checkpoints(workdir / "checkpoints" / "latest")
  history = (latest.restore() or (None, record))[1]["history"]
  latest.close()
  if (row := loop.best_row(history)) and record["step"] < row["step"]:
    raise UserError(
      f"{workdir / 'checkpoints' / 'best'} holds step {record['step']}, and the best of this run is step {row['step']}: put it "
      f"back from a copy, or remove {workdir / 'checkpoints'} and train again from the start",
      "mode=train",
    )
  return history


def _probabilities(
  config: ConfigDict, components: Components, variables: PyTree, slices: Slices, *, reference_only: bool = False
) -> Tumor:
  """Probabilities of tumour, with `reference_only` from the reference only; averaged over mirrored slices if configured."""
  context = context_of(components.channels, components.info)
  alone = functools.partial(missing_sequences.reference_alone, context=context, info=components.info)
  stand_in = alone if reference_only else lambda batch: batch
  of = functools.partial(prediction.predict, config, components, variables, slices)
  probabilities = prediction.probabilities(components, of(change=stand_in))
  if not config.eval.mirror:
    return probabilities
  mirrored = lambda batch: {**stand_in(batch), "image": stand_in(batch)["image"][:, :, ::-1]}
  others = prediction.probabilities(components, of(change=mirrored))
  pixels = None if others.pixels is None else others.pixels[:, :, ::-1]
  return jax.tree.map(lambda one, other: (one + other) / 2, probabilities, others._replace(pixels=pixels))


class _Decision(NamedTuple):
  """What predictions are made with, chosen and fitted on the validation set.

  Attributes:
    gate: see `prediction.choose_gate`.
    threshold: probability from which a pixel or slice counts as tumour.
    temperatures: one for slices and, for a segmenter, one for pixels.
  """

  gate: float | None
  threshold: float
  temperatures: dict[str, float]


def _decide(
  config: ConfigDict, components: Components, data: Data, predict: Callable[[Slices], Tumor]
) -> tuple[_Decision, dict[str, float | None]]:
  """The decision, and the headline statistics of the validation set with it."""
  task, largest, threshold = components.task, config.eval.largest_component, config.eval.threshold
  validation = chunks.read(data, "validation").map(lambda slices: Predicted(slices, predict(slices)))
  gate = prediction.choose_gate(config, validation)
  gated = validation.map(lambda of: of._replace(tumor=prediction.gated(of.tumor, gate)))
  if threshold is None:
    threshold = task.choose_threshold(gated, largest)
  rows, of_slices, pixels = [], [], calibration.PixelCounts()
  for slices, tumor in gated:
    rows += task.slice_records(slices, tumor, task.predict(tumor, slices, threshold, largest), **_names(data))
    of_slices.append((tumor.slices, slices.label))
    if tumor.pixels is not None:
      pixels.add(slices, tumor.pixels)
  temperatures = {"slices": calibration.fit_temperature(*map(np.concatenate, zip(*of_slices, strict=True)))}
  if task.predicts_masks:
    temperatures["pixels"] = pixels.temperature()
  summary = task.summarize(chunks.in_order(rows, data.split.validation))
  numbers = {short: score_of(summary, name) for short, name in task.headline.items()}
  return _Decision(gate, threshold, temperatures), numbers


class _Records:
  """Collects the records of the test set, some patients at a time."""

  def __init__(self, config: ConfigDict, components: Components, data: Data, decision: _Decision):
    self._config, self._components, self._data, self._decision = config, components, data, decision
    self._spacing_mm = {} if data.split.leaky else data.source.read_spacings(data.builder)
    self._rows: list[Record] = []
    self._reliability: list[Record] = []
    self._others: dict[str, list[Record]] = {}
    self._whole: dict[tuple[str, str | None], Record] = {}

  def add(
    self, slices: Slices, tumor: Tumor, reference_only: Tumor | None, baselines: dict[str, np.ndarray]
  ) -> np.ndarray:
    """Adds the records of these slices, which are all test slices of their patients; returns the predictions for them.

    Args:
      slices: the slices.
      tumor: probabilities.
      reference_only: probabilities by the reference channel alone; None if they are not configured.
      baselines: predicted masks of each baseline, by name.
    """
    task = self._components.task
    records = functools.partial(task.slice_records, slices, **_names(self._data))
    tumor, predictions = self._predictions(slices, tumor)
    self._rows += records(tumor, predictions)
    others = {name: task.as_predicted(masks) for name, masks in baselines.items()}
    if reference_only is not None:
      others[f"{self._components.info.reference}_only"] = self._predictions(slices, reference_only)
    for name, predicted in others.items():
      self._others.setdefault(name, []).extend({"baseline": name, **row} for row in records(*predicted))
    if task.predicts_masks:
      temperature = self._decision.temperatures["pixels"]
      self._reliability += calibration.pixel_rows(slices, tumor.pixels, temperature, **_names(self._data))
    if not self._data.split.leaky:
      self._whole |= volume_columns(
        slices,
        predictions if task.predicts_masks else None,
        spacing_mm=self._spacing_mm,
        classes=self._components.info.classes,
      )
    return predictions

  def _predictions(self, slices: Slices, tumor: Tumor) -> tuple[Tumor, np.ndarray]:
    """The gated probabilities, and the predictions by them."""
    tumor = prediction.gated(tumor, self._decision.gate)
    largest = self._config.eval.largest_component
    return tumor, self._components.task.predict(tumor, slices, self._decision.threshold, largest)

  def tables(self) -> Tables:
    """The tables of all slices that were added."""
    test, source = self._data.split.test, self._data.source
    rows = chunks.in_order(self._rows, test)
    probability = np.array([row["probability"] for row in rows])
    calibrated = calibration.calibrate(probability, self._decision.temperatures["slices"])
    rows = [row | {calibration.CALIBRATED: value.item()} for row, value in zip(rows, calibrated, strict=True)]
    known = source.read_patients(self._data.builder, {row["patient"] for row in rows})
    return Tables(
      slices=rows,
      patients=[
        row | self._whole.get((row["patient"], row.get("class")), {}) | known[row["patient"]]
        for row in self._components.task.patient_records(rows)
      ],
      reliability=self._reliability,
      baselines=[row for of_one in self._others.values() for row in chunks.in_order(of_one, test)],
    )


def _names(data: Data) -> dict[str, str]:
  return {"data": data.title, "split": data.split.name}


def _seconds(config: ConfigDict, history: list[Record]) -> float:
  """Seconds of training, without validation and compilation."""
  starts = [0, *(row["step"] for row in history)]
  slices = np.diff(starts) * config.train.batch_size
  return float(sum(slices / [row["slices_per_second"] for row in history]))
