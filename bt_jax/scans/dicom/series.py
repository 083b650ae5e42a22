"""DICOM headers to series of frames in space; no pixel is read here."""

import collections
import dataclasses
import pathlib
from collections.abc import MutableSequence, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bt_jax.errors import UserError
from bt_jax.scans.dicom.files import DAMAGED, is_dicom, read_dataset

# Of patient and study, copied to what is written; of the series, to tell its role; of the image.
ABOUT = (
  "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime",
  "AccessionNumber", "ReferringPhysicianName", "SeriesInstanceUID", "SeriesDescription", "ProtocolName", "SequenceName",
  "ContrastBolusAgent", "ImageType", "Modality", "BodyPartExamined", "SOPClassUID", "SOPInstanceUID",
  "FrameOfReferenceUID", "PhotometricInterpretation",
)  # fmt: skip
_NUMBERS = (
  "SeriesNumber", "InstanceNumber", "InversionTime", "EchoTime", "RepetitionTime", "Rows", "Columns", "NumberOfFrames",
  "SamplesPerPixel", "BitsAllocated", "SpacingBetweenSlices", "SliceThickness",
)  # fmt: skip
# Of a frame: in its own functional groups, in those that all frames share, or in the header itself.
_PLACED = ("RescaleSlope", "RescaleIntercept", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
_GROUPED = {*_PLACED, "SpacingBetweenSlices", "SliceThickness", "RepetitionTime"}
_OTHERS = (
  "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "EncryptedAttributesSequence",
  "SpecificCharacterSet",
)  # fmt: skip
_SIZES = {"NumberOfFrames": 1, "Rows": 0, "Columns": 0}  # and what they are where the header does not say
_MOST_FRAMES = 2**14  # of a file
_NAMES = {".dcm", ".dicom", ".ima"}
_NO_IMAGES = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "PR", "KO", "SR", "REG"}  # some of them have pixels too


@dataclasses.dataclass(frozen=True)
class Frame:
  """One slice.

  Attributes:
    path: of its file.
    number: of the frame in its file, from 1; 0 where the file holds one image only.
    about: texts of its header by keyword, those of `ABOUT`; empty where it says nothing.
    numbers: numbers of its header by keyword; None where it says nothing.
    position: mm, of the middle of its first pixel, to the left, back and head (LPS); None where unknown.
    orientation: directions of growing column, and of growing row.
    spacing: mm between rows, and between columns.
    slope: of stored values, with `intercept`.
    intercept: in the unit of the series.
  """

  path: pathlib.Path
  number: int
  about: dict[str, str]
  numbers: dict[str, float | None]
  position: Float[np.ndarray, "3"] | None
  orientation: Float[np.ndarray, "2 3"] | None
  spacing: Float[np.ndarray, "2"] | None
  slope: float
  intercept: float

  @property
  def shape(self) -> tuple[int, int]:
    return int(self.numbers["Rows"]), int(self.numbers["Columns"])

  @property
  def label(self) -> str:
    return f"{self.path}, frame {self.number}" if self.number else str(self.path)


@dataclasses.dataclass(frozen=True)
class Series:
  """Frames of one SeriesInstanceUID, in no order."""

  frames: list[Frame]

  @property
  def uid(self) -> str:
    return self.frames[0].about["SeriesInstanceUID"]

  @property
  def number(self) -> float | None:
    return self.frames[0].numbers["SeriesNumber"]

  @property
  def label(self) -> str:
    """In words, with the UID a user would give."""
    description = self.frames[0].about["SeriesDescription"] or "no description"
    number = "without number" if self.number is None else f"{self.number:g}"
    return f"{description} (series {number}, {self.uid or 'without UID'})"

  def says(self, keyword: str) -> str:
    return self.frames[0].about[keyword]


def collect(files: Sequence[pathlib.Path], name: str) -> list[Series]:
  """The image series among files, in the order of their numbers; what is no image is left out.

  Args:
    files: of any kind.
    name: of the study, for messages.

  Raises:
    UserError: there is no image, a header is damaged or encrypted, or there are several patients or studies.
  """
  frames = []
  for path in files:
    if is_dicom(path):
      frames += _frames_of(path)
    elif path.suffix.lower() in _NAMES:
      raise UserError(f"{path} is no DICOM file, but empty, damaged or encrypted: copy it again, or decrypt it")
  if not frames:
    raise UserError(f"{name} has no DICOM image: name a folder or zip of an MR series")
  patients = {frame.about["PatientID"] or frame.about["PatientName"]: frame for frame in frames}
  if len(patients) > 1:
    raise UserError(f"{name} has {len(patients)} patients ({_some(patients)}): give one at a time")
  studies = {frame.about["StudyInstanceUID"]: frame for frame in frames}
  if len(studies) > 1:
    raise UserError(f"{name} has {len(studies)} studies of one patient ({_some(studies)}): give one at a time")
  series = collections.defaultdict(list)
  for frame in frames:
    series[frame.about["SeriesInstanceUID"]].append(frame)
  return sorted(map(Series, series.values()), key=lambda one: (one.number is None, one.number or 0, one.uid))


