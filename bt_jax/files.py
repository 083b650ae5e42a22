"""Writes files aside and renames them, so that a killed run never leaves half a file."""

import csv
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bt_jax.errors import UserError


def write_bytes(path: str | pathlib.Path, content: bytes) -> pathlib.Path:
  """Writes `content` to `path`, whole or not at all, and makes the folder if need be."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.with_name(f".{path.name}.incomplete")
  try:
    with open(aside, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    aside.replace(path)
  finally:
    aside.unlink(missing_ok=True)
  return path


def sha256_of(paths: Sequence[str | pathlib.Path]) -> str:
  """The SHA-256 of the bytes of these files, one after another, in hexadecimal; their names do not count."""
  digest = hashlib.sha256()
  for path in paths:
    with open(path, "rb") as file:
      while block := file.read(2**20):
        digest.update(block)
  return digest.hexdigest()


def write_json(path: str | pathlib.Path, content: Any) -> pathlib.Path:
  """Writes JSON, indented, keys in the order given."""
  return write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: str | pathlib.Path) -> Any:
  """What `write_json` wrote; raises UserError where the file is damaged."""
  try:
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}): put the file back, or choose another folder") from error


def read_csv(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """What `write_csv` wrote, with its integers, floats, booleans, and None for what is empty or nan; raises UserError where it is damaged."""
  try:
    with open(path, newline="", encoding="utf-8") as file:
      names, *lines = [*csv.reader(file)] or [[]]
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} is damaged (it is no table of text): evaluate its run again") from error
  if any(len(line) != len(names) for line in lines):
    raise UserError(f"{path} is damaged (a line has more or fewer columns than its head): evaluate its run again")
  return [{name: _value(text) for name, text in zip(names, line, strict=True)} for line in lines]


def _value(text: str) -> Any:
  if text in ("", "nan"):
    return None
  if text in ("True", "False"):
    return text == "True"
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      continue
  return text


def write_csv(path: str | pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> pathlib.Path:
  """Writes rows that share their keys under a header; floats in full precision."""
  text = io.StringIO()
  writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return write_bytes(path, text.getvalue().encode(errors="backslashreplace"))  # names that are no UTF-8
