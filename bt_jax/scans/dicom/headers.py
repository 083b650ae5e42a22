"""Reads the frames that the header of a DICOM file describes; no pixels are read here."""

import pathlib
from collections.abc import MutableSequence, Sequence
from typing import Any

import numpy as np

from bt_jax.errors import UserError, one_line
from bt_jax.scans.dicom.opening import DAMAGED, is_image, read_dataset
from bt_jax.scans.dicom.series import Frame

# Attributes of the patient and study, which are copied to outputs; of the series, to guess its role; and of the image.
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
# Attributes of a frame, and how many numbers each has. They are in its own functional groups, in the shared ones or in
# the header itself.
_OF_FRAME = {
  "RescaleSlope": 1, "RescaleIntercept": 1, "PixelSpacing": 2, "ImagePositionPatient": 3, "ImageOrientationPatient": 6,
}  # fmt: skip
_SIEMENS = ((0x0019, 0x0010), (0x0019, 0x100A))  # the owner of the private group, and the number of slices in a mosaic
_GROUPED = (*_OF_FRAME, "SpacingBetweenSlices", "SliceThickness", "RepetitionTime")
_OTHERS = (
  "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "EncryptedAttributesSequence",
  "SpecificCharacterSet",
)  # fmt: skip
_SIZES = {"NumberOfFrames": 1, "Rows": 0, "Columns": 0}  # defaults where the header does not say
_MOST_FRAMES = 2**14  # in a file
_AS_TEXT = ("DS", "IS")  # numbers that the standard writes as text
_BINARY = ("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV")


def frames_of(path: pathlib.Path) -> list[Frame]:
  """The frames of one file; none where it is not an image.

  Raises:
    UserError: the header is damaged or encrypted, or a value that should be a number is not.
  """
  import pydicom

  try:
    header = read_dataset(
      path, stop_before_pixels=True, specific_tags=[*ABOUT, *_NUMBERS, *_OF_FRAME, *_OTHERS, *_SIEMENS]
    )
    if "EncryptedAttributesSequence" in header:
      raise UserError(f"{path} is encrypted: decrypt it first")
    if not is_image(header):
      return []
    if not header.get("Rows"):
      raise UserError(f"{path} has a damaged DICOM header (no image size): copy it again")
    return _frames(path, header)
  except UserError:
    raise
  except (pydicom.errors.BytesLengthException, pydicom.errors.InvalidDicomError, *DAMAGED) as error:
    raise UserError(f"{path} has a damaged DICOM header ({one_line(error)}): copy it again") from error
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror or error}): copy it again") from error


def numbers_in(item: Any, keyword: str, path: pathlib.Path) -> list[float]:
  """The numbers of an attribute, none where it is missing or empty.

  Numbers written as text are read whatever type the file declares, with a decimal point or comma, as scanners write both.

  Raises:
    UserError: a value is not a number.
  """
  from pydicom.datadict import dictionary_VR

  element = item.get_item(keyword)
  if element is None or element.value in (None, "", b""):
    return []
  value = element.value
  if isinstance(value, bytes) and (dictionary_VR(keyword) not in _AS_TEXT or element.VR in _BINARY):
    value = item[keyword].value
  if isinstance(value, bytes):
    value = value.decode("latin-1").strip(" \0")
  several = value.split("\\") if isinstance(value, str) else value
  several = several if isinstance(several, MutableSequence) else [several]
  try:
    numbers = [float(str(one).strip().replace(",", ".")) for one in several if str(one).strip()]
  except ValueError:
    numbers = [np.nan]
  if not np.isfinite(numbers).all():
    raise UserError(
      f"{path} has {keyword} {str(value)[:60]!r}, which is not a number: correct it, or export the file again"
    )
  return numbers


def _frames(path: pathlib.Path, header: Any) -> list[Frame]:
  about = {keyword: _text(header.get(keyword)) for keyword in ABOUT}
  for keyword in ("SOPClassUID", "SOPInstanceUID"):
    about[keyword] = about[keyword] or _text(header.file_meta.get(f"MediaStorage{keyword}"))
  maker, tiles = (header.get(tag) for tag in _SIEMENS)
  if maker is not None and tiles is not None and str(maker.value).upper().startswith("SIEMENS"):
    about["ImageType"] += " MOSAIC"  # anonymisation may have removed it
  shared, groups = (header.get(f"{whose}FunctionalGroupsSequence") or [] for whose in ("Shared", "PerFrame"))
  shared, first = _flat(shared, path), _flat(groups[:1], path)
  own = {keyword: numbers_in(header, keyword, path) for keyword in (*_NUMBERS, *_OF_FRAME)}
  numbers = {keyword: (_first(keyword, own, shared, first) or [None])[0] for keyword in _NUMBERS}
  count = _check_size(path, numbers, groups)
  frames = []
  for index in range(count):
    values = {keyword: _first(keyword, _flat(groups[index : index + 1], path), shared, own) for keyword in _OF_FRAME}
    for keyword, length in _OF_FRAME.items():
      if values[keyword] and len(values[keyword]) != length:
        count_found = len(values[keyword])
        raise UserError(
          f"{path} has {keyword} of {count_found} numbers, expected {length}: correct it, or export it again"
        )
    position, orientation, spacing = (
      np.array(values[keyword]) if values[keyword] else None
      for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    )
    frames.append(
      Frame(
        path=path,
        number=index + 1 if groups or count > 1 else 0,
        about=about,
        numbers=numbers,
        position=position if groups or count == 1 else None,  # one position for all frames does not count
        orientation=None if orientation is None else orientation.reshape(2, 3),
        spacing=spacing,
        slope=(values["RescaleSlope"] or [1.0])[0],
        intercept=(values["RescaleIntercept"] or [0.0])[0],
      )
    )
  return frames


def _check_size(path: pathlib.Path, numbers: dict[str, float | None], groups: Sequence[Any]) -> int:
  """The number of frames; raises UserError for sizes that no file has, before memory is allocated."""
  count, *size = (int(numbers[keyword] or missing) for keyword, missing in _SIZES.items())
  if min(count, *size) < 1 or max(size) >= 2**16 or (groups and len(groups) != count):
    says = f"{count} frames of {' x '.join(map(str, size))} pixels"
    raise UserError(f"{path} contradicts itself about its size ({says}, {len(groups)} frames described): copy it again")
  if count > _MOST_FRAMES:
    raise UserError(f"{path} promises {count} frames, more than a volume of a head has: split it or correct its header")
  return count


def _flat(groups: Any, path: pathlib.Path) -> dict[str, list[float]]:
  """The numbers in all functional groups of a frame, by keyword."""
  if not groups:
    return {}
  items = [element.value[0] for element in groups[0] if element.VR == "SQ" and element.keyword and element.value]
  return {keyword: numbers_in(item, keyword, path) for item in items for keyword in _GROUPED if keyword in item}


def _first(keyword: str, *sources: dict[str, list[float]]) -> list[float]:
  return next((source[keyword] for source in sources if source.get(keyword)), [])


def _text(value: Any) -> str:
  return " ".join(map(str, value)) if isinstance(value, MutableSequence) else str(value or "").strip()
