"""A run's best checkpoint, judged on the test part: its rows, those of the baselines, and the pictures."""

import functools
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from bt_jax.datasets import splits, store
from bt_jax.datasets.channels import context_of
from bt_jax.distributed import hosts
from bt_jax.errors import UserError
from bt_jax.evaluation import calibration, subgroups
from bt_jax.evaluation.aggregation import score_of
from bt_jax.evaluation.record_tables import Tables
from bt_jax.evaluation.records import Record
from bt_jax.evaluation.volumes import volume_columns
from bt_jax.paper import baselines
from bt_jax.pipeline import missing_sequences
from bt_jax.report import figures
from bt_jax.report.page import sprites
from bt_jax.report.text_tables import heading
from bt_jax.runs import run_data, run_summary
from bt_jax.runs.components import Components
from bt_jax.runs.run_data import Data
from bt_jax.schema import Slices
from bt_jax.tasks.task import Tumor
from bt_jax.training import loop
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.training.train_state import PyTree


def judge_best(config: ConfigDict, workdir: pathlib.Path, parts: Components, data: Data) -> None:
  """Writes tables, pictures and report of the best checkpoint of the run in `workdir`."""
  variables, record = run_data.restore_best(config, workdir, parts)
  latest = Checkpoints(workdir / "checkpoints" / "latest")
  # The best checkpoint's history ends with its own epoch.
  history = (latest.restore() or (None, record))[1]["history"]
  latest.close()
  if (row := loop.best_row(history)) and record["step"] < row["step"]:
    raise UserError(
      f"{workdir / 'checkpoints' / 'best'} holds step {record['step']}, and the best of this run is step {row['step']}: put it "
      f"back from a copy, or remove {workdir / 'checkpoints'} and start --mode=train again, which trains anew"
    )

  predict = functools.partial(_probabilities, config, parts, variables)
  validation, test = ((slices, predict(slices)) for slices in (data.read("validation"), data.read("test")))
  flair_only = predict(test[0], flair_only=True) if config.eval.flair_only else None
  if test[0].ids != list(data.split.test):
    raise RuntimeError("the slices read are not those of the split")
  if not hosts.is_first():
    return
  judge, largest, threshold = parts.judge, config.eval.largest_component, config.eval.threshold
  gate = run_data.choose_gate(config, validation[1], validation[0])
  validation, test = ((slices, run_data.gated(tumor, gate)) for slices, tumor in (validation, test))
  chosen = threshold is None
  if chosen:
    threshold = judge.threshold(validation[1], validation[0], largest)
  validation_rows = judge.rows(
    *validation, judge.predict(validation[1], validation[0], threshold, largest), **_names(data)
  )
  predictions = judge.predict(test[1], test[0], threshold, largest)
  temperatures = _temperatures(*validation)
  parameters, masks = _baselines(config, parts, data, test[0])
  others = {name: _as_predicted(found, config.task == "segmentation") for name, found in masks.items()}
  if flair_only is not None:
    flair_only = run_data.gated(flair_only, gate)
    others[baselines.FLAIR_ONLY] = flair_only, judge.predict(flair_only, test[0], threshold, largest)
  tables = _tables(config, parts, data, test, predictions, temperatures, others)
  about = {
    **data.names,
    "synthetic": data.builder.builder_config.synthetic,
    "split_hash": data.split.hash,
    "parts": {part: len(getattr(data.split, part)) for part in splits.PARTS},
    "task": config.task,
    "model": config.model.name,
    "normalize": parts.normalize,
    "threshold": threshold,
    "threshold_from": "chosen on the validation part" if chosen else "from the configuration",
    "slice_gate": gate,
    "largest_component": largest,
    "mirror": config.eval.mirror,
    "temperatures": temperatures,
    # What choices are made on.
    "validation": {short: score_of(judge.summarize(validation_rows), name) for short, name in judge.headline.items()},
    "checkpoint": {"step": record["step"], "arrays_sha256": record["arrays_sha256"]},
    "epochs": {"trained": history[-1]["epoch"], "planned": config.train.epochs},
    "seconds": _seconds(config, history),
    "devices": run_data.devices(),
    **run_summary.about_this(),
  }
  groupings = subgroups.parse(config.report.subgroups)
  summary = run_summary.summarize(tables, judge, about, groupings=groupings, parameters=parameters)
  drawn = _draw(config, workdir, parts, test[0], predictions, tables.slices, history, title=heading(summary))
  run_summary.write(workdir, tables, summary, judge, show_slices=config.report.show_slices, drawn=drawn)
  print(f"curves while training: tensorboard --logdir={workdir / 'tensorboard'}")


