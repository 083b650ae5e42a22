"""The files of one prediction, written as one: a folder has all of them, or is not finished."""

import pathlib
import re
import shutil
from typing import Any

import bt_jax
from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.inference import measures, overlays
from bt_jax.inference.predictor import Prediction, Predictor
from bt_jax.scans import studies

SOFTWARE = f"bt_jax {bt_jax.__version__}"
_DONE = "prediction.json"  # comes last
_ASIDE = ".unfinished"  # a folder in the folder, where files wait to be whole
_NAMES = re.compile(
  r"(mask|probability)\.(nii|nii\.gz|dcm)|masks|probabilities|overlays|contact_sheet\.png|prediction\.json"
)


def save(
  prediction: Prediction, folder: pathlib.Path, *, probabilities: bool = False, options: dict[str, Any] | None = None
) -> list[pathlib.Path]:
  """Writes the mask as the scan's files are, pictures, and `prediction.json`.

  Args:
    prediction: of a scan that was read from files.
    folder: without files of these names, but for those that an unfinished one left.
    probabilities: whether they are written, too.
    options: to write beside the numbers, for `is_by`.

  Returns:
    The files, `prediction.json` first.

  Raises:
    UserError: the folder holds such files, or the scan is an array.
  """
  scan, folder = prediction.scan, pathlib.Path(folder)
  if scan.format not in studies.FORMATS:
    raise UserError(f"{scan.name} is of no file whose format a mask could have: save prediction.mask by numpy.save")
  check_free(folder)
  aside = folder / _ASIDE
  shutil.rmtree(aside, ignore_errors=True)
  try:
    aside.mkdir(parents=True)
  except FileExistsError as error:
    raise UserError(f"another process is writing to {folder}: wait for it, or choose another --output") from error
  try:
    write = studies.FORMATS[scan.format].write
    write(scan, aside, prediction.mask, prediction.probability if probabilities else None, software=SOFTWARE)
    overlays.save(aside, prediction)
    written = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
    told = {"options": options, "files": [_DONE, *written]}
    files.write_json(aside / _DONE, measures.describe(prediction) | told)
  except BaseException:
    shutil.rmtree(aside, ignore_errors=True)
    raise
  for path in sorted(aside.iterdir(), key=lambda path: path.name == _DONE):
    if (folder / path.name).is_dir():  # left by one that was killed here
      shutil.rmtree(folder / path.name)
    path.replace(folder / path.name)
  aside.rmdir()
  return [folder / path for path in told["files"]]


def check_folder(folder: pathlib.Path) -> None:
  """Raises UserError where it is a file."""
  if folder.exists() and not folder.is_dir():
    raise UserError(f"{folder} is a file, expected a folder: name another (--output)")


def check_free(folder: pathlib.Path) -> None:
  """Raises UserError where a prediction would take the place of files that are there."""
  check_folder(folder)
  if not folder.is_dir() or (folder / _ASIDE).is_dir():
    return
  if taken := sorted(path.name for path in folder.iterdir() if _NAMES.fullmatch(path.name)):
    raise UserError(f"{folder} holds {taken[0]} already: name another folder (--output), or empty it")


def finished(folder: pathlib.Path) -> Any:
  """The content of `prediction.json`; None where there is none."""
  path = folder / _DONE
  return files.read_json(path) if path.is_file() else None


def differences(done: Any, predictor: Predictor, options: dict[str, Any]) -> list[str]:
  """In what the content of a `prediction.json` is not by these networks, wherever they lie, with these options."""
  if not isinstance(done, dict) or not all(isinstance(done.get(name), dict) for name in ("model", "options", "input")):
    return ["its version"]
  there, here = done["model"] | done["options"], predictor.about | options
  return [
    name for name in sorted({*there, *here} - {"title"}) if _nameless(there.get(name)) != _nameless(here.get(name))
  ]


def _nameless(about: Any) -> Any:
  """Without paths."""
  if isinstance(about, dict):
    return {name: _nameless(value) for name, value in about.items() if name != "path"}
  return [_nameless(value) for value in about] if isinstance(about, list) else about
