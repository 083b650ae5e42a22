"""DICOM files of strangers opened: told by their first bytes, read without noise, and never inflated without bound."""

import contextlib
import pathlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

from bt_jax.errors import UserError

_MOST_BYTES = 2**31  # that a deflated file may inflate to
_BLOCK = 2**20
_META_START = 144  # where the group behind the element that tells its length begins

# What pydicom raises over damaged headers, when it reads them or when it converts a value.
DAMAGED = (
  AttributeError, EOFError, IndexError, KeyError, MemoryError, NotImplementedError, OverflowError, RecursionError,
  TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


def is_dicom(path: str | pathlib.Path) -> bool:
  """Whether the first bytes are those of a DICOM file, with its preamble or without, as old ones are."""
  with open(path, "rb") as file:
    head = file.read(132)
  if head[128:] == b"DICM":
    return True
  explicit = head[4:6].isalpha() and head[4:6].isupper()
  implicit = len(head) >= 8 and int.from_bytes(head[4:8], "little") < 2**10
  # Groups 2 and 8 come first, in either order of bytes.
  return (head[:2] in (b"\2\0", b"\x08\0") and (explicit or implicit)) or (head[:2] == b"\0\x08" and explicit)


def study_uid(path: str | pathlib.Path) -> str | None:
  """The StudyInstanceUID in the header of a file; None where it says nothing, or cannot be read."""
  import pydicom

  try:
    with lenient():
      header = read_dataset(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
      return str(header.get("StudyInstanceUID") or "").strip() or None
  except (pydicom.errors.BytesLengthException, pydicom.errors.InvalidDicomError, OSError, UserError, *DAMAGED):
    return None


def read_dataset(path: str | pathlib.Path, **options: Any) -> Any:
  """What `pydicom.dcmread` gives, with these options, be there a preamble or not.

  Raises:
    UserError: the file is deflated, and inflates to more than a scan has.
    DAMAGED, OSError, or errors of pydicom: it cannot be read.
  """
  import pydicom

  _check_deflated(path)
  return pydicom.dcmread(path, force=True, **options)


def _check_deflated(path: str | pathlib.Path) -> None:
  """Raises UserError before pydicom inflates a whole file in memory, of whatever size it turns out to be."""
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


@contextlib.contextmanager
def lenient() -> Iterator[None]:
  """Values that bend the standard, as scanners write them, are not told of on stderr; they are no error either."""
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", module=r"pydicom|highdicom|pylibjpeg|PIL")
    yield
