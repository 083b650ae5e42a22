"""`cases.csv` in a user's folder: the patient of each case, the fold that tests it, and what else is known of patients."""

import csv
import dataclasses
import io
import pathlib
import re

from bt_jax.datasets.own_data.collection import Collection, plain, shown
from bt_jax.errors import UserError, one_line

_OURS = ("case", "patient", "fold")
# Columns of a run's tables, which a field of patients would replace.
_TAKEN = {
  "data", "split", "slice", "slices", "tumor_slices", "label", "probability", "calibrated", "prediction", "class",
  "baseline", "unit", "bin", "pixels", "tp", "fp", "fn", "tn", "dice", "iou", "size", "all", "none",
}  # fmt: skip
_MOST_FOLDS = 100
Row = dict[str, str]


def case_names(root: pathlib.Path) -> set[str]:
  """The names of cases in the table; empty where it cannot be read."""
  path = root / "cases.csv"
  try:
    _, rows = _read(path) if path.is_file() else ([], [])
  except UserError:  # reported once the cases are known
    return set()
  return {row["case"] for _, row in rows if row is not None}


def apply(collection: Collection) -> None:
  """Gives the cases of a collection the patients, folds and fields of the table, where there is one."""
  path = collection.root / "cases.csv"
  if not path.is_file():
    for other in collection.root.glob("[cC][aA][sS][eE][sS].[cC][sS][vV]"):
      collection.problem(f"{other} is not read: rename it to {path.name}, or move it away")
    return
  collection.described.append(path)
  try:
    columns, rows = _read(path)
  except UserError as error:
    collection.unreadable(path, error)
    return
  fields = [name for name in columns if name not in _OURS]
  if taken := [name for name in fields if name in _TAKEN]:
    collection.problem(f"{path} has a column {taken[0]}, which results have too: rename it")
    fields = [name for name in fields if name not in taken]
  row_of = _by_case(collection, path, rows)
  collection.cases = [
    dataclasses.replace(case, patient=row_of.get(case.name, {}).get("patient") or case.patient)
    for case in collection.cases
  ]
  if "fold" in columns:
    collection.folds = _folds(collection, path, row_of)
  _read_fields(collection, path, row_of, fields)


def _read(path: pathlib.Path) -> tuple[list[str], list[tuple[int, Row | None]]]:
  """The columns, and the number and content of each line; None for a line that has more or fewer fields than the header."""
  if not path.stat().st_size:
    raise UserError(f"{path} is empty (0 bytes): copy it again, or remove it")
  try:
    text = path.read_text(encoding="utf-8-sig")
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    lines = [(reader.line_num, list(map(plain, line))) for line in reader if any(map(str.strip, line))]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} cannot be read as a table ({one_line(error)}): save it as CSV in UTF-8") from error
  header = [_column(name) for name in (lines[0][1] if lines else [])]
  if "case" not in header:
    raise UserError(f"{path} has the columns {shown(header) or 'none'}, expected one called case: add it")
  if twice := [name for name in header if name and header.count(name) > 1]:
    raise UserError(f"{path} has two columns called {twice[0]}: rename one of them")
  rows = [
    (number, dict(zip(header, line, strict=True)) if len(line) == len(header) else None) for number, line in lines[1:]
  ]
  return [name for name in header if name], rows


def _column(name: str) -> str:
  """The name of a column, that of ours for what means the same, such as `Patient ID`."""
  letters = re.sub("[^a-z]", "", name.lower())
  if letters in ("patientid", "patientname", "subject", "subjectid", "participant", "participantid"):
    return "patient"
  return {"caseid": "case"}.get(letters, letters if letters in _OURS else name)


def _by_case(collection: Collection, path: pathlib.Path, rows: list[tuple[int, Row | None]]) -> dict[str, Row]:
  row_of: dict[str, Row] = {}
  for number, row in rows:
    if row is None:
      collection.problem(f"{path}, line {number} does not have as many fields as the header: correct it")
    elif row["case"] in row_of:
      collection.problem(f"{path}, line {number}: {row['case']} is there twice: leave one of them out")
    else:
      row_of[row["case"]] = row
  names = collection.names
  for name in row_of:
    if name not in names:
      collection.problem(
        f"{path} names the case {name}, which is not in {collection.root}: leave it out, or add its files"
      )
  for name in sorted(names - row_of.keys()):
    collection.problem(f"{path} has no row for the case {name}: add one")
  return row_of


def _folds(collection: Collection, path: pathlib.Path, row_of: dict[str, Row]) -> dict[str, int]:
  folds = {}
  for name, row in row_of.items():
    if not row["fold"].isdecimal() or int(row["fold"]) >= _MOST_FOLDS:
      collection.problem(f"{path} says that {name} is in the fold {row['fold']!r}, expected a number from 0 on")
    else:
      folds[name] = int(row["fold"])
  if folds and (lacking := sorted(set(range(max(folds.values()))) - set(folds.values()))):
    collection.problem(
      f"{path} has no case in the fold {lacking[0]}, and some in {max(folds.values())}: number folds 0, 1, ... without a gap"
    )
  return folds


def _read_fields(collection: Collection, path: pathlib.Path, row_of: dict[str, Row], fields: list[str]) -> None:
  for case in collection.cases:
    values = {name: row_of.get(case.name, {}).get(name, "") for name in fields}
    known = collection.fields.setdefault(case.patient, values)
    for name in fields:
      if known[name] != values[name]:
        collection.problem(
          f"{path} says that {name} of {case.patient} is {known[name]!r} and {values[name]!r}: correct one of its rows"
        )
