"""Keeps masks that a reader corrected: beside the prediction, and as a case of a data set to train from."""

import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from bt_jax import files
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import case_writer, folds, layouts
from bt_jax.errors import UserError
from bt_jax.inference import writer
from bt_jax.inference.segmented import segments_of
from bt_jax.scans import reader
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.scan import NOTICE, Scan

FOLDER = "corrections"  # the data set, beside the kept predictions
_BESIDE, _ABOUT, _ORIGINS = "corrected", "correction.json", "origins"
_UNFINISHED = ".unfinished_correction"
_LONGEST = 150  # bytes of a study's name in that of a case; file systems allow 255
Masks = Bool[np.ndarray, "slices height width classes"]
FineTuning = Callable[[pathlib.Path, int, DatasetInfo], str | None]


class Correction(NamedTuple):
  """A corrected mask and its origin.

  Attributes:
    scan: the scan.
    masks: its masks as corrected.
    predicted: its masks as predicted, at the threshold of `algorithm`.
    algorithm: what predicted them.
    kept: the name of the folder of the kept prediction.
  """

  scan: Scan
  masks: Masks
  predicted: Masks
  algorithm: Algorithm
  kept: str


def keep(folder: pathlib.Path, correction: Correction, info: DatasetInfo, model: dict[str, Any]) -> pathlib.Path:
  """Writes the corrected mask in the scan's format to `corrected/` in the folder of its prediction, and as a case of `corrections/`.

  Both have a record of its origin: `corrected/correction.json`, and `origins/CASE.json` in the data set. A correction of
  the same scan is replaced.

  Args:
    folder: folder of the kept predictions.
    correction: the correction.
    info: channels and classes of the networks.
    model: the networks, for the record.

  Returns:
    The folder of the data set.

  Raises:
    UserError: the prediction is not kept there, or is of another scan; nothing was corrected; or see `case_writer.add`.
  """
  scan, beside = correction.scan, _check_kept(folder, correction)
  if np.array_equal(correction.masks, correction.predicted):
    raise UserError(f"the mask of {scan.name} is as it was predicted: correct it first")
  data = folder / FOLDER
  name = _case_name(data, scan)
  content = files.sealed(_describe(correction, name, model))
  case_writer.add(data, name, scan, correction.masks, info, correction.algorithm.origin)
  files.write_json(data / _ORIGINS / f"{name}.json", content)
  unfinished = beside / _UNFINISHED
  shutil.rmtree(unfinished, ignore_errors=True)
  unfinished.mkdir()
  mask, classes = segments_of(correction.masks, info)
  write = reader.FORMATS[scan.format].write
  write(scan, unfinished, mask, {}, algorithm=correction.algorithm, classes=classes)
  files.write_json(unfinished / _ABOUT, content)
  shutil.rmtree(beside / _BESIDE, ignore_errors=True)
  unfinished.replace(beside / _BESIDE)
  return data


def summary(data: pathlib.Path, info: DatasetInfo, fine_tuning: FineTuning | None) -> dict[str, str]:
  """What is in the data set, a sentence, and the command that trains from it, empty where there is none.

  Args:
    data: folder of the data set.
    info: channels and classes of the networks.
    fine_tuning: makes the command from the folder, the number of patients and the data set of the networks; None for those
      that cannot be trained further.
  """
  collection = layouts.find(data)
  cases, patients = len(collection.cases), len(collection.patients)
  counted = lambda count, noun: f"{count} {noun}{'s' * (count != 1)}"
  line = f"{counted(cases, 'correction')} of {counted(patients, 'patient')} in {data}"
  command = fine_tuning(data, patients, info) if fine_tuning else None
  if command is None:
    return {"line": f"{line}; these networks cannot be trained further, start from a run", "command": ""}
  lacking = folds.FEWEST - patients
  needed = f"; training needs {counted(lacking, 'more patient')}, and then" if lacking > 0 else ";"
  return {"line": f"{line}{needed} this fine-tunes from them", "command": command}


def _check_kept(folder: pathlib.Path, correction: Correction) -> pathlib.Path:
  """The folder of the kept prediction."""
  kept, scan = correction.kept, correction.scan
  done = writer.finished(folder / kept) if re.fullmatch(r"\d{4,9}", kept, re.ASCII) else None
  if done is None:
    raise UserError(f"there is no kept prediction {kept!r} of {scan.name}: predict this scan again")
  if done["input"]["sha256"] != scan.sha256:
    raise UserError(f"the kept prediction {kept} is of another scan than {scan.name}: predict this scan again")
  return folder / kept


def _case_name(data: pathlib.Path, scan: Scan) -> str:
  """The start of the scan's SHA-256 and its name; a scan that is there under another name keeps that.

  The name comes last, as patients are recognised by the end of a name, see `collection.patient_of`.
  """
  start = scan.sha256[:12]
  labels = data / case_writer.LABELS
  there = [path for path in labels.iterdir() if path.name.startswith(f"{start}_")] if labels.is_dir() else []
  if there:
    return re.sub(r"\.(tif|nii\.gz)$", "", there[0].name)
  study = re.sub(r"[^\w.-]+", "_", scan.name).encode()[:_LONGEST].decode(errors="ignore")
  return f"{start}_{study}"


def _describe(correction: Correction, name: str, model: dict[str, Any]) -> dict[str, Any]:
  scan, algorithm = correction.scan, correction.algorithm
  added, removed = correction.masks & ~correction.predicted, correction.predicted & ~correction.masks
  changed = np.flatnonzero((added | removed).any((1, 2, 3))).tolist()
  return {
    "research_use": NOTICE,
    "study": scan.name,
    "case": name,
    "corrected": True,
    "slices": [
      {
        "index": index,
        "number": index + 1,
        "name": scan.slice_names[index],
        "voxels_added": int(added[index].sum()),
        "voxels_removed": int(removed[index].sum()),
      }
      for index in changed
    ],
    "threshold": algorithm.threshold,
    "roles": dict(scan.roles),
    "input": {"format": scan.format, "sha256": scan.sha256},
    "prediction": correction.kept,
    "software": algorithm.software,
    "model": model,
  }
