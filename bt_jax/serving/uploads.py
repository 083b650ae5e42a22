"""Streams the files of a form to a folder; the names of files cannot lead out of it.

Starlette's own parser is not used: it accepts a form that was cut off as a complete one. It also keeps each file open, or
in memory below 1 MB, until the last has come, and a scan may have thousands.
"""

import pathlib
import re
from typing import IO, Any, NamedTuple

from python_multipart import multipart
from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from bt_jax.schema import CHANNELS

SCAN = "scan"  # the field of a scan's files; the roles are three more fields
MASK = "mask"  # the field of the mask that the page shows
PREDICTED = "predicted"  # and of the one that it was corrected from
_MASKS = (MASK, PREDICTED)
_TEXTS = ("threshold", "sha256", "kept", "corrected", "also")  # fields with a word about the mask
_UID_BYTES = 64  # at most, says DICOM; as many as a SHA-256 has
_NAME_BYTES = 120  # of one part of a path; file systems allow 255
_DEEPEST = 12  # folders of a path that are kept


class Upload(NamedTuple):
  """The content of a request.

  Attributes:
    files: the scan's files, in the order they came.
    given: the path of a file or the UID of a series for each role, a name of `CHANNELS`.
    masks: the file of each of the page's own masks, by field.
    texts: what the page says of the mask, by field.
  """

  files: list[pathlib.Path]
  given: dict[str, str]
  masks: dict[str, pathlib.Path]
  texts: dict[str, str]


class Limits(NamedTuple):
  """How much one request may hold: bytes in all, and files."""

  bytes: int
  files: int

  def check(self, size: int, count: int) -> None:
    """Raises HTTPException 413 where a limit is exceeded."""
    if size > self.bytes:
      raise HTTPException(
        413, f"more than {self.bytes / 2**20:,.0f} MB were sent: send less, or start the viewer with a larger limit_mb"
      )
    if count > self.files:
      raise HTTPException(413, f"more than {self.files:,} files were sent: send fewer at a time")


async def receive(request: Request, folder: pathlib.Path, limits: Limits) -> Upload:
  """Writes the files of a multipart request below `folder` as they come.

  Args:
    request: its fields are `scan` (any number of files), `pre`, `flair`, `post` (a file or a UID), `mask` and `predicted` (files), and a
      text each for `threshold`, `sha256`, `kept`, `corrected` and `also`.
    folder: an empty folder; each field gets a folder in it.
    limits: limits of the request, which ends as soon as it exceeds them.

  Raises:
    HTTPException: 413 for too much, 415 for another media type, 400 for a malformed request.
    ClientDisconnect: the client disconnected.
  """
  kind, options = multipart.parse_options_header(request.headers.get("content-type"))
  if kind != b"multipart/form-data" or not options.get(b"boundary"):
    raise HTTPException(415, "the request is not a multipart/form-data: send files as a form does")
  length = request.headers.get("content-length", "0")
  if not length.isdecimal():
    raise HTTPException(400, f"Content-Length is {length!r}, expected a number")
  size = int(length)
  limits.check(size, 0)
  parts = _Parts(folder, limits)
  try:
    parser = multipart.MultipartParser(options[b"boundary"], parts.callbacks())
    size = 0
    async for chunk in request.stream():
      size += len(chunk)
      limits.check(size, 0)
      parser.write(chunk)
  except FormParserError as error:
    raise HTTPException(400, f"the upload cannot be read ({error}): send it again") from error
  finally:
    parts.close()
  if not parts.complete:
    raise HTTPException(400, "the upload broke off: send it again")
  if not parts.files and (parts.uids or not parts.roles):
    raise HTTPException(400, "no file was sent: choose a scan")
  return Upload(parts.files, parts.roles | parts.uids, parts.masks, parts.texts)


def safe_path(name: str) -> pathlib.PurePosixPath:
  """A relative path like `name` that does not lead out of its folder and that every file system accepts."""
  parts = [part for part in re.split(r"[/\\]", name) if part.strip(". ")]
  kept = [re.sub(r"[^\w .()+-]", "_", part).encode()[-_NAME_BYTES:].decode(errors="ignore") for part in parts]
  return pathlib.PurePosixPath(*kept[-_DEEPEST:] or ["unnamed"])


class _Parts:
  """Writes each part of a multipart message to its file; the parser calls it back."""

  def __init__(self, folder: pathlib.Path, limits: Limits):
    self.folder, self.limits = folder, limits
    self.files, self.roles, self.uids, self.texts, self.masks, self.complete = [], {}, {}, {}, {}, False
    self._file: IO[bytes] | None = None
    self._name = self._value = b""
    self._headers: dict[bytes, bytes] = {}
    self._role, self._text = "", b""

  def callbacks(self) -> dict[str, Any]:
    names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "part_end")
    return {**{f"on_{name}": getattr(self, f"_{name}") for name in names}, "on_end": self._end}

  def close(self) -> None:
    if self._file:
      self._file.close()
      self._file = None

  def _part_begin(self) -> None:
    self._headers, self._text = {}, b""

  def _header_field(self, data: bytes, start: int, end: int) -> None:
    self._name += data[start:end]

  def _header_value(self, data: bytes, start: int, end: int) -> None:
    self._value += data[start:end]

  def _header_end(self) -> None:
    self._headers[self._name.lower()] = self._value
    self._name = self._value = b""

  def _headers_finished(self) -> None:
    _, options = multipart.parse_options_header(self._headers.get(b"content-disposition"))
    self._role = options.get(b"name", b"").decode(errors="replace")
    if (
      self._role not in (SCAN, *_MASKS, *CHANNELS, *_TEXTS)
      or self._role in self.roles | self.uids | self.texts | self.masks
    ):
      raise FormParserError(f"there is a field {self._role!r} too many")
    if b"filename" in options and self._role not in _TEXTS:
      self._open(options[b"filename"].decode(errors="replace"))

  def _open(self, name: str) -> None:
    path = self.folder / self._role / safe_path(name)
    if self._role == SCAN:
      self.files.append(path)
    elif self._role in _MASKS:
      self.masks[self._role] = path
    else:
      self.roles[self._role] = str(path)
    self.limits.check(0, len(self.files))
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      self._file = open(path, "xb")  # noqa: SIM115 - closed by `close`
    except (FileExistsError, NotADirectoryError) as error:
      raise FormParserError(f"two files are called {safe_path(name)}") from error

  def _part_data(self, data: bytes, start: int, end: int) -> None:
    if self._file:
      self._file.write(data[start:end])
      return
    self._text += data[start:end]
    if len(self._text) > _UID_BYTES:
      raise FormParserError(f"the field {self._role!r} is too long")

  def _part_end(self) -> None:
    if self._file:
      self.close()
      return
    uid = self._text.decode(errors="replace").strip()
    if self._role in _TEXTS:
      self.texts[self._role] = uid
      return
    if self._role not in CHANNELS or re.fullmatch(r"[\d.]*", uid, re.ASCII) is None:
      raise FormParserError(f"the field {self._role!r} holds no file")
    if uid:
      self.uids[self._role] = uid

  def _end(self) -> None:
    self.complete = True
