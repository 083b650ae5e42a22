"""The type of a file, by its first bytes, else by its name."""

import pathlib
import zlib

from bt_jax.scans import dicom, nifti, raster

_SUFFIXES = {
  ".tif": "images", ".tiff": "images", ".png": "images", ".jpg": "images", ".jpeg": "images",
  ".nii": "nifti", ".nii.gz": "nifti", ".dcm": "dicom", ".zip": "zip",
}  # fmt: skip
EXPECTED = f"expected files of {', '.join(_SUFFIXES)}"


def kind_of(path: pathlib.Path) -> str | None:
  """A name of `FORMATS`, or `zip`, by the first bytes of a file, else by its suffix; None if neither is known."""
  try:
    with open(path, "rb") as file:
      start = file.read(4096)
  except OSError:
    return _kind_by_suffix(path)  # reading it will report the error
  if start[128:132] == b"DICM":  # what comes before may be the head of a TIFF
    return "dicom"
  if start.startswith((b"PK\3\4", b"PK\5\6")):
    return "zip"
  if raster.format_of(start):
    return "images"
  if nifti.is_nifti(_unpacked(start)):
    return "nifti"
  return "dicom" if dicom.is_dicom(path) else _kind_by_suffix(path)


def _kind_by_suffix(path: pathlib.Path) -> str | None:
  return next((kind for suffix, kind in _SUFFIXES.items() if path.name.lower().endswith(suffix)), None)


def _unpacked(start: bytes) -> bytes:
  if not start.startswith(b"\x1f\x8b"):
    return start
  try:
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, 1024)
  except zlib.error:
    return b""
