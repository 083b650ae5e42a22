"""Writes files atomically, and checks their types when they are read back.

A damaged file gives one error: which file, where in it, the value found, what was expected, and the remedy.
"""

import csv
import hashlib
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from PIL import Image, PngImagePlugin
from pydantic import Field, TypeAdapter, ValidationError

from bt_jax.errors import UserError
from bt_jax.version import __version__

_MOST = 2**53  # integers up to it are exact as floats, too
_SHOWN = 60  # characters of a value in an error message
_REMEDY = "put the file back, or choose another folder"
_WRITTEN = re.compile(r"[A-Za-z0-9.+-]+")  # numbers and booleans; Python would also accept 1_0 and non-ASCII digits


class Remedy(str):
  """The remedy at the end of an error message, with the `arguments` of `UserError`; a plain str names no arguments."""

  arguments: tuple[str, ...]

  def __new__(cls, text: str, *arguments: str) -> "Remedy":
    remedy = super().__new__(cls, text)
    remedy.arguments = arguments
    return remedy


EVALUATE = Remedy("evaluate its run again", "mode=evaluate")

Count = Annotated[int, Field(ge=0, le=_MOST)]
Flag = Annotated[int, Field(ge=0, le=1)]
Code = Annotated[int, Field(ge=-1, le=_MOST)]  # the code of a clinical field; -1: not known
Real = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]


def write_bytes(path: str | pathlib.Path, content: bytes) -> pathlib.Path:
  """Writes `content` to `path` atomically, and creates the folder if necessary."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.incomplete")
  try:
    with open(temporary, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
  return path


def png(image: Image.Image, texts: Mapping[str, str] = {}, **options: Any) -> bytes:
  """Encodes an image as PNG with text chunks by keyword; `options` are Pillow's for this format, such as `exif`."""
  info, content = PngImagePlugin.PngInfo(), io.BytesIO()
  for keyword, text in texts.items():
    info.add_text(keyword, text)
  image.save(content, "PNG", pnginfo=info, **options)
  return content.getvalue()


def sha256_of(paths: Sequence[str | pathlib.Path]) -> str:
  """The SHA-256 of the concatenated bytes of these files, in hexadecimal; the file names are not hashed."""
  digest = hashlib.sha256()
  for path in paths:
    with open(path, "rb") as file:
      while block := file.read(2**20):
        digest.update(block)
  return digest.hexdigest()


def sealed(content: Mapping[str, Any], name: str = "sha256") -> dict[str, Any]:
  """Adds, under this name, the SHA-256 of the content as JSON with sorted keys, so that later changes are detected."""
  plain = {key: value for key, value in content.items() if key != name}
  text = json.dumps(json.loads(json.dumps(plain)), sort_keys=True)
  return {**plain, name: hashlib.sha256(text.encode()).hexdigest()}


def is_sealed(content: Mapping[str, Any], name: str = "sha256") -> bool:
  """Whether the content is unchanged since it was sealed; True if it never was, as in files of earlier versions."""
  return name not in content or sealed(content, name)[name] == content[name]


def check_seal(content: Any, path: str | pathlib.Path, remedy: str, name: str = "sha256") -> Any:
  """Returns the content; raises UserError if it was changed since it was sealed."""
  if not is_sealed(content, name):
    raise damaged(path, "its SHA-256 is not that of its content: it was changed", remedy)
  return content


def check_format(
  content: Mapping[str, Any], newest: int, path: str | pathlib.Path, written_by: str, remedy: str
) -> None:
  """Raises UserError if an undamaged file has a newer format than this version reads.

  Args:
    content: content of the file; its format number is `format`, and a file without one has format 1.
    newest: the format that this version writes; it also reads all earlier ones.
    path: path of the file.
    written_by: the version of bt_jax that wrote it.
    remedy: what to do if that version is not available.
  """
  if not 1 <= content.get("format", 1) <= newest:
    raise UserError(
      f"{path} is of format {content['format']}, and bt_jax {__version__} reads formats up to {newest}: use bt_jax {written_by}, "
      f"which wrote it, or {remedy}"
    )


def damaged(path: str | pathlib.Path, reason: str, remedy: str = _REMEDY) -> UserError:
  """The error for a file that is not as we wrote it; `reason` says where it differs."""
  arguments = getattr(remedy, "arguments", ())
  return UserError(f"{path} is damaged or of another version ({' '.join(reason.split())}): {remedy}", *arguments)


