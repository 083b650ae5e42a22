"""Finds the studies in a file or folder by their names and first bytes, and reads one."""

import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bt_jax.errors import MachineError, UserError
from bt_jax.files import sha256_of
from bt_jax.scans import archives, dicom, nifti, raster
from bt_jax.scans.content import check_values
from bt_jax.scans.file_names import Study
from bt_jax.scans.file_types import EXPECTED, kind_of
from bt_jax.scans.scan import Scan
from bt_jax.scans.sequences import in_name, stem
from bt_jax.scans.study_discovery import find_in
from bt_jax.schema import CHANNELS


class Format(NamedTuple):
  """How files become a scan, and a mask becomes files."""

  read: Callable[..., Scan]
  write: Callable[..., list[pathlib.Path]]


FORMATS = {
  "images": Format(raster.read, raster.write),
  "nifti": Format(nifti.read, nifti.write),
  "dicom": Format(dicom.read, dicom.write),
}


def find(path: pathlib.Path | None, given: Mapping[str, str]) -> list[Study]:
  """The studies in a file or folder, in natural order; only the first bytes of files, and DICOM headers, are read.

  Args:
    path: a file, a zip or a folder; None where `given` names the files.
    given: paths by role where `path` is None; else SeriesInstanceUIDs by role, for the one DICOM study in `path`.

  Raises:
    UserError: nothing there can be read, or `given` does not fit it.
  """
  if path is None:
    return [_of_roles(given)]
  if path.is_dir():
    studies = find_in(path)
  elif path.is_file():
    studies = [_of_file(path)]
  else:
    raise UserError(f"{path} is not there: name a file or a folder that is ({EXPECTED})")
  if not given:
    return studies
  if len(studies) > 1:
    raise UserError(
      f"{path} holds {len(studies)} studies, and {next(iter(given))} picks a series of one: name its folder", "input"
    )
  if not studies[0].of_series:
    raise UserError(
      f"{path} is not DICOM, and beside a path {next(iter(given))} is the UID of a series of DICOM: name the files of flair, "
      "pre and post alone",
      *CHANNELS,
    )
  return [studies[0]._replace(given=dict(given))]


def read(study: Study, limits: archives.Limits = archives.LIMITS) -> Scan:
  """Reads the files of a study, or the contents of its zip.

  Args:
    study: the study.
    limits: of what a zip may unpack to.

  Raises:
    UserError: they cannot be read, or are not a scan of a head; one line that names the file.
    MachineError: a zip cannot be unpacked, for want of space or permission.
  """
  name = study.name or _title(study)
  try:
    scan = _read_zip(study, name, limits) if kind_of(study.files[0]) == "zip" else _read_files(study, name)
    return dataclasses.replace(scan, sha256=sha256(study))
  except MemoryError as error:
    raise UserError(f"memory does not suffice for {name}: crop it, or give it in parts") from error
  except OSError as error:
    raise UserError(
      f"{error.filename or name} cannot be read ({error.strerror or error}): correct that, or leave it out"
    ) from error


def sha256(study: Study) -> str:
  """SHA-256 of the bytes of all its files in order, then of those given by role; file names do not count."""
  others = [] if study.of_series else study.given.values()
  return sha256_of([*study.files, *others])


def shard(studies: Sequence[Study], part: str) -> list[Study]:
  """Every n-th study from the i-th on, for a part `i/n`; i counts from 1.

  Raises:
    UserError: `part` is not of this form.
  """
  match = re.fullmatch(r"(\d+)/(\d+)", part, re.ASCII)
  if not match or not 1 <= int(match[1]) <= int(match[2]):
    raise UserError(f"shard is {part!r}, expected i/n with i from 1 to n, e.g. 2/4", "shard")
  return list(studies[int(match[1]) - 1 :: int(match[2])])


def _title(study: Study) -> str:
  if len(study.files) == 1:  # `flair.nii.gz` takes the name of its folder
    return in_name(stem(study.files[0]))[1] or study.files[0].absolute().parent.name
  return pathlib.Path(os.path.commonpath([file.absolute().parent for file in study.files])).name


def _of_file(path: pathlib.Path) -> Study:
  kind = kind_of(path)
  if kind is None:
    raise UserError(f"{path} is not of a kind that is read, {EXPECTED}: convert it")
  return Study("", kind, (path,), {})


def _of_roles(given: Mapping[str, str]) -> Study:
  if "flair" not in given:
    raise UserError(f"no FLAIR: name a file or folder, or at least the file of FLAIR ({EXPECTED})", "input", "flair")
  paths = {role: pathlib.Path(path) for role, path in given.items()}
  for role, path in paths.items():
    if not path.is_file():
      raise UserError(
        f"{path}, given as {role}, is not a file: name the file of one sequence, or the folder of a DICOM study beside it",
        role,
        "input",
      )
  kinds = {role: kind_of(path) for role, path in paths.items()}
  kind = kinds["flair"]
  if kind not in ("images", "nifti") or len(set(kinds.values())) > 1:
    what = ", ".join(f"{path} as {role} ({kinds[role] or 'unknown'})" for role, path in paths.items())
    raise UserError(
      f"sequences are given as files of NIfTI, or of images, alone, found {what}: name the folder of a DICOM study",
      "input",
    )
  seen = {}
  for role, path in paths.items():
    if (first := seen.setdefault(path.resolve(), role)) != role:
      raise UserError(f"{path} is given twice, as {first} and {role}: leave out the sequence that is missing", role)
  others = {role: str(path) for role, path in paths.items() if role != "flair"}
  return Study("", kind, (paths["flair"],), others)


def _read_files(study: Study, name: str) -> Scan:
  if study.refusal:
    raise UserError(f"{name} {study.refusal}", *study.arguments)
  scan = FORMATS[study.format].read(study.files, name=name, given=study.given)
  beside = [f"left out beside it: {', '.join(study.left_out)}"] if study.left_out else []
  ood_warnings = [*scan.ood_warnings, *check_values(scan)]
  return dataclasses.replace(scan, warnings=scan.warnings + beside, ood_warnings=ood_warnings)


def _read_zip(study: Study, name: str, limits: archives.Limits) -> Scan:
  (path,) = study.files
  with _unpacked(path, limits) as folder:
    text = str(folder)
    try:
      inside = find(folder, study.given)
      if len(inside) > 1:
        raise UserError(
          f"{path} holds {len(inside)} studies ({', '.join(one.name for one in inside[:3])} ...), expected one: unpack it, "
          "and name the folder"
        )
      return _read_files(inside[0], name)
    except UserError as error:
      error.args = (str(error).replace(f"{folder}/", f"{path}: ").replace(text, str(path)),)
      raise


@contextlib.contextmanager
def _unpacked(path: pathlib.Path, limits: archives.Limits) -> Iterator[pathlib.Path]:
  """A temporary folder with the contents of a zip; errors with the folder itself are not errors of the study."""
  with contextlib.ExitStack() as stack:
    try:
      folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
      archives.unpack(path, folder, limits)
    except OSError as error:
      if error.filename == str(path):
        raise
      where = f", {error.filename}" if error.filename else ""
      raise MachineError(
        f"{path} cannot be unpacked to a temporary folder ({error.strerror or error}{where}): make room there, or name another "
        "folder by TMPDIR"
      ) from error
    yield folder