def _some(frames: dict[str, Frame]) -> str:
  """Two examples."""
  return ", ".join(f"{key or 'without a name'} in {frame.path}" for key, frame in [*frames.items()][:2])


def _frames_of(path: pathlib.Path) -> list[Frame]:
  """The frames of one file; none where it is no image."""
  import pydicom

  tags = [*ABOUT, *_NUMBERS, *_PLACED, *_OTHERS]
  try:
    header = read_dataset(path, stop_before_pixels=True, specific_tags=tags)
    if "EncryptedAttributesSequence" in header:
      raise UserError(f"{path} is encrypted: decrypt it before")
    if not header.get("Rows"):
      return _check_imageless(path, header)
    if header.get("Modality") in _NO_IMAGES:
      return []
    return _read_header(path, header)
  except (pydicom.errors.BytesLengthException, pydicom.errors.InvalidDicomError, *DAMAGED) as error:
    raise UserError(f"{path} has a damaged DICOM header ({_first_line(error)}): copy it again") from error
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror or error}): copy it again") from error


def _check_imageless(path: pathlib.Path, header: Any) -> list[Frame]:
  """No frames; raises UserError where the header should have told of an image, but ends before."""
  uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
  if "Image Storage" in uid.name if uid else header.preamble:
    raise UserError(f"{path} has a damaged DICOM header (no image size): copy it again")
  return []


def _first_line(error: Exception) -> str:
  return (str(error) or type(error).__name__).splitlines()[0]


def _read_header(path: pathlib.Path, header: Any) -> list[Frame]:
  about = {keyword: _text(header.get(keyword)) for keyword in ABOUT}
  for keyword in ("SOPClassUID", "SOPInstanceUID"):
    about[keyword] = about[keyword] or _text(header.file_meta.get(f"MediaStorage{keyword}"))
  shared, groups = (header.get(f"{whose}FunctionalGroupsSequence") or [] for whose in ("Shared", "PerFrame"))
  shared, first = _flat(shared), _flat(groups[:1])
  numbers = {keyword: _number(_first(keyword, header, shared, first)) for keyword in _NUMBERS}
  count = _check_size(path, numbers, groups)
  frames = []
  for index in range(count):
    told = {keyword: _first(keyword, _flat(groups[index : index + 1]), shared, header) for keyword in _PLACED}
    orientation = _vector(told["ImageOrientationPatient"], 6)
    frames.append(
      Frame(
        path=path,
        number=index + 1 if groups or count > 1 else 0,
        about=about,
        numbers=numbers,
        position=_vector(told["ImagePositionPatient"], 3) if groups or count == 1 else None,  # one for all is none
        orientation=None if orientation is None else orientation.reshape(2, 3),
        spacing=_vector(told["PixelSpacing"], 2),
        slope=_number(told["RescaleSlope"], 1.0),
        intercept=_number(told["RescaleIntercept"], 0.0),
      )
    )
  return frames


def _check_size(path: pathlib.Path, numbers: dict[str, float | None], groups: Sequence[Any]) -> int:
  """The number of frames; raises UserError where a header promises what no file has, before memory is asked for it."""
  count, *size = (int(numbers[keyword] or missing) for keyword, missing in _SIZES.items())
  if min(count, *size) < 1 or max(size) >= 2**16 or (groups and len(groups) != count):
    told = f"{count} frames of {' x '.join(map(str, size))} pixels told"
    raise UserError(f"{path} lies about its size ({told}, {len(groups)} frames described): copy it again")
  if count > _MOST_FRAMES:
    raise UserError(f"{path} promises {count} frames, more than a volume of a head has: split it or mend its header")
  return count


def _flat(groups: Any) -> dict[str, Any]:
  """The attributes in all functional groups of a frame, by keyword."""
  if not groups:
    return {}
  items = (element.value[0] for element in groups[0] if element.VR == "SQ" and element.keyword and element.value)
  return {element.keyword: element.value for item in items for element in item if element.keyword in _GROUPED}


def _first(keyword: str, *places: Any) -> Any:
  return next((place.get(keyword) for place in places if place.get(keyword) not in (None, "")), None)


def _text(value: Any) -> str:
  return " ".join(map(str, value)) if isinstance(value, MutableSequence) else str(value or "").strip()


def _number(value: Any, missing: float | None = None) -> float | None:
  value = value[0] if isinstance(value, MutableSequence) and value else value
  return float(value) if value not in (None, "", []) else missing


def _vector(value: Any, length: int) -> np.ndarray | None:
  """A vector of this length; None where there is none, or one that is not finite."""
  vector = np.array([] if value is None else value, float)
  return vector if vector.shape == (length,) and np.isfinite(vector).all() else None