def check(kind: Any, content: Any, path: str | pathlib.Path, remedy: str = _REMEDY, where: str = "it") -> Any:
  """Returns the content if it has this type; otherwise raises UserError for the first place where it differs.

  Args:
    kind: a type, such as a TypedDict; keys that it does not name are allowed.
    content: content as parsed from JSON, checked strictly: a string does not count as a number.
    path: the file that it is from.
    remedy: the end of the error message.
    where: what the message calls the content as a whole.
  """
  try:
    TypeAdapter(kind).validate_python(content, strict=True)
  except ValidationError as error:
    raise damaged(path, _reason(error, where), remedy) from error
  return content


def write_json(path: str | pathlib.Path, content: Any) -> pathlib.Path:
  """Writes indented JSON with the keys in the order given."""
  return write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: str | pathlib.Path, kind: Any = object, remedy: str = _REMEDY) -> Any:
  """Reads what `write_json` wrote; raises UserError if it is not valid JSON of this type, see `check`."""
  content = _parsed(pathlib.Path(path).read_bytes(), path, remedy)
  return check(kind, content, path, remedy)


def parse_json(content: bytes, path: str | pathlib.Path, kind: Any, remedy: str = _REMEDY) -> Any:
  """Like `read_json`, for JSON that is only part of the file `path`."""
  return check(kind, _parsed(content, path, remedy), path, remedy)


def _parsed(content: bytes, path: str | pathlib.Path, remedy: str) -> Any:
  try:
    return json.loads(content.decode("utf-8"), parse_constant=_finite, parse_float=_finite)
  except (ValueError, RecursionError) as error:
    raise damaged(path, f"it is no JSON: {error}", remedy) from error


def _finite(text: str) -> float:
  """Rejects NaN and infinities, which JSON does not have; a number beyond the largest float would become infinite."""
  if not math.isfinite(number := float(text)):
    raise ValueError(f"{text} is not a finite number")
  return number


def write_csv(path: str | pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> pathlib.Path:
  """Writes rows that all have the same keys, below a header; floats in full precision."""
  text = io.StringIO()
  writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return write_bytes(path, text.getvalue().encode(errors="backslashreplace"))  # file names may be invalid UTF-8


def read_csv(
  path: str | pathlib.Path, kind_of: Callable[[str], Any], required: Sequence[str] = (), remedy: str = EVALUATE
) -> list[dict[str, Any]]:
  """Reads what `write_csv` wrote, with each column in its type.

  Args:
    path: path of the table.
    kind_of: maps a column's name to its type; a type with None allows empty values and, for numbers, `nan`.
    required: columns that must be present.
    remedy: the end of the error message.

  Raises:
    UserError: a column is missing or appears twice, a row has the wrong number of columns, or a value has the wrong
      type. Rows are counted as in a spreadsheet: the header is row 1.
  """
  try:
    with open(path, newline="", encoding="utf-8") as file:
      names, *lines = [*csv.reader(file, strict=True)] or [[]]
  except (UnicodeDecodeError, csv.Error) as error:
    raise damaged(path, f"it is not a table of text: {error}", remedy) from error
  if missing := [name for name in required if name not in names]:
    raise damaged(path, f"it lacks {', '.join(missing)}", remedy)
  if len({*names}) < len(names):
    raise damaged(path, "two columns have one name", remedy)
  for row, line in enumerate(lines, start=2):
    if len(line) != len(names):
      raise damaged(path, f"row {row} has {len(line)} columns, and the header {len(names)}", remedy)
  columns = [_column(path, name, kind_of(name), values, remedy) for name, *values in zip(names, *lines, strict=True)]
  return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _column(path: str | pathlib.Path, name: str, kind: Any, texts: list[str], remedy: str) -> list[Any]:
  if kind in (Text, Text | None):
    values = [text or None for text in texts]
  else:
    values = [None if text in ("", "nan") else text if _WRITTEN.fullmatch(text) else "" for text in texts]
  try:
    return TypeAdapter(list[kind]).validate_python(values)
  except ValidationError as error:
    row = error.errors()[0]["loc"][0]
    expected = _expected(error.errors()[0])
    raise damaged(path, f"row {row + 2}, column {name}: {_short(texts[row])}, expected {expected}", remedy) from error


def _reason(error: ValidationError, where: str) -> str:
  """The first place of the wrong type, the value there, and what was expected."""
  first = error.errors()[0]
  *groups, last = map(str, first["loc"] or (where,))
  if first["type"] == "missing":
    return f"{'.'.join(groups) or where} lacks {last}"
  if first["type"] == "value_error":
    return str(first["ctx"]["error"])
  return f"{'.'.join((*groups, last))} is {_short(first['input'])}, expected {_expected(first)}"


def _expected(first: Any) -> str:
  return first["msg"].partition(",")[0].removeprefix("Input should be ")


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
