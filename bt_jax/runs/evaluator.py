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
from bt_jax.runs import prediction, restoring
from bt_jax.runs.components import Components
from bt_jax.runs.provenance import devices, provenance
from bt_jax.runs.run_data import Data
from bt_jax.schema import Slices, Tumor
from bt_jax.training import loop
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.training.train_state import PyTree


class Evaluation(NamedTuple):
  """The results of an evaluation.

  Attributes:
    slices: the test slices.
    predictions: the predictions for them, see `Task.predict`.
    tables: the records of the predictions and of the baselines.
    about: all other facts about the run for `summary.json`.
    history: one row for each epoch of training.
  """

  slices: Slices
  predictions: np.ndarray
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
) -> Evaluation | None:
  """Evaluates the best checkpoint of the run in `workdir`; returns None on all hosts but the first.

  Args:
    config: configuration of the run.
    workdir: folder of the run.
    components: components made from the configuration.
    data: data of the run.
    baselines: maps test slices to the predicted masks of each baseline, by name.

  Raises:
    UserError: there is no best checkpoint, or it is not that of the best epoch.
  """
  variables, record = restoring.restore_best(config, workdir, components)
  history = _history(workdir, record)
  predict = functools.partial(_probabilities, config, components, variables)
  validation, test = ((slices, predict(slices)) for slices in (data.read("validation"), data.read("test")))
  reference_only = predict(test[0], reference_only=True) if config.eval.flair_only else None
  if test[0].ids != list(data.split.test):
    raise RuntimeError("the slices read are not those of the split")
  if not hosts.is_first():
    return None
  task, largest, threshold = components.task, config.eval.largest_component, config.eval.threshold
  gate = prediction.choose_gate(config, validation[1], validation[0])
  validation, test = ((slices, prediction.gated(tumor, gate)) for slices, tumor in (validation, test))
  chosen = threshold is None
  if chosen:
    threshold = task.choose_threshold(validation[1], validation[0], largest)
  decide = lambda slices, tumor: task.predict(tumor, slices, threshold, largest)
  validation_records = task.slice_records(*validation, decide(*validation), **_names(data))
  predictions, temperatures = decide(*test), _temperatures(*validation)
  others = {name: task.as_predicted(masks) for name, masks in baselines(test[0]).items()}
  if reference_only is not None:
    reference_only = prediction.gated(reference_only, gate)
    others[f"{components.info.reference}_only"] = reference_only, decide(test[0], reference_only)
  about = {
    **data.names,
    "synthetic": data.builder.builder_config.synthetic,
    "split_hash": data.split.hash,
    "parts": {subset: len(getattr(data.split, subset)) for subset in splits.SUBSETS},
    "task": config.task,
    "info": components.info.to_json(),
    "model": config.model.name,
    "normalize": components.normalize,
    "threshold": threshold,
    "threshold_from": "chosen on the validation set" if chosen else "from the configuration",
    "slice_gate": gate,
    "largest_component": largest,
    "mirror": config.eval.mirror,
    "temperatures": temperatures,
    # For choices between runs, which must not use the test set.
    "validation": {short: score_of(task.summarize(validation_records), name) for short, name in task.headline.items()},
    "checkpoint": {"step": record["step"], "arrays_sha256": record["arrays_sha256"]},
    "epochs": {"trained": history[-1]["epoch"], "planned": config.train.epochs},
    "seconds": _seconds(config, history),
    "devices": devices(),
    **provenance(),
  }
  tables = _tables(config, components, data, test, predictions, temperatures, others)
  return Evaluation(test[0], predictions, tables, about, history)


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


def _temperatures(slices: Slices, probabilities: Tumor) -> dict[str, float]:
  """The temperatures fitted on the validation set: one for slices and, for a segmenter, one for pixels."""
  temperatures = {"slices": calibration.fit_temperature(probabilities.slices, slices.label)}
  if probabilities.pixels is not None:
    temperatures["pixels"] = calibration.fit_temperature(probabilities.pixels.ravel(), slices.mask.ravel())
  return temperatures


def _tables(
  config: ConfigDict,
  components: Components,
  data: Data,
  test: tuple[Slices, Tumor],
  predictions: np.ndarray,
  temperatures: dict[str, float],
  others: dict[str, tuple[Tumor, np.ndarray]],
) -> Tables:
  slices, probabilities = test
  task, names = components.task, _names(data)
  rows = task.slice_records(slices, probabilities, predictions, **names)
  calibrated = calibration.calibrate(np.array([row["probability"] for row in rows]), temperatures["slices"])
  rows = [row | {calibration.CALIBRATED: value.item()} for row, value in zip(rows, calibrated, strict=True)]
  known = data.source.read_patients(data.builder, set(slices.patient.tolist()))
  whole = {}
  if not data.split.leaky:
    classes = components.info.classes
    whole = volume_columns(
      slices,
      predictions if task.predicts_masks else None,
      spacing_mm=data.source.read_spacings(data.builder),
      classes=classes,
    )
  return Tables(
    slices=rows,
    patients=[
      row | whole.get((row["patient"], row.get("class")), {}) | known[row["patient"]] for row in task.patient_records(rows)
    ],
    reliability=(
      calibration.pixel_rows(slices, probabilities.pixels, temperatures["pixels"], **names) if "pixels" in temperatures else []
    ),
    baselines=[
      {"baseline": name, **row}
      for name, predicted in others.items()
      for row in task.slice_records(slices, *predicted, **names)
    ],
  )  # fmt: skip


def _names(data: Data) -> dict[str, str]:
  return {"data": data.title, "split": data.split.name}


def _seconds(config: ConfigDict, history: list[Record]) -> float:
  """Seconds of training, without validation and compilation."""
  starts = [0, *(row["step"] for row in history)]
  slices = np.diff(starts) * config.train.batch_size
  return float(sum(slices / [row["slices_per_second"] for row in history]))