def _probabilities(
  config: ConfigDict, parts: Components, variables: PyTree, slices: Slices, *, flair_only: bool = False
) -> Tumor:
  """Probabilities of tumour; averaged with those of the mirrored slices, or of FLAIR in all channels, where asked for."""
  context = context_of(parts.channels)
  stand_in = functools.partial(missing_sequences.flair_alone, context=context) if flair_only else lambda batch: batch
  probabilities = run_data.probabilities(run_data.predict(config, parts, variables, slices, change=stand_in))
  if not config.eval.mirror:
    return probabilities
  mirrored = lambda batch: {**stand_in(batch), "image": stand_in(batch)["image"][:, :, ::-1]}
  others = run_data.probabilities(run_data.predict(config, parts, variables, slices, change=mirrored))
  pixels = None if others.pixels is None else others.pixels[..., ::-1]
  return jax.tree.map(lambda one, other: (one + other) / 2, probabilities, others._replace(pixels=pixels))


def _draw(
  config: ConfigDict,
  workdir: pathlib.Path,
  parts: Components,
  slices: Slices,
  predictions: np.ndarray,
  rows: list[Record],
  history: list[Record],
  *,
  title: str,
) -> list[pathlib.Path]:
  folder, show = workdir / "figures", config.report.show_slices
  for path in (workdir / "volumes", *folder.glob("overlays_*.png")):  # of an earlier evaluation
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
  if show:
    sprites.save_volumes(workdir / "volumes", slices, predictions if config.task == "segmentation" else None)
  return [
    figures.save_curves(folder / "curves.png", history, title=title, score=config.train.score),
    *parts.judge.draw(folder, slices, predictions, rows, title=title, show_slices=show),
  ]


def _temperatures(slices: Slices, probabilities: Tumor) -> dict[str, float]:
  """Those that suit the validation part: of slices, and of a segmenter's pixels."""
  temperatures = {"slices": calibration.fit_temperature(probabilities.slices, slices.label)}
  if probabilities.pixels is not None:
    temperatures["pixels"] = calibration.fit_temperature(probabilities.pixels.ravel(), slices.mask.ravel())
  return temperatures


def _tables(
  config: ConfigDict,
  parts: Components,
  data: Data,
  test: tuple[Slices, Tumor],
  predictions: np.ndarray,
  temperatures: dict[str, float],
  others: dict[str, tuple[Tumor, np.ndarray]],
) -> Tables:
  slices, probabilities = test
  judge, names = parts.judge, _names(data)
  segments = config.task == "segmentation"
  rows = judge.rows(slices, probabilities, predictions, **names)
  calibrated = calibration.calibrate(np.array([row["probability"] for row in rows]), temperatures["slices"])
  rows = [row | {calibration.CALIBRATED: value.item()} for row, value in zip(rows, calibrated, strict=True)]
  clinical = store.read_clinical(data.builder, set(slices.patient.tolist()))
  # The published slices are TIFFs, which tell no spacing.
  whole = {} if data.split.leaky else volume_columns(slices, predictions if segments else None, spacing_mm=None)
  return Tables(
    slices=rows,
    patients=[
      row | whole.get(row["patient"], {}) | clinical[row["patient"]] for row in judge.patients(rows)
    ],
    reliability=calibration.pixel_rows(slices, probabilities.pixels, temperatures["pixels"], **names) if segments else [],
    baselines=[
      {"baseline": name, **row}
      for name, predicted in others.items()
      for row in judge.rows(slices, *predicted, **names)
    ],
  )  # fmt: skip


def _names(data: Data) -> dict[str, str]:
  return {"data": data.title, "split": data.split.name}


def _as_predicted(masks: np.ndarray, segments: bool) -> tuple[Tumor, np.ndarray]:
  """A baseline's masks as the probabilities and predictions of a segmenter, or of a classifier: any pixel is a tumour."""
  slices = masks.any((1, 2))
  return Tumor(masks.astype(np.float32), slices.astype(np.float32)), masks if segments else slices


def _baselines(
  config: ConfigDict, parts: Components, data: Data, test: Slices
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The parameters of every baseline, fitted on training slices, and the masks it predicts."""
  if not config.eval.baselines:
    return {}, {}
  masks, parameters = {}, {}
  sample = data.reader.read(baselines.sample_ids(data.split.train, data.labels("train"), seed=0))
  for name in tqdm(baselines.METHODS, desc="baselines", unit="method", leave=False):
    parameters[name] = baselines.fit(name, sample, seed=0)
    masks[name] = baselines.predict(name, test, parameters[name], seed=0)
  if data.split.leaky:
    nearest = baselines.nearest_ids(data.split.train, test.ids)
    known = sorted({name for name in nearest if name is not None})
    masks[baselines.COPY] = baselines.copy_nearest(nearest, data.reader.read(known))
  return parameters, masks


def _seconds(config: ConfigDict, history: list[Record]) -> float:
  """Of training, without validation and compilation."""
  starts = [0, *(row["step"] for row in history)]
  slices = np.diff(starts) * config.train.batch_size
  return float(sum(slices / [row["slices_per_second"] for row in history]))
