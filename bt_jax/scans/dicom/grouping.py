"""Groups frames into series, by SeriesInstanceUID where it is valid, else by what the slices of a series have in common."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from bt_jax.errors import UserError
from bt_jax.scans.dicom.geometry import arrange
from bt_jax.scans.dicom.headers import frames_of
from bt_jax.scans.dicom.opening import UID, is_dicom
from bt_jax.scans.dicom.series import Frame, Series

_TURNED = 0.01  # largest difference of direction cosines within one series
Item = TypeVar("Item")
_NAMES = {".dcm", ".dicom", ".ima"}


def collect(files: Sequence[pathlib.Path], name: str) -> list[Series]:
  """The image series among files, in the order of their numbers; files that are not images are left out.

  Args:
    files: files of any kind.
    name: name of the study, for messages.

  Raises:
    UserError: there is no image, a header is damaged or encrypted, or there are several patients or studies.
  """
  frames = []
  for path in files:
    if is_dicom(path):
      frames += frames_of(path)
    elif path.suffix.lower() in _NAMES:
      raise UserError(f"{path} is not a DICOM file, but empty, damaged or encrypted: copy it again, or decrypt it")
  if not frames:
    raise UserError(f"{name} has no DICOM image: name a folder or zip of an MR series")
  patients = {frame.about["PatientID"] or frame.about["PatientName"]: frame for frame in frames}
  if len(patients) > 1:
    raise UserError(f"{name} has {len(patients)} patients ({_some(patients)}): give one at a time")
  studies = {frame.about["StudyInstanceUID"]: frame for frame in frames}
  if len(studies) > 1:
    raise UserError(f"{name} has {len(studies)} studies of one patient ({_some(studies)}): give one at a time")
  return sorted(_series(frames), key=lambda one: (one.number is None, one.number or 0, one.uid))


def _some(frames: dict[str, Frame]) -> str:
  """Two examples."""
  return ", ".join(f"{key or 'without a name'} in {frame.path}" for key, frame in [*frames.items()][:2])


def _series(frames: Sequence[Frame]) -> list[Series]:
  """Groups frames into series.

  Some anonymisers write one SeriesInstanceUID for a whole study: then series number, description, direction and size
  distinguish series. Others write one for each slice: then series that share all of these and form one volume are joined.
  """
  frames = _numbered(frames)
  reused = _are_reused(frames)
  is_one = lambda frame: not reused and UID.fullmatch(frame.about["SeriesInstanceUID"])
  key = lambda frame: (
    (frame.about["SeriesInstanceUID"], frame.numbers["SeriesNumber"]) if is_one(frame) else in_common(frame)
  )
  note = "its UIDs are missing or not unique: slices were grouped by series number, description and position"
  series = []
  for group in _grouped(frames, key):
    if is_one(group[0]):
      series.append(Series(group))
    else:
      series += [Series(part, (note,)) for part in _by_direction(group, lambda frame: frame)]
  of_parts = []
  for alike in _grouped(series, lambda one: in_common(one.frames[0])):
    for parts in _by_direction(alike, lambda one: one.frames[0]):
      of_parts += _joined(parts)
  return of_parts


def _numbered(frames: Sequence[Frame]) -> list[Frame]:
  """Gives frames without a series number that of the other frames of their SeriesInstanceUID, where these agree on one."""
  numbers = collections.defaultdict(set)
  for frame in frames:
    numbers[frame.about["SeriesInstanceUID"]].add(frame.numbers["SeriesNumber"])
  known = {uid: values - {None} for uid, values in numbers.items()}
  return [
    dataclasses.replace(frame, numbers={**frame.numbers, "SeriesNumber": next(iter(known[uid]))})
    if frame.numbers["SeriesNumber"] is None and len(known[uid := frame.about["SeriesInstanceUID"]]) == 1
    else frame
    for frame in frames
  ]


def in_common(frame: Frame) -> Hashable:
  """What the slices of one volume have in common besides their UID and direction."""
  texts = (frame.about[keyword] for keyword in ("SeriesDescription", "ProtocolName", "SequenceName", "ImageType"))
  return (frame.numbers["SeriesNumber"], *texts, frame.shape, frame.orientation is None)


def _by_direction(items: Sequence[Item], frame_of: Callable[[Item], Frame]) -> list[list[Item]]:
  """Groups items by the direction of the first item of each group; items without a direction form one group."""
  groups: list[list[Item]] = []
  for item in items:
    direction = frame_of(item).orientation
    for group in groups:
      if direction is None or abs(frame_of(group[0]).orientation - direction).max() < _TURNED:
        group.append(item)
        break
    else:
      groups.append([item])
  return groups


def _joined(parts: list[Series]) -> list[Series]:
  """Joins series that differ only in their UID, where they form one volume; else returns them as they are.

  Single slices are joined even if they form none, so that `arrange` can say what is wrong. Series with neither a number
  nor a description are never joined.
  """
  named = parts[0].number is not None or parts[0].says("SeriesDescription")
  if len(parts) == 1 or not named:
    return parts
  note = f"{len(parts)} SeriesInstanceUIDs have one series number, description and direction: they were joined into one series"
  joined = Series([frame for part in parts for frame in part.frames], (*parts[0].warnings, note))
  if all(len(part.frames) == 1 for part in parts):
    return [joined]
  try:
    return [joined] if arrange(joined).affine is not None else parts
  except UserError:
    return parts


def _are_reused(frames: Sequence[Frame]) -> bool:
  """Whether files with one SOPInstanceUID are different images, by their positions and numbers."""
  of_uid = collections.defaultdict(set)
  for frame in {frame.path: frame for frame in frames}.values():
    of_uid[frame.about["SOPInstanceUID"]].add(frame.identity)
  return any(uid and len(identities) > 1 for uid, identities in of_uid.items())


def _grouped(items: Iterable, key: Callable[..., Hashable]) -> list[list]:
  groups = collections.defaultdict(list)
  for item in items:
    groups[key(item)].append(item)
  return [*groups.values()]
