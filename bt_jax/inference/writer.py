"""Writes the files of one prediction together: a folder has all of them, or is not finished."""

import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any, NotRequired

from typing_extensions import TypedDict

from bt_jax import files
from bt_jax.errors import UserError, check_local
from bt_jax.inference import dicom_extras, overlays
from bt_jax.inference.description import describe
from bt_jax.inference.predictor import Prediction, Predictor
from bt_jax.inference.segmented import segments_of
from bt_jax.scans import reader
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.scan import Maps
from bt_jax.version import __version__

SOFTWARE = f"bt_jax {__version__}"
_DONE = "prediction.json"  # comes last
_UNFINISHED = ".unfinished"  # a subfolder, where files are kept until all are written
_NAMES = re.compile(
  r"(mask|probability|entropy|disagreement)\.(nii|nii\.gz|dcm)|report\.dcm|secondary_capture|masks|probabilities|entropies|disagreements|overlays|contact_sheet\.png|prediction\.json"
)


def save(
  prediction: Prediction,
  folder: str | pathlib.Path,
  *,
  probabilities: bool = False,
  uncertainty: bool = False,
  also: Sequence[str] = (),
  options: dict[str, Any] | None = None,
) -> list[pathlib.Path]:
  """Writes the mask in the format of the scan's files, overlays, and `prediction.json`.

  Args:
    prediction: prediction of a scan that was read from files.
    folder: a folder without files of these names, except those of an unfinished or incomplete prediction; no other
      process may write to it, see `claims`.
    probabilities: whether to write probabilities, too.
    uncertainty: whether to write the entropy and, of several passes, their disagreement.
    also: what else to write of a DICOM scan, names of `dicom_extras.EXTRAS`; what cannot be written is a warning.
    options: options to record, for `differences`.

  Returns:
    The files, `prediction.json` first.

  Raises:
    UserError: the folder holds such files, the scan is an array, or there is no such name in `also`.
  """
  check_local(folder, "output")
  scan, folder = prediction.scan, pathlib.Path(folder).expanduser()
  if scan.format not in reader.FORMATS:
    raise UserError(
      f"{scan.name} was not read from a file, whose format a mask could have: save prediction.mask by numpy.save"
    )
  also = dicom_extras.check(also)
  check_free(folder)
  temporary = folder / _UNFINISHED
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir(parents=True)
  try:
    write = reader.FORMATS[scan.format].write
    mask, classes = segments_of(prediction.masks, prediction.info)
    algorithm = Algorithm(SOFTWARE, prediction.about.get("title", ""), prediction.threshold)
    write(
      scan,
      temporary,
      mask,
      _maps(prediction, probabilities, uncertainty),
      algorithm=algorithm,
      classes=classes,
    )
    dicom_extras.write(also, temporary, prediction, algorithm)
    overlays.save(temporary, prediction)
    paths = sorted(path for path in temporary.rglob("*") if path.is_file())
    written = {path.relative_to(temporary).as_posix(): path.stat().st_size for path in paths}
    content = describe(prediction) | {"options": options, "files": written}
    content["warnings"] += dicom_extras.lacking(also, prediction)
    files.write_json(temporary / _DONE, files.sealed(content))
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise
  for path in sorted(temporary.iterdir(), key=lambda path: path.name == _DONE):
    if (folder / path.name).is_dir():  # left by a process that was killed here
      shutil.rmtree(folder / path.name)
    path.replace(folder / path.name)
  temporary.rmdir()
  return [folder / path for path in (_DONE, *written)]


def _maps(prediction: Prediction, probabilities: bool, uncertainty: bool) -> Maps:
  maps = {"probability": prediction.probability} if probabilities else {}
  if uncertainty:
    maps["entropy"] = prediction.entropy
    if prediction.disagreement is not None:
      maps["disagreement"] = prediction.disagreement
  return maps


def check_folder(folder: pathlib.Path) -> None:
  """Raises UserError where the folder is a file."""
  if folder.exists() and not folder.is_dir():
    raise UserError(f"{folder} is a file, expected a folder: name another", "output")


def check_free(folder: pathlib.Path) -> None:
  """Raises UserError where a prediction would take the place of files that are there."""
  check_folder(folder)
  if not folder.is_dir() or (folder / _UNFINISHED).is_dir():
    return
  if (done := finished(folder)) is not None and missing(folder, done):
    return
  if taken := sorted(path.name for path in folder.iterdir() if _NAMES.fullmatch(path.name)):
    raise UserError(f"{folder} holds {taken[0]} already: name another folder, or empty it", "output")


class _Input(TypedDict):
  format: str
  sha256: str


class _Slice(TypedDict):
  index: files.Count


class Done(TypedDict):
  """The fields that are read from a `prediction.json`."""

  study: str
  tumor: bool
  probability: files.Share
  voxels: files.Count
  volume_mm3: files.Amount | None
  volume_ml: files.Amount | None
  largest_diameter_mm: files.Amount | None
  slice_range: list[files.Count] | None
  uncertainty: NotRequired[files.Share]
  looks_wrong: bool
  warnings: list[str]
  roles: dict[str, str]
  slices: list[_Slice]
  input: _Input
  model: dict[str, Any]
  options: dict[str, Any] | None
  files: dict[str, files.Count]


def finished(folder: pathlib.Path) -> Done | None:
  """The content of `prediction.json`; None where there is none.

  Raises:
    UserError: it is damaged, or of another version.
  """
  path, remedy = folder / _DONE, files.Remedy("remove its folder, or choose another output", "output")
  return files.check_seal(files.read_json(path, Done, remedy), path, remedy) if path.is_file() else None


def missing(folder: pathlib.Path, done: Done) -> list[str]:
  """The files of a prediction that are gone, or have another size than when they were written."""
  size = lambda path: path.stat().st_size if path.is_file() else None
  return [name for name, expected in done["files"].items() if size(folder / name) != expected]


def differences(done: Done, predictor: Predictor, options: dict[str, Any]) -> list[str]:
  """In what a `prediction.json` differs from one by these networks, wherever they are stored, with these options."""
  if done["options"] is None:  # saved by `bt_jax.save`
    return ["its options"]
  there, here = done["model"] | done["options"], predictor.about | options
  return [
    name for name in sorted({*there, *here} - {"title"}) if _nameless(there.get(name)) != _nameless(here.get(name))
  ]


def _nameless(about: Any) -> Any:
  """The same without paths."""
  if isinstance(about, dict):
    return {name: _nameless(value) for name, value in about.items() if name != "path"}
  return [_nameless(value) for value in about] if isinstance(about, list) else about
