"""The studies of one upload, those in its zips included, each once."""

import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import UserError
from bt_jax.files import sha256_of
from bt_jax.inference import studies
from bt_jax.scans import archives, reader
from bt_jax.scans.file_types import kind_of
from bt_jax.scans.reader import Study
from bt_jax.scans.sequences import stem
from bt_jax.serving import uploads


class Sent(NamedTuple):
  """What was sent.

  Attributes:
    by_sha256: the studies by the SHA-256 of their files, in natural order; a study that was sent twice is there once.
    twice: what was sent twice, a sentence each.
    zips: the folder that each zip was unpacked to, by the zip.
    files: the files, in the order they came.
  """

  by_sha256: dict[str, Study]
  twice: list[str]
  zips: dict[pathlib.Path, pathlib.Path]
  files: list[pathlib.Path]

  def choose(self, sha256: str | None) -> Study:
    """The only study, or the one with this SHA-256; raises UserError where there is none such."""
    chosen = [*self.by_sha256.values()]
    if len(chosen) > 1 and sha256 is None:
      raise UserError(f"{len(chosen)} scans were sent ({chosen[0].name}, {chosen[1].name}, ...): send one at a time")
    if len(chosen) > 1 and sha256 not in self.by_sha256:
      raise UserError("the scan that is asked for is not among those that were sent, or has changed: send them again")
    return self.by_sha256.get(sha256, chosen[0])

  def listed(self) -> dict[str, Any]:
    """The studies for the page: the name of each, its SHA-256, and the numbers of the files that it needs, None for all.

    Those of DICOM and of a zip are read the same without what lies beside them; other formats are not, see `file_names`.
    """
    rows = [
      {"name": study.name or uploads.SCAN, "sha256": sha256, "files": self._needed(study)}
      for sha256, study in self.by_sha256.items()
    ]
    return {"studies": rows, "twice": self.twice}

  def _needed(self, study: Study) -> list[int] | None:
    zip_of = lambda path: next((file for file, folder in self.zips.items() if path.is_relative_to(folder)), path)
    sources = {zip_of(path) for path in study.files}
    if not study.of_series and not sources <= {*self.zips}:
      return None
    return [number for number, path in enumerate(self.files) if path in sources]


def find(folder: pathlib.Path, upload: uploads.Upload, info: DatasetInfo, limits: archives.Limits) -> Sent:
  """Finds the studies of an upload in its folder, where zips are unpacked and copies of DICOM files removed.

  A zip that cannot be unpacked is a study that cannot be read.

  Raises:
    UserError: there is no study, or the files and what their zips unpack to exceed the limits.
  """
  root = folder / uploads.SCAN
  _check_size(upload.files, limits)
  zips, broken = {}, []
  for file in upload.files:
    if kind_of(file) == "zip":
      try:
        zips[file] = _unpack(file, limits)
      except UserError:
        broken.append(file)
  if broken and len(upload.files) == 1:
    return Sent({"": Study("", "zip", (broken[0],), {})}, [], {}, upload.files)
  twice = _without_copies(root)
  alone = len(upload.files) == 1 and not zips
  path = upload.files[0] if alone else root if upload.files else None
  there = [study for study in studies.find(path, upload.given, info) if study.files[0] not in broken]
  there += [Study(stem(file), "zip", (file,), {}) for file in broken]
  by_sha256: dict[str, Study] = {}
  for study in _named_by_zips(there, zips, root):
    first = by_sha256.setdefault(reader.sha256(study), study)
    if first is not study:
      twice.append(f"{study.name} is the same study as {first.name}: it is listed once")
  return Sent(by_sha256, twice, zips, upload.files)


def _check_size(files: Sequence[pathlib.Path], limits: archives.Limits) -> None:
  """Raises UserError where several files, and what their zips say they unpack to, exceed the limits together."""
  sizes = [
    archives.declared(file) if kind_of(file) == "zip" else archives.Limits(file.stat().st_size, 1) for file in files
  ]
  size, count = (sum(numbers) for numbers in zip(*sizes, strict=True)) if sizes else (0, 0)
  if len(files) > 1 and (size > limits.bytes or count > limits.files):
    raise UserError(
      f"these files unpack to {size:,} bytes in {count:,} files, the server takes {limits.bytes:,} in {limits.files:,}: send fewer "
      "studies at a time"
    )


def _unpack(file: pathlib.Path, limits: archives.Limits) -> pathlib.Path:
  """Unpacks a zip to a folder of its name in its place, and returns the folder."""
  folder = file.with_name(stem(file).strip(".") or "zip")
  if folder.exists():
    folder = file.with_name(f"{file.name}_unpacked")
  try:
    archives.unpack(file, folder, limits)
  except UserError:
    shutil.rmtree(folder, ignore_errors=True)  # it may hold some of the files
    raise
  file.unlink()
  return folder


def _without_copies(root: pathlib.Path) -> list[str]:
  """Removes DICOM files that are there a second time, and says of which folders; images may well be alike, DICOM files are not."""
  first: dict[str, pathlib.Path] = {}
  copies: dict[tuple[pathlib.Path, pathlib.Path], int] = {}
  for path in sorted(path for path in root.rglob("*") if path.is_file() and kind_of(path) == "dicom"):
    original = first.setdefault(sha256_of([path]), path)
    if original is not path:
      path.unlink()
      folders = path.parent, original.parent
      copies[folders] = copies.get(folders, 0) + 1
  name = lambda folder: folder.relative_to(root).as_posix() if folder != root else "the upload"
  where = lambda folder, other: "there twice" if folder == other else f"the same as in {name(other)}"
  return [
    f"{count} DICOM file{'s' * (count > 1)} in {name(folder)} {'are' if count > 1 else 'is'} {where(folder, other)}: read once"
    for (folder, other), count in copies.items()
  ]


def _named_by_zips(there: Sequence[Study], zips: dict[pathlib.Path, pathlib.Path], root: pathlib.Path) -> list[Study]:
  """The studies, where the only one of a zip has the name of the zip."""
  of_zip = {folder: [study for study in there if study.files[0].is_relative_to(folder)] for folder in zips.values()}
  names = {id(inside[0]): folder.relative_to(root).as_posix() for folder, inside in of_zip.items() if len(inside) == 1}
  return [study._replace(name=names.get(id(study), study.name)) for study in there]
