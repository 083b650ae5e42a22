"""What a compressed frame says of its own size: decoders ask for as much memory as that, whatever the DICOM header says."""

import struct

_JPEG, _JP2, _J2K = b"\xff\xd8", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"
_STARTS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of a frame, of any process of JPEG and JPEG-LS
_SCAN = 0xDA


def promised_size(frame: bytes) -> tuple[int, int, int] | None:
  """Rows, columns and samples per pixel of a JPEG, JPEG-LS or JPEG 2000 frame; None where it is none of them.

  Raises:
    struct.error: it ends before it tells.
  """
  if frame.startswith(_JPEG):
    return _of_jpeg(frame)
  start = _codestream(frame) if frame.startswith(_JP2) else 0
  if start is None or not frame.startswith(_J2K, start):
    return None
  right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
  (samples,) = struct.unpack_from(">H", frame, start + 40)
  return bottom - top, right - left, samples


def _of_jpeg(frame: bytes) -> tuple[int, int, int] | None:
  place = 2
  while True:
    fill, marker, length = struct.unpack_from(">BBH", frame, place)
    if fill != 0xFF or marker == _SCAN:
      return None
    if marker in _STARTS:
      return struct.unpack_from(">HHB", frame, place + 5)
    place += 1 if marker == 0xFF else 2 + length  # markers may be filled up with 0xFF


def _codestream(frame: bytes) -> int | None:
  """Where the codestream begins in the boxes of a JP2 file; None where one has no length, and would lead nowhere."""
  place = 0
  while True:
    length, kind = struct.unpack_from(">I4s", frame, place)
    if kind == b"jp2c":
      return place + 8
    if length < 8:
      return None
    place += length
