"""The studies that networks can take, found and read by their channels: those of LGG, or of a user's own data."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import case_volumes, unlabelled
from bt_jax.datasets.own_data.collection import Case
from bt_jax.errors import UserError
from bt_jax.scans import archives, dicom, discovery, nifti_geometry, reader, sequences
from bt_jax.scans.file_types import kind_of
from bt_jax.scans.reader import Study
from bt_jax.scans.scan import Scan, numbered
from bt_jax.schema import CHANNELS


def find(path: pathlib.Path | None, given: Mapping[str, str], info: DatasetInfo) -> list[Study]:
  """The studies in a file or folder; see `reader.find`, or `unlabelled.find` for channels other than LGG's.

  Raises:
    UserError: nothing there can be read, or `given` does not fit it.
  """
  if info.channels == CHANNELS:
    return reader.find(path, given)
  if path is None or given:
    raise UserError(
      f"these networks take {', '.join(info.channels)}, but single files can be named only for pre, flair and post: name a folder",
      "input",
    )
  of_series = [study for study in reader.find(path, {}) if study.of_series] if _holds_series(path) else []
  try:
    matches = [] if of_series and path.is_file() else unlabelled.find(path, info.channels)
  except UserError:
    if not of_series:
      raise
    matches = []
  if not matches:
    _roles(info)  # beside other cases, each DICOM study is refused by itself
  alone = len(matches) == 1 and path.is_file()
  return of_series + [_study(one, "" if alone else one.case.name) for one in matches]


def find_one(path: pathlib.Path, info: DatasetInfo) -> Study:
  """The one study in a file or folder, or the one whose file paths begin so; raises UserError unless there is exactly one."""
  by_start = not path.exists() and path.parent.is_dir()
  candidates = find(path.parent if by_start else path, {}, info)
  matches = [study for study in candidates if study.name == path.name] if by_start else candidates
  if len(matches) != 1:
    raise UserError(
      f"{path} holds {len(matches)} studies, expected one: name it ({', '.join(study.name for study in candidates[:3])} ...)"
    )
  return matches[0]


def read(study: Study, info: DatasetInfo, limits: archives.Limits = archives.LIMITS) -> Scan:
  """Reads the files of a study as the networks' channels; `limits` are those of what a zip may unpack to.

  Raises:
    UserError: they cannot be read, or lack a channel; one line that names the file.
    MachineError: see `reader.read`.
  """
  if info.channels == CHANNELS:
    return reader.read(study, limits)
  if study.of_series:
    return _from_dicom(reader.read(study, limits), info)
  if study.refusal:
    raise UserError(f"{study.name} {study.refusal}")
  several = isinstance(study.given, _ByChannel)
  groups = ((study.files[0],), *((pathlib.Path(path),) for path in study.given.values())) if several else (study.files,)
  name = study.name or sequences.stem(study.files[0])
  try:
    volume = case_volumes.read_image(Case(name, name, groups), info.channels)
    digest = reader.sha256(study)
  except OSError as error:
    raise UserError(f"{error.filename or name} cannot be read ({error.strerror or error}): correct that") from error
  origins = [group[0].name for group in groups]
  roles = {
    channel: origins[number] if several else f"channel {number + 1} of {origins[0]}"
    for number, channel in enumerate(info.channels)
  }
  names = numbered(len(volume.values))
  if volume.affine is None and len(volume.source) == len(names):
    names = [source.stem for source in volume.source]
  return Scan(
    name,
    study.format,
    volume.values,
    volume.spacing_mm,
    roles,
    names,
    list(volume.warnings),
    digest,
    source=volume.source,
    affine=nifti_geometry.placed(volume.source) if isinstance(volume.source, nifti_geometry.Source) else None,
  )


class _ByChannel(dict):
  """Paths of the channels after the first."""


def _study(match: unlabelled.Found, name: str) -> Study:
  first, *others = match.case.images or ((),)
  given = _ByChannel({str(number): str(paths[0]) for number, paths in enumerate(others, 1)})
  kind = kind_of(first[0]) or "images"
  return Study(name, kind, first, given if others else {}, (), match.refusal)


def _holds_series(path: pathlib.Path) -> bool:
  """Whether a file is a DICOM image or a zip, or a folder holds one; a DICOMDIR, a report and the like are none."""
  if not path.exists():
    return False
  files = [path] if path.is_file() else (file for _, some in discovery.walk(path) for file in some)
  kinds = ((kind_of(file), file) for file in files)
  return any(kind == "zip" or (kind == "dicom" and dicom.study_of(file) is not None) for kind, file in kinds)


def _roles(info: DatasetInfo) -> Sequence[str]:
  """The role of each channel in a DICOM study; raises UserError where the reader does not know such a sequence."""
  roles = [sequences.in_name(channel)[0] for channel in info.channels]
  if not set(roles) <= set(CHANNELS) or len(set(roles)) < len(roles):
    raise UserError(
      f"these networks take {', '.join(info.channels)}, but only T1, FLAIR and T1 with contrast are read from DICOM: convert it to NIfTI, "
      "a file for each channel",
      "input",
    )
  return roles


def _from_dicom(scan: Scan, info: DatasetInfo) -> Scan:
  """The networks' channels, selected from those of LGG; raises UserError where FLAIR stands in for one."""
  roles = _roles(info)
  for channel, role in zip(info.channels, roles, strict=True):
    if role != "flair" and np.array_equal(
      scan.image[..., CHANNELS.index(role)], scan.image[..., CHANNELS.index("flair")]
    ):
      raise UserError(f"{scan.name} has no {channel}, which these networks take: add its series")
  image = scan.image[..., [CHANNELS.index(role) for role in roles]]
  origins = {channel: scan.roles[role] for channel, role in zip(info.channels, roles, strict=True)}
  return dataclasses.replace(scan, image=image, roles=origins)
