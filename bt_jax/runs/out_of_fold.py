"""What a validation set chooses, chosen by cross-validation, for a network that was trained on all patients."""

import glob
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bt_jax.datasets import splits
from bt_jax.datasets.registry import info_of
from bt_jax.errors import UserError
from bt_jax.evaluation.record_tables import Tables, read_run
from bt_jax.evaluation.records import of_any_class
from bt_jax.runs.workdir import differences, listed
from bt_jax.training.checkpoint_record import Record
from configs import saved

_OTHERS = ("split", "crossval", "eval", "report", "preset")  # sections that may differ: they do not change the training


def choose(record: Record, runs: Sequence[str]) -> dict[str, Any]:
  """The `decision` of a network, and `chosen_by`, the runs that it is from.

  The threshold and the temperature are the mean of those that the folds chose on their validation sets, as for an ensemble of
  their networks. The gate's probabilities are those of their test slices, each by a network that never saw its patient.

  Args:
    record: the record of the network's checkpoint.
    runs: folders of finished folds, of folders of folds, or patterns of either.

  Raises:
    UserError: the network has a validation set of its own, there are no folds, they are of another configuration or of
      other data, or a patient is tested in two of them.
  """
  if record["split"] != splits.ALL_NAME:
    raise UserError("the network was chosen on a validation set of its own: leave the folds out", "runs")
  folders = sorted({path for run in runs for match in glob.glob(run) for path in _folds(pathlib.Path(match))})
  if not folders:
    raise UserError(f"{', '.join(runs)} holds no finished fold: name the folder of a cross-validation", "runs")
  for folder in folders:
    ours, theirs = ({k: v for k, v in of.items() if k not in _OTHERS} for of in (record["config"], saved.read(folder)))
    if differ := differences(theirs, ours):
      raise UserError(
        f"{folder} is of another configuration, which differs in {listed(differ)}: name folds of the network's", "runs"
      )
  summaries, tables = zip(*map(read_run, folders), strict=True)
  _check_patients(record, folders, summaries, tables)
  rows = [row for of in tables for row in of_any_class(of.slices)]
  return {
    "decision": {
      "threshold": float(np.mean([summary["threshold"] for summary in summaries])),
      "temperature": float(np.mean([summary["temperatures"]["slices"] for summary in summaries])),
      "tumor_probabilities": sorted(row["probability"] for row in rows if row["label"] == 1),
    },
    "chosen_by": {
      "splits": [summary["split"] for summary in summaries],
      "patients": len({row["patient"] for row in rows}),
    },
  }


def _check_patients(
  record: Record, folders: Sequence[pathlib.Path], summaries: Sequence[dict[str, Any]], tables: Sequence[Tables]
) -> None:
  """Raises UserError where folds are not of the network's data set, or test a patient twice."""
  trained, tester = set(record["patients"]["train"]), {}
  for folder, summary, of in zip(folders, summaries, tables, strict=True):
    info_of(record).check_same(info_of(summary), "the network", str(folder))
    for patient in dict.fromkeys(row["patient"] for row in of.slices):
      if patient not in trained:
        raise UserError(
          f"{folder} tests {patient}, whom the network was not trained on: name folds of its data", "runs"
        )
      if tester.setdefault(patient, folder) != folder:
        raise UserError(f"{patient} is tested in {tester[patient]} and in {folder}: leave one of them out", "runs")


def _folds(folder: pathlib.Path) -> list[pathlib.Path]:
  """The finished folds in a folder, or the folder itself."""
  finished = [path.parent for path in (*folder.glob("summary.json"), *folder.glob("*/summary.json"))]
  return [
    path for path in finished if (path / "split.json").is_file() and splits.tested_folds(saved.read(path)["split"])
  ]
