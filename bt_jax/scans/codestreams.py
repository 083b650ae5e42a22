"""The size and end that a JPEG, JPEG-LS or JPEG 2000 frame declares.

Decoders trust the declared size and silently fill in what is cut short, so both are checked before decoding.
"""

import struct

_JPEG, _JP2, _J2K = b"\xff\xd8", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"
_STARTS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # start-of-frame markers of all JPEG and JPEG-LS processes
_SCAN = 0xDA
_START_OF_SCAN = b"\xff\xda"
_END = b"\xff\xd9"  # end of image, the same in JPEG, JPEG-LS and JPEG 2000
_TILE_PART = b"\xff\x90"


def promised_size(frame: bytes) -> tuple[int, int, int] | None:
  """Rows, columns and samples per pixel of a JPEG, JPEG-LS or JPEG 2000 frame; None where they cannot be found.

  Raises:
    struct.error: the frame ends before it states its size.
  """
  if frame.startswith(_JPEG):
    return _of_jpeg(frame)
  start = _codestream(frame) if frame.startswith(_JP2) else 0
  if start is None or not frame.startswith(_J2K, start):
    return None
  right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
  (samples,) = struct.unpack_from(">H", frame, start + 40)
  return bottom - top, right - left, samples


def is_whole(frame: bytes) -> bool:
  """Whether a JPEG, JPEG-LS or JPEG 2000 frame reaches its end marker, with all tile-parts of JPEG 2000 in full length.

  Neither marker can occur within the data of a scan, so a complete JPEG has an end marker after its last scan.
  """
  if frame.startswith(_JPEG):
    return frame.rfind(_END) > frame.rfind(_START_OF_SCAN)
  if not frame.rstrip(b"\0").endswith(_END):
    return False
  start = _codestream(frame) if frame.startswith(_JP2) else 0
  position = frame.find(_TILE_PART, start)
  while position >= 0 and frame.startswith(_TILE_PART, position):
    (length,) = struct.unpack_from(">I", frame, position + 6)
    if length == 0:  # this tile-part reaches to the end
      return True
    position += length
  return position > start and frame.startswith(_END, position)


def _of_jpeg(frame: bytes) -> tuple[int, int, int] | None:
  position = 2
  while True:
    fill, marker, length = struct.unpack_from(">BBH", frame, position)
    if fill != 0xFF or marker == _SCAN:
      return None
    if marker in _STARTS:
      return struct.unpack_from(">HHB", frame, position + 5)
    position += 1 if marker == 0xFF else 2 + length  # markers may be padded with 0xFF


def _codestream(frame: bytes) -> int | None:
  """The offset of the codestream in a JP2 file; None where a box before it does not state its length."""
  position = 0
  while True:
    length, kind = struct.unpack_from(">I4s", frame, position)
    if kind == b"jp2c":
      return position + 8
    if length < 8:
      return None
    position += length
