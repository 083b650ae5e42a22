"""Divides a user's patients into folds: as `splits_final.json` or `cases.csv` has them, or by a hash of their names."""

import hashlib
import pathlib
from collections.abc import Sequence

from bt_jax.datasets.own_data.collection import Collection, plain, read_json, shown
from bt_jax.errors import UserError

FEWEST = 3  # to test, to validate and to train on


def count_of(collection: Collection, asked: int) -> int:
  """How many folds there are: those of a file in the folder, or as many as `asked`."""
  return asked if collection.folds is None else len(set(collection.folds.values()) - {-1})


def divide(collection: Collection, asked: int) -> dict[str, int]:
  """The fold of each case; -1 for a case that always trains.

  Args:
    collection: the cases.
    asked: number of folds, where no file in the folder divides them.

  Raises:
    UserError: there are fewer than three folds, or fewer patients than folds.
  """
  count = count_of(collection, asked)
  if count < FEWEST:
    where, argument = ("", ("data.folds",)) if collection.folds is None else (f" in the files of {collection.root}", ())
    raise UserError(
      f"there are {count} folds{where}, expected {FEWEST} or more: to test, to validate, to train", *argument
    )
  if collection.folds is not None:
    return {case.name: collection.folds.get(case.name, -1) for case in collection.cases}
  fold_of = by_hash(collection.patients, count)
  return {case.name: fold_of[case.patient] for case in collection.cases}


def by_hash(patients: Sequence[str], count: int) -> dict[str, int]:
  """The fold of each patient, by a hash of its name, which does not change as others are added.

  Where a fold would be empty, the fullest fold gives it the patient with the highest hash.

  >>> by_hash(["a", "b", "c"], 3)
  {'a': 0, 'b': 1, 'c': 2}

  Raises:
    UserError: there are fewer patients than folds.
  """
  if len(patients) < count:
    raise UserError(
      f"there are {len(patients)} patients and {count} folds: set data.folds to {len(patients)} or less", "data.folds"
    )
  hashes = {
    patient: int.from_bytes(hashlib.sha256(patient.encode(errors="surrogateescape")).digest()[:8], "big")
    for patient in patients
  }
  fold_of = {patient: number % count for patient, number in hashes.items()}
  while empty := set(range(count)) - set(fold_of.values()):
    members = {fold: [patient for patient, of in fold_of.items() if of == fold] for fold in range(count)}
    fullest = max(members.values(), key=lambda group: (len(group), -fold_of[group[0]] if group else 0))
    fold_of[max(fullest, key=hashes.__getitem__)] = min(empty)
  return fold_of


def read_splits(collection: Collection) -> None:
  """Reads the folds of `splits_final.json`, if it is in the folder: a case is in the fold that validates on it."""
  path = collection.root / "splits_final.json"
  if not path.is_file():
    return
  collection.described.append(path)
  try:
    folds = [{part: list(map(plain, fold[part])) for part in ("train", "val")} for fold in _lists(read_json(path))]
  except UserError as error:
    collection.unreadable(path, error)
    return
  except (TypeError, KeyError, ValueError):
    collection.problem(f'{path} is not a list of {{"train": [...], "val": [...]}}: correct it, or remove it')
    return
  by_table = collection.folds
  collection.folds = _folds(collection, path, folds)
  if by_table is not None and by_table != {case: fold for case, fold in collection.folds.items() if fold >= 0}:
    collection.problem(
      f"{path} and the column fold of {collection.root / 'cases.csv'} divide cases differently: remove one"
    )


def _lists(content: object) -> list:
  """The folds, each of two lists; raises ValueError for anything else."""
  if not isinstance(content, list) or not all(
    isinstance(fold[part], list) and all(isinstance(name, str) for name in fold[part])
    for fold in content
    for part in ("train", "val")
  ):
    raise ValueError
  return content


def _folds(collection: Collection, path: pathlib.Path, folds: Sequence[dict[str, list[str]]]) -> dict[str, int]:
  fold_of, trained, names = {}, {name for fold in folds for name in fold["train"]}, collection.names
  for name in dict.fromkeys(name for fold in folds for part in fold.values() for name in part):
    if name not in names:
      collection.problem(f"{path} names {name}, which is not a case of {collection.root}: remove it there, or add it")
  for number, fold in enumerate(folds):
    for name in fold["val"]:
      if name in fold["train"]:
        collection.problem(f"{path} has {name} in train and in val of fold {number}: leave it in one of them")
      if name in fold_of:
        collection.problem(f"{path} has {name} in val of the folds {fold_of[name]} and {number}: leave it in one")
      else:
        fold_of[name] = number
    if not fold["val"]:
      collection.problem(f"{path} has no case in val of fold {number}: add some, or remove the fold")
  for name in sorted(names - fold_of.keys() - trained):
    collection.problem(f"{path} has {name} in no fold: add it to one of them, or move the case away")
  if untested := [case.name for case in collection.cases if case.name in trained and case.name not in fold_of]:
    collection.notes.append(f"{len(untested)} cases are in no val of {path.name}, and always train: {shown(untested)}")
  return {name: fold_of.get(name, -1) for name in names}


def check_patients(collection: Collection) -> None:
  """Adds a problem for each patient whose cases are in several folds, or partly in none."""
  seen: dict[str, tuple[int, str]] = {}
  for case in collection.cases if collection.folds is not None else ():
    fold = collection.folds.get(case.name, -1)
    first_fold, first = seen.setdefault(case.patient, (fold, case.name))
    if fold != first_fold:
      named = [
        f"{name} in {f'fold {of}' if of >= 0 else 'none'}" for name, of in ((first, first_fold), (case.name, fold))
      ]
      collection.problem(f"{case.patient} has {named[0]} and {named[1]}: put all cases of a patient in one fold")
