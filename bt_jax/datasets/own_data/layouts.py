"""Recognises how a user's folder of images and masks is laid out, and lists its cases; opens no image."""

import csv
import io
import pathlib
from collections.abc import Callable

from bt_jax.datasets.own_data import folders, nnunet
from bt_jax.datasets.own_data.collection import Case, Collection, shown
from bt_jax.errors import UserError
from bt_jax.scans import discovery

EXPECTED = (
  "dataset.json with imagesTr/ and labelsTr/ (nnU-Net, Medical Segmentation Decathlon); a folder for each case with its "
  "sequences and *_seg.nii.gz (BraTS); images/ and masks/; or X.png with X_mask.png beside it"
)
_MOST_FOLDS = 100
# Columns of the tables of a run, which a field of a patient would stand in the place of.
_TAKEN = {
  "data", "split", "case", "patient", "slice", "slices", "tumor_slices", "label", "probability", "calibrated", "prediction",
  "class", "baseline", "unit", "bin", "pixels", "tp", "fp", "fn", "tn", "dice", "iou", "size", "all", "none",
}  # fmt: skip

# The first that recognises a folder lists it.
_LAYOUTS: tuple[Callable[[pathlib.Path, dict[pathlib.Path, list[pathlib.Path]]], Collection | None], ...] = (
  nnunet.read,
  folders.read_images_and_masks,
  folders.read_case_folders,
  folders.read_masks_beside,
)


def find(root: str | pathlib.Path | None, *, masks: bool = True) -> Collection:
  """The cases in a folder, with all that is wrong with it as far as names and small files tell.

  Args:
    root: the folder.
    masks: whether every case must have a mask, as for training.

  Raises:
    UserError: there is no such folder, or no layout that is known.
  """
  if root is None:
    raise UserError(f"data.name=own needs data.root=DIR, a folder with {EXPECTED}", "data.root=DIR")
  root = pathlib.Path(root).expanduser()
  if not root.is_dir():
    raise UserError(f"{root} is not a folder: name one with {EXPECTED}", "data.root")
  listed = dict(discovery.walk(root))
  collection = next((found for read in _LAYOUTS if (found := read(root, listed)) is not None), None)
  if collection is None:
    raise UserError(f"{root} has no layout that is known, expected {EXPECTED}", "data.root")
  collection.cases.sort(key=lambda case: discovery.natural(case.name))
  _read_cases_csv(collection)
  _check_files(collection)
  _check_cases(collection, masks=masks)
  return collection


def _check_files(collection: Collection) -> None:
  inside = collection.root.resolve()
  for file in (file for case in collection.cases for file in case.files):
    if not file.resolve().is_relative_to(inside):
      collection.problem(f"{file} is a link to {file.resolve()}, outside of {collection.root}: copy the file here")
    elif file.stat().st_size == 0:
      collection.problem(f"{file} is empty (0 bytes): copy it again")


def _check_cases(collection: Collection, *, masks: bool) -> None:
  if not collection.cases and not collection.problems:
    collection.problem(f"{collection.root} holds no case, expected {EXPECTED}", "data.root")
  alike: dict[str, str] = {}
  for case in collection.cases:
    if (other := alike.setdefault(case.name.casefold(), case.name)) != case.name:
      collection.problem(f"the cases {other} and {case.name} differ in capitals alone: rename one of them")
    if masks and not case.masks:
      collection.problem(f"{case.images[0][0]} has no mask: add one to {case.name}, or move the image away")
  if masks and len(collection.cases) == 1:
    (case,) = collection.cases
    collection.problem(
      f"{collection.root} holds one case only, {case.name}: expected three patients or more; images whose names differ in "
      "their last number alone are slices of one case, unless cases.csv names each as a case"
    )
  elif masks and len(collection.patients) < 3 and collection.cases:
    collection.problem(
      f"{collection.root} holds {len(collection.patients)} patients ({shown(collection.patients)}): expected three or more, "
      "to train, to validate and to test"
    )
  of_case = collection.folds or {}
  fold_of: dict[str, tuple[int, str]] = {}
  for case in collection.cases:
    if case.name in of_case:
      fold, first = fold_of.setdefault(case.patient, (of_case[case.name], case.name))
      if fold != of_case[case.name]:
        collection.problem(
          f"{case.patient} is in the folds {fold} and {of_case[case.name]}, by its cases {first} and {case.name}: put all cases "
          "of a patient in one"
        )


def _read_cases_csv(collection: Collection) -> None:
  """Patients, folds and fields by `cases.csv`, where it lies in the folder."""
  path = collection.root / "cases.csv"
  if not path.is_file():
    return
  try:
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
    table = list(rows)
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    collection.problem(f"{path} cannot be read as a table ({error}): save it as CSV in UTF-8")
    return
  columns = [name for name in (rows.fieldnames or ()) if name]
  if "case" not in columns:
    collection.problem(f"{path} has the columns {shown(columns)}, expected one called case: add it")
    return
  fields = [name for name in columns if name not in ("case", "patient", "fold")]
  if taken := [name for name in fields if name in _TAKEN]:
    collection.problem(f"{path} has a column {taken[0]}, which results have too: rename it")
    fields = [name for name in fields if name not in taken]
  row_of: dict[str, dict[str, str]] = {}
  for number, row in enumerate(table, 2):
    if None in row or None in row.values():
      collection.problem(f"{path}, line {number} does not have as many fields as the header: correct it")
    elif row["case"] in row_of:
      collection.problem(f"{path}, line {number}: {row['case']} is there twice: leave one of them out")
    else:
      row_of[row["case"]] = row
  names = {case.name for case in collection.cases}
  for name in row_of.keys() - names:
    collection.problem(
      f"{path} names the case {name}, which is not in {collection.root}: leave it out, or add its files"
    )
  for name in sorted(names - row_of.keys()):
    collection.problem(f"{path} has no row for the case {name}: add one")
  collection.cases = [
    Case(case.name, row_of.get(case.name, {}).get("patient") or case.patient, case.images, case.masks)
    for case in collection.cases
  ]
  if "fold" in columns:
    collection.folds = {}
    for name, row in row_of.items():
      if not row["fold"].isdecimal() or int(row["fold"]) >= _MOST_FOLDS:
        collection.problem(f"{path} says that {name} is in the fold {row['fold']!r}, expected a number from 0 on")
      else:
        collection.folds[name] = int(row["fold"])
  for case in collection.cases:
    said = {name: row_of.get(case.name, {}).get(name, "") for name in fields}
    known = collection.fields.setdefault(case.patient, said)
    for name in fields:
      if known[name] != said[name]:
        collection.problem(
          f"{path} says that {name} of {case.patient} is {known[name]!r} and {said[name]!r}: correct one of its rows"
        )
