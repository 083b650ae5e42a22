"""Which slices train, validate and test: patient folds, the random split of slices, and `split.json`."""

import dataclasses
import hashlib
import json
import math
import pathlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from bt_jax import files
from bt_jax.datasets.store import SliceId
from bt_jax.errors import UserError, choose
from bt_jax.options import taken

Folds = tuple[int, ...]
SUBSETS = ("train", "validation", "test")
RANDOM_NAME = "random_slices_leaky"
RANDOM_TEST_SHARE = 0.15  # of 3,929 slices: the 590 of the paper
BUDA_NAME = "patients_buda10"
ALL_NAME = "all_patients"
GROUP_VALIDATION = 2  # folds, those after the last that is tested
BUDA_SEED, BUDA_TEST, BUDA_VALIDATION = 42, 10, 5  # cases


@dataclasses.dataclass(frozen=True)
class Split:
  """The slice ids of each subset; ids are `case/number`, ordered.

  Attributes:
    name: what every output calls the split, e.g. `patient_fold_07` or `random_slices_leaky`.
    leaky: slices of one patient are in more than one subset.
  """

  name: str
  leaky: bool
  train: tuple[str, ...]
  validation: tuple[str, ...]
  test: tuple[str, ...]

  @property
  def hash(self) -> str:
    """SHA-256 of the name and the ids of each subset, in hexadecimal."""
    content = json.dumps([self.name, *(getattr(self, subset) for subset in SUBSETS)])
    return hashlib.sha256(content.encode()).hexdigest()

  def to_json(self, data: str) -> dict:
    """The content of `split.json`."""
    return {"data": data, "hash": self.hash, **dataclasses.asdict(self)}


class Record(TypedDict):
  """The content of `split.json`."""

  data: str
  hash: str
  name: str
  leaky: bool
  train: list[str]
  validation: list[str]
  test: list[str]


def read(folder: pathlib.Path) -> Record:
  """The `split.json` of a run; raises UserError where it is damaged, or its ids do not match its hash."""
  path = folder / "split.json"
  remedy = "start the run's command again where it is of this data, or train it again"
  record = files.read_json(path, Record, remedy)
  split = Split(record["name"], record["leaky"], *(tuple(record[subset]) for subset in SUBSETS))
  if split.hash != record["hash"]:
    raise files.damaged(path, "its slices do not match its hash", remedy)
  return record


def make_split(index: Sequence[SliceId], *, kind: str, fold: int, seed: int, count: int, folds: str = "") -> Split:
  """The split of a run; the same arguments give the same split.

  Args:
    index: every slice, ordered by id.
    kind: `fold`: test is `fold`, validation the next fold, training the rest, by patient. `group`: test are `folds`,
      validation the two folds after the last of them, which wrap around to 0. `random`: 15 % of the slices
      (rounded up) test and as many validate, regardless of patient. `buda10`: test are the ten cases that
      github.com/mateuszbuda/brain-segmentation-pytorch validates on, `random.sample(sorted(cases), 10)` seeded with 42;
      five others validate, drawn next by the same generator, and the rest train. `all`: every slice trains, for a
      network to hand out, whose quality is that of the cross-validation of its configuration.
    fold: 0 to `count` - 1; read by `fold` only.
    seed: read by `random` only.
    count: number of folds of the data set.
    folds: numbers and ranges, e.g. `0-4`; read by `group` only.

  Raises:
    UserError: no such kind or fold, an empty set, or a patient in two sets of a patient split.
  """
  check_choice(kind=kind, fold=fold, count=count, folds=folds)
  draw = KINDS[kind]
  split = draw(index, **taken(draw, {"fold": fold, "folds": folds, "seed": seed, "count": count}))
  _check(split, index, ("train",) if kind == "all" else SUBSETS)
  return split


def check_choice(*, kind: str, fold: int, count: int, folds: str = "") -> None:
  """Raises UserError where there is no such kind of split, no such fold, or no fold is left to train or validate."""
  choose("split.kind", kind, KINDS)
  if kind == "fold" and not 0 <= fold < count:
    raise UserError(f"split.fold is {fold}, expected 0 to {count - 1}")
  if kind == "group":
    _group(folds, count)


def parse_folds(field: str, names: str, count: int) -> Folds:
  """The folds, out of `count`, that a field names: `all`, or numbers and ranges, `0,3-6`; raises UserError for anything else."""
  if names == "all":
    return tuple(range(count))
  folds = _numbers(names)
  if not folds or folds[-1] >= count:
    raise UserError(
      f"{field} is {names!r}, expected all, or some of 0 to {count - 1} as in 0,{min(3, count - 2)}-{min(6, count - 1)}"
    )
  return folds


def _numbers(names: str) -> Folds | None:
  """The numbers in a text such as `0,3-6`, in order; None where it is not one."""
  folds: set[int] = set()
  for part in names.split(","):
    match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
    if not match or int(match[2] or match[1]) < int(match[1]):
      return None
    folds |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
  return tuple(sorted(folds))


def format_folds(folds: Sequence[int], digits: int = 1) -> str:
  """Folds as `parse_folds` reads them, e.g. `0,3-6`, each number with at least this many digits."""
  runs: list[list[int]] = []
  for fold in folds:
    if runs and fold == runs[-1][-1] + 1:
      runs[-1].append(fold)
    else:
      runs.append([fold])
  return ",".join("-".join(f"{fold:0{digits}d}" for fold in dict.fromkeys((run[0], run[-1]))) for run in runs)


