"""The source of what is derived from a series: one image that highdicom takes, and references to the series' own files."""

from collections.abc import Sequence
from typing import Any

from bt_jax.scans.dicom.geometry import Stack
from bt_jax.scans.dicom.series import Frame

_COPIED = ("PatientID", "PatientName", "StudyID", "AccessionNumber", "ReferringPhysicianName")
_FORMATTED = {
  "PatientBirthDate": r"\d{8}",
  "StudyDate": r"\d{8}",
  "StudyTime": r"\d{6}(\.\d{1,6})?",
  "PatientSex": "[MFO]",
}


def enhanced(stack: Stack) -> Any:
  """The source as one multi-frame image, however many files it has, with every attribute that highdicom needs.

  Attributes that anonymised files lack are left empty; missing positions are made up, in a frame of reference of their own.
  """
  import re

  import highdicom
  from pydicom import Dataset
  from pydicom.uid import EnhancedMRImageStorage, generate_uid

  frames = stack.frames
  about = frames[0].about
  dataset = Dataset()
  for keyword in _COPIED:
    setattr(dataset, keyword, about[keyword])
  for keyword, pattern in _FORMATTED.items():
    setattr(dataset, keyword, about[keyword] if re.fullmatch(pattern, about[keyword]) else "")
  dataset.SOPClassUID, dataset.SOPInstanceUID = EnhancedMRImageStorage, highdicom.UID()
  # One that is made up is the same for all that is derived from these files.
  files = [f"{frame.path} {frame.about['SOPInstanceUID']}" for frame in frames]
  dataset.StudyInstanceUID = about["StudyInstanceUID"] or generate_uid(entropy_srcs=files)
  dataset.SeriesInstanceUID = about["SeriesInstanceUID"] or highdicom.UID()
  placed = stack.affine is not None
  dataset.FrameOfReferenceUID = (placed and about["FrameOfReferenceUID"]) or highdicom.UID()
  dataset.Modality = about["Modality"] or "OT"
  dataset.Rows, dataset.Columns = frames[0].shape
  dataset.NumberOfFrames = len(frames)
  positions = [one.position if placed else (0, 0, index) for index, one in enumerate(frames)]
  patient = highdicom.enum.CoordinateSystemNames.PATIENT
  shared = Dataset()
  shared.PlaneOrientationSequence = highdicom.PlaneOrientationSequence(
    patient, frames[0].orientation.ravel() if placed else (1, 0, 0, 0, 1, 0)
  )
  shared.PixelMeasuresSequence = highdicom.PixelMeasuresSequence(
    frames[0].spacing if placed else (1, 1), slice_thickness=stack.distance, spacing_between_slices=stack.distance
  )
  dataset.SharedFunctionalGroupsSequence = [shared]
  dataset.PerFrameFunctionalGroupsSequence = [Dataset() for _ in frames]
  for group, position in zip(dataset.PerFrameFunctionalGroupsSequence, positions, strict=True):
    group.PlanePositionSequence = highdicom.PlanePositionSequence(patient, position)
  return dataset


def refer(segmentation: Any, frames: Sequence[Frame]) -> None:
  """Makes a segmentation refer to the source files instead of the enhanced image that stands for them."""
  derivations = (
    derivation
    for group in segmentation.PerFrameFunctionalGroupsSequence
    for derivation in group.DerivationImageSequence
  )
  # Frames of several segments share their references.
  for item in {id(item): item for derivation in derivations for item in derivation.SourceImageSequence}.values():
    frame = frames[item.ReferencedFrameNumber - 1]
    _name(item, frame)
    if frame.number:
      item.ReferencedFrameNumber = frame.number
    else:
      del item.ReferencedFrameNumber
  instances = [_name(type(item)(), one) for one in {frame.path: frame for frame in frames}.values()]
  segmentation.SourceImageSequence = instances
  segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = instances


def references(frames: Sequence[Frame]) -> list[Any]:
  """A reference to each file of some frames, with their numbers in it where it has several."""
  from pydicom import Dataset

  numbers: dict[Any, list[int]] = {}
  for frame in frames:
    numbers.setdefault(frame.path, []).append(frame.number)
  items = []
  for frame in {frame.path: frame for frame in frames}.values():
    item = _name(Dataset(), frame)
    if frame.number:
      item.ReferencedFrameNumber = numbers[frame.path]
    items.append(item)
  return items


def _name(item: Any, frame: Frame) -> Any:
  item.ReferencedSOPClassUID = frame.about["SOPClassUID"]
  item.ReferencedSOPInstanceUID = frame.about["SOPInstanceUID"]
  return item
