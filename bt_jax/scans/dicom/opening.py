"""Opens DICOM files: recognises them by their first bytes, and limits how far they inflate."""

import pathlib
import re
import struct
import zlib
from typing import Any

from bt_jax.errors import UserError, needs
from bt_jax.scans import findings

_MOST_BYTES = 2**31  # largest size that a deflated file may inflate to
_BLOCK = 2**20
UID = re.compile(r"\d+(\.\d+)+")
_NO_IMAGES = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "PR", "KO", "SR", "REG"}  # some of them have pixels too
_ROOT = "1.2.840.10008."  # of all UIDs in the standard; those of manufacturers begin differently
_META_START = 144  # offset of the meta group after the element that holds its length

# What pydicom raises for damaged headers, when it reads them or when it converts a value.
DAMAGED = (
  AttributeError, EOFError, IndexError, KeyError, MemoryError, NotImplementedError, OverflowError, RecursionError,
  TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


def is_dicom(path: str | pathlib.Path) -> bool:
  """Whether the first bytes are those of a DICOM file, with a preamble or, as in old files, without one."""
  with open(path, "rb") as file:
    head = file.read(132)
  if head[128:] == b"DICM":
    return True
  explicit = head[4:6].isalpha() and head[4:6].isupper()
  implicit = len(head) >= 8 and int.from_bytes(head[4:8], "little") < 2**10
  # Groups 2 and 8 come first, in either byte order.
  return (head[:2] in (b"\2\0", b"\x08\0") and (explicit or implicit)) or (head[:2] == b"\0\x08" and explicit)


@needs("dicom", "a DICOM study")
def study_of(path: str | pathlib.Path) -> tuple[str, str] | None:
  """The patient and StudyInstanceUID of an image; None for a file that is not one, such as a DICOMDIR or a report.

  Both are empty where the header cannot be read or has no valid StudyInstanceUID, as after some anonymisers.
  """
  import pydicom

  tags = ["SOPClassUID", "Rows", "Modality", "PatientID", "PatientName", "StudyInstanceUID"]
  try:
    if not is_dicom(path):  # DICOM by its name only
      return "", ""
    with findings.kept():
      header = read_dataset(path, stop_before_pixels=True, specific_tags=tags)
      if not is_image(header):
        return None
      patient = header.get("PatientID") or header.get("PatientName") or ""
      uid = str(header.get("StudyInstanceUID") or "").strip()
      return (str(patient).strip(), uid) if UID.fullmatch(uid) else ("", "")
  except (pydicom.errors.BytesLengthException, pydicom.errors.InvalidDicomError, OSError, UserError, *DAMAGED):
    return "", ""


def is_image(header: Any) -> bool:
  """Whether a header is that of an image that could be a scan, by its class or size; damaged headers count as images."""
  if header.get("Modality") in _NO_IMAGES:
    return False
  uids = [header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID")]
  by_class = any(map(_may_be_image, filter(None, uids))) or (not any(uids) and bool(header.preamble))
  return bool(header.get("Rows")) or by_class


def _may_be_image(uid: Any) -> bool:
  """Whether a SOP class is an image class, or may be one whose UID was cut short or changed."""
  unknown = uid.name == uid
  return "Image Storage" in uid.name or (unknown and (uid.startswith(_ROOT) or _ROOT.startswith(uid)))


def read_dataset(path: str | pathlib.Path, **options: Any) -> Any:
  """Calls `pydicom.dcmread` with these options, for files with or without a preamble.

  Raises:
    UserError: the file is deflated, and inflates to more than a scan can hold.
    DAMAGED, OSError, or errors of pydicom: it cannot be read.
  """
  import pydicom

  _check_deflated(path)
  return pydicom.dcmread(path, force=True, **options)


def _check_deflated(path: str | pathlib.Path) -> None:
  """Raises UserError for a deflated file that is too large, before pydicom inflates all of it in memory."""
  import pydicom

  try:
    meta = pydicom.filereader.read_file_meta_info(path)
  except pydicom.errors.InvalidDicomError:  # without preamble, and so not deflated
    return
  if meta.get("TransferSyntaxUID") != pydicom.uid.DeflatedExplicitVRLittleEndian:
    return
  inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
  with open(path, "rb") as file:
    file.seek(_META_START + int(meta.FileMetaInformationGroupLength))
    while not inflater.eof and (packed := inflater.unconsumed_tail or file.read(_BLOCK)):
      size += len(inflater.decompress(packed, _BLOCK))
      if size > _MOST_BYTES:
        raise UserError(f"{path} inflates to over {_MOST_BYTES:,} bytes, more than a scan has: do not trust it")