def folds_name(folds: Sequence[int]) -> str:
  """The name of the split that tests these folds: `patient_fold_07`, `patient_folds_00-04`."""
  return f"patient_{folder_name(folds)}"


def folder_name(folds: Sequence[int]) -> str:
  """The name of the folder of a run that tests these folds: `fold_07`, `folds_00-04`."""
  return f"{'folds' if len(folds) > 1 else 'fold'}_{format_folds(folds, 2)}"


def folds_label(folds: Sequence[int]) -> str:
  """Folds in a sentence: `fold 7`, `folds 0-4`."""
  return f"{'folds' if len(folds) > 1 else 'fold'} {format_folds(folds)}"


def groups_of(folds: Sequence[int], size: int, count: int) -> list[Folds]:
  """The groups of `size` neighbouring folds out of `count`, counted from fold 0, that hold any of these folds."""
  groups = [tuple(range(start, min(start + size, count))) for start in range(0, count, size)]
  return [group for group in groups if set(group) & set(folds)]


def testing(split: Mapping[str, Any], folds: Folds) -> dict[str, Any]:
  """The `split` section of a configuration, changed to test these folds."""
  if len(folds) == 1:
    return {**split, "kind": "fold", "fold": folds[0]}
  return {**split, "kind": "group", "folds": format_folds(folds)}


def tested_folds(split: Mapping[str, Any]) -> Folds:
  """The folds that the `split` section of a configuration tests; empty where it is not a split by folds."""
  if split.get("kind") == "group":
    return _numbers(split["folds"]) or ()
  return (split["fold"],) if split.get("kind") == "fold" else ()


def _group(folds: str, count: int) -> tuple[Folds, Folds]:
  """The folds that a group tests, and those that validate."""
  test = parse_folds("split.folds", folds, count)
  if len(test) + GROUP_VALIDATION >= count:
    raise UserError(
      f"split.folds={folds} tests {len(test)} of {count} folds, and {GROUP_VALIDATION} validate: none is left to train on; "
      f"name at most {count - GROUP_VALIDATION - 1}"
    )
  validation: list[int] = []
  fold = test[-1]
  while len(validation) < GROUP_VALIDATION:
    fold = (fold + 1) % count
    if fold not in test:
      validation.append(fold)
  return test, tuple(validation)


def _fold_split(index: Sequence[SliceId], test: Sequence[int], validation: Sequence[int]) -> Split:
  subset_of = dict.fromkeys(test, "test") | dict.fromkeys(validation, "validation")
  return _by_part(folds_name(test), index, lambda entry: subset_of.get(entry.fold, "train"))


def _random_split(index: Sequence[SliceId], *, seed: int) -> Split:
  share = math.ceil(RANDOM_TEST_SHARE * len(index))
  order = np.random.default_rng(seed).permutation(len(index))
  chosen = {"test": order[:share], "validation": order[share : 2 * share], "train": order[2 * share :]}
  return Split(
    RANDOM_NAME,
    True,
    **{subset: tuple(index[number].id for number in sorted(numbers)) for subset, numbers in chosen.items()},
  )


def _buda_split(index: Sequence[SliceId]) -> Split:
  cases = sorted({entry.case for entry in index})
  if len(cases) <= BUDA_TEST + BUDA_VALIDATION:
    raise UserError(
      f"split.kind=buda10 takes {BUDA_TEST} cases to test and {BUDA_VALIDATION} to validate, but this data set has {len(cases)} in all: "
      "take split.kind=fold",
      "split.kind=fold",
    )
  generator = random.Random(BUDA_SEED)
  test = generator.sample(cases, BUDA_TEST)
  validation = generator.sample([case for case in cases if case not in test], BUDA_VALIDATION)
  subset_of = dict.fromkeys(test, "test") | dict.fromkeys(validation, "validation")
  return _by_part(BUDA_NAME, index, lambda entry: subset_of.get(entry.case, "train"))


# The kinds of splits by name. The keyword arguments of each are `count` and fields of a configuration's section `split`.
KINDS: dict[str, Callable[..., Split]] = {
  "fold": lambda index, *, fold, count: _fold_split(index, (fold,), ((fold + 1) % count,)),
  "group": lambda index, *, folds, count: _fold_split(index, *_group(folds, count)),
  "random": _random_split,
  "buda10": _buda_split,
  "all": lambda index: _by_part(ALL_NAME, index, lambda entry: "train"),
}


def _by_part(name: str, index: Sequence[SliceId], subset_of: Callable[[SliceId], str]) -> Split:
  subsets: dict[str, list[str]] = {subset: [] for subset in SUBSETS}
  for entry in index:
    subsets[subset_of(entry)].append(entry.id)
  return Split(name, False, **{subset: tuple(ids) for subset, ids in subsets.items()})


def _check(split: Split, index: Sequence[SliceId], needed: Sequence[str]) -> None:
  for subset in needed:
    if not getattr(split, subset):
      folds = sorted({entry.fold for entry in index})
      raise UserError(
        f"the {subset} set of {split.name} is empty: this data set has patients in the folds {folds}, choose by split.fold or split.folds",
        "split.fold",
        "split.folds",
      )
  patient = {entry.id: entry.patient for entry in index}
  seen: dict[str, str] = {}
  for subset in SUBSETS:
    for name in getattr(split, subset):
      if seen.setdefault(patient[name], subset) != subset and not split.leaky:
        raise UserError(
          f"{patient[name]} is in the {seen[patient[name]]} and the {subset} set of {split.name}: that leaks"
        )
