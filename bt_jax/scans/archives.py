"""Unpacks a zip of unknown origin, never outside of the folder and never beyond a size limit.

`zipfile` alone has no limit, and renames what leads out of the folder where it should be refused.
"""

import errno
import itertools
import lzma
import pathlib
import stat
import struct
import zipfile
import zlib
from typing import NamedTuple

from bt_jax.errors import OF_MACHINE, UserError, one_line
from bt_jax.scans.discovery import is_hidden

_BLOCK = 2**20
_RATIO = 500  # largest expansion accepted; the zero background of real scans packs to 1 : 200 at most
_SMALL = 2**26  # bytes below which any ratio is accepted
_LONGEST = 60  # characters in a name, up to 4 bytes each
_OURS = (*OF_MACHINE, errno.ENAMETOOLONG)  # errors of this machine, not of the zip


class Limits(NamedTuple):
  """How much a zip may unpack to: bytes in all, and files."""

  bytes: int
  files: int


LIMITS = Limits(4 * 2**30, 20_000)


def declared(path: pathlib.Path) -> Limits:
  """How much a zip says that it unpacks to; nothing where it cannot be read, which `unpack` reports."""
  try:
    with zipfile.ZipFile(path) as archive:
      members = [member for member in archive.infolist() if not member.is_dir() and not _is_hidden(member.filename)]
  except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
    members = []
  return Limits(sum(member.file_size for member in members), len(members))


def unpack(path: pathlib.Path, folder: pathlib.Path, limits: Limits = LIMITS) -> list[pathlib.Path]:
  """Unpacks the files of a zip into a folder, except hidden ones.

  Args:
    path: the zip file.
    folder: an empty folder; after an error it may hold some of the files.
    limits: of the unpacked files.

  Returns:
    The files, in the order of the zip.

  Raises:
    UserError: the file is not a zip; is damaged, encrypted, empty or too big; or holds a path that leads out of the
      folder, a link, another zip, or a file twice.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      members = [member for member in archive.infolist() if not member.is_dir() and not _is_hidden(member.filename)]
      _check(path, members, limits)
      files, left = [], limits.bytes
      for member in members:
        file = folder / _safe(member.filename)
        left -= _extract(archive, member, file, min(left, max(_SMALL, member.compress_size * _RATIO)), path)
        files.append(file)
      return files
  except UserError:
    raise
  except FileExistsError as error:
    raise UserError(f"{path} holds a file twice ({error.filename}): pack it again") from error
  except NotADirectoryError as error:
    raise UserError(f"{path} holds a path that is both a file and a folder: pack it again") from error
  except NotImplementedError as error:
    raise UserError(
      f"{path} is packed in a way that is not supported ({one_line(error)}): pack it as an ordinary zip"
    ) from error
  except OSError as error:
    if error.errno in _OURS:
      raise
    raise UserError(f"{path} is not a zip, damaged or truncated ({one_line(error)}): copy or pack it again") from error
  except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, ValueError) as error:
    raise UserError(f"{path} is not a zip, damaged or truncated ({one_line(error)}): copy or pack it again") from error


def _check(path: pathlib.Path, members: list[zipfile.ZipInfo], limits: Limits) -> None:
  """Checks everything that can be checked before a byte is written."""
  if not members:
    raise UserError(f"{path} holds no file: pack the study again")
  if len(members) > limits.files:
    raise UserError(f"{path} holds {len(members)} files, expected {limits.files} at most: pack one study alone")
  if sum(member.file_size for member in members) > limits.bytes:
    raise UserError(f"{path} unpacks to over {limits.bytes:,} bytes: pack one study alone")
  for member in members:
    if member.flag_bits & 1:
      raise UserError(f"{path} is encrypted ({member.filename!r}): unpack it, or pack it without a password")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
      raise UserError(f"{path} holds a link ({member.filename!r}), expected files alone: pack the files themselves")
    parts = _parts(member.filename)
    if ".." in parts or not parts[0] or ":" in parts[0]:
      raise UserError(
        f"{path} holds a path that leads out of it ({member.filename!r}): do not trust it, get another copy"
      )
    if member.filename.lower().endswith(".zip"):
      raise UserError(f"{path} holds another zip ({member.filename!r}): unpack that first")
  names = [_safe(member.filename) for member in members]
  if twice := next((name for name, same in itertools.groupby(sorted(names)) if len([*same]) > 1), None):
    raise UserError(f"{path} holds a file twice ({twice!r}): pack it again")


def _extract(
  archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: pathlib.Path, limit: int, path: pathlib.Path
) -> int:
  """Extracts one file and returns its size, counting the bytes that really come out, whatever the zip declares."""
  file.parent.mkdir(parents=True, exist_ok=True)
  size = 0
  with archive.open(member) as packed, open(file, "xb") as out:
    while block := packed.read(_BLOCK):
      size += len(block)
      if size > limit:
        raise UserError(f"{path} is a zip bomb ({member.filename!r} unpacks to over {limit:,} bytes): it is not read")
      out.write(block)
  return size


def _parts(name: str) -> list[str]:
  return name.replace("\\", "/").split("/")


def _is_hidden(name: str) -> bool:
  return any(is_hidden(part) for part in _parts(name) if part not in (".", ".."))


def _safe(name: str) -> str:
  """The path without unprintable characters; long names are cut at the front, to keep the suffix."""
  parts = (part for part in _parts(name) if part not in ("", "."))
  return "/".join("".join(c if c.isprintable() else "_" for c in part)[-_LONGEST:] for part in parts)
