"""A user's own folder as a data set: what it is, its builder, and its folds."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from bt_jax.datasets import store
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import case_volumes, croissant, folders, layouts
from bt_jax.datasets.own_data.collection import Collection, Labels
from bt_jax.datasets.own_data.own_data_dataset_builder import SPLIT, Builder, OwnConfig
from bt_jax.errors import UserError
from bt_jax.scans import sequences
from bt_jax.schema import slice_id

LARGEST = 512  # pixels of a side of a stored slice
_FEWEST_FOLDS = 3  # to test, to validate and to train on
_FOREGROUND = "foreground"


@dataclasses.dataclass(frozen=True)
class OwnSource(store.Source):
  """A folder of images and masks, see `layouts.find`.

  Attributes:
    root: the folder.
    data_dir: where built data sets live; None is TFDS's own folder.
    folds: that patients are divided into, where no file in the folder divides them.
    window: the intensities that become black and white, e.g. `-160,240`; empty where each volume has its own.
  """

  root: str | None
  data_dir: str | None
  folds: int = 5
  window: str = ""

  @functools.cached_property
  def collection(self) -> Collection:
    """The cases; raises UserError for the first problem."""
    store.check_folders(self.root, self.data_dir)
    found = layouts.find(self.root)
    found.check()
    return found

  @functools.cached_property
  def info(self) -> DatasetInfo:
    """Of the data set, as it was built, or as it would be; raises UserError where there is a problem."""
    config = OwnConfig(name=self._variant, title="", info=_EMPTY)
    built = pathlib.Path(Builder(config=config, data_dir=self.data_dir, file_format="array_record").data_path)
    path = built / "metadata.json"
    known = json.loads(path.read_text())["info"] if path.is_file() else describe(self.collection, self.window).to_json()
    folds = len(set(self.collection.folds.values())) if self.collection.folds is not None else self.folds
    if folds < _FEWEST_FOLDS:
      raise UserError(
        f"there are {folds} folds, expected {_FEWEST_FOLDS} or more: to test, to validate, to train", "data.folds"
      )
    return dataclasses.replace(DatasetInfo.from_json(known), folds=folds, patient_fields=self._fields)

  @property
  def _fields(self) -> tuple[str, ...]:
    return tuple(next(iter(self.collection.fields.values()), {}))

  @functools.cached_property
  def _variant(self) -> str:
    """The folder's name and a hash of what is in it, so that a folder that changed is built anew."""
    digest = hashlib.sha256(json.dumps([self.window, _listing(self.collection)]).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9]+", "_", self.collection.root.resolve().name).strip("_") or "data"
    return f"{name[:40]}_{digest[:12]}"

  def open_or_build(self) -> store.Builder:
    """The built data set; builds it first where it is missing; raises UserError where that cannot be."""
    title, info = self.collection.root.resolve().name, self.info
    synthetic = (self.collection.root / "SYNTHETIC").is_file()
    config = OwnConfig(name=self._variant, title=title, info=info, collection=self.collection, synthetic=synthetic)

    def build(builder: store.Builder) -> None:
      store.prepare(builder, self.collection.root)
      if importlib.util.find_spec("mlcroissant") is not None:  # of an extra
        croissant.write(pathlib.Path(builder.data_path), self.collection, info)

    return store.build_once(lambda: Builder(config=config, data_dir=self.data_dir, file_format="array_record"), build)

  def read_index(self, builder: store.Builder) -> list[store.SliceId]:
    """Every slice's id and position, in the order of cases and slices."""
    cases, index = builder.info.metadata["cases"], []
    fold_of = self._folds()
    for case in cases:
      for number, label in enumerate(case["labels"], 1):
        name, patient = case["case"], case["patient"]
        index.append(store.SliceId(fold_of[name], SPLIT, len(index), patient, name, slice_id(name, number), label))
    return index

  def _folds(self) -> dict[str, int]:
    """The fold of each case; -1 of one that always trains."""
    cases = self.collection.cases
    if self.collection.folds is not None:
      numbers = {fold: number for number, fold in enumerate(sorted(set(self.collection.folds.values())))}
      return {case.name: numbers.get(self.collection.folds.get(case.name), -1) for case in cases}
    fold_of = folds_by_hash(self.collection.patients, self.info.folds)
    return {case.name: fold_of[case.patient] for case in cases}

  def read_patients(self, builder: store.Builder, patients: set[str]) -> dict[str, dict[str, Any]]:
    """The fields of `cases.csv` of each of these patients."""
    return {patient: dict(self.collection.fields.get(patient, {})) for patient in patients}

  def read_spacings(self, builder: store.Builder) -> dict[str, tuple[float, float, float]]:
    """Mm between slices, rows and columns of each case as it is stored; empty where they are not known of all."""
    spacings = {case["case"]: case["spacing_mm"] for case in builder.info.metadata["cases"]}
    return {} if None in spacings.values() else {name: tuple(spacing) for name, spacing in spacings.items()}


_EMPTY = DatasetInfo("own", ("image",), (_FOREGROUND,), (1,), "image", 1, deep=True)


def _listing(collection: Collection) -> list[Any]:
  """What a build depends on: cases, and the name, size and time of each file."""
  stat = lambda file: (str(file.relative_to(collection.root)), (of := file.stat()).st_size, of.st_mtime_ns)
  labels = collection.labels and dataclasses.astuple(collection.labels)
  cases = [[case.name, case.patient, *map(stat, case.files)] for case in collection.cases]
  return [collection.channels, labels, cases]


def folds_by_hash(patients: Sequence[str], count: int) -> dict[str, int]:
  """The fold of each patient, by a hash of its name, which does not change as others are added.

  Of so few patients that a fold would be empty, the fullest gives it the one with the highest hash.

  >>> folds_by_hash(["a", "b", "c"], 3)
  {'a': 2, 'b': 1, 'c': 0}

  Raises:
    UserError: there are fewer patients than folds.
  """
  if len(patients) < count:
    raise UserError(
      f"there are {len(patients)} patients and {count} folds: set data.folds to {len(patients)} or less", "data.folds"
    )
  hashes = {patient: int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") for patient in patients}
  fold_of = {patient: number % count for patient, number in hashes.items()}
  while empty := set(range(count)) - set(fold_of.values()):
    members = {fold: [patient for patient, of in fold_of.items() if of == fold] for fold in range(count)}
    fullest = max(members.values(), key=lambda group: (len(group), -fold_of[group[0]] if group else 0))
    fold_of[max(fullest, key=hashes.__getitem__)] = min(empty)
  return fold_of


def describe(collection: Collection, window: str) -> DatasetInfo:
  """What the data set is, by the headers of its files, and by its masks where no file says what is in them.

  Raises:
    UserError: a header or a mask cannot be read, or intensities of CT have no window.
  """
  longest = max(case_volumes.in_plane(case)[0] for case in collection.cases)
  channels = collection.channels or _channels(collection)
  labels = collection.labels = collection.labels or read_labels(collection)
  reference = next((name for name in channels if sequences.in_name(name)[0] == "flair"), channels[0])
  if not window and any(name.upper() == "CT" for name in channels):
    raise UserError(
      f"{collection.root} is of CT, whose intensities mean the same in every scan: name those that become black and white as "
      "data.window, e.g. -160,240 of soft tissue",
      "data.window",
    )
  return DatasetInfo(
    name=collection.root.resolve().name,
    channels=channels,
    classes=tuple(labels.values),
    ids=labels.ids,
    reference=reference,
    size=min(longest, LARGEST),
    overlapping=labels.overlapping,
    window=parse_window(window),
    deep=True,
  )


def parse_window(text: str) -> tuple[float, ...]:
  """The intensities that become black and white; empty where the text is; raises UserError where it is not two numbers."""
  if not text:
    return ()
  try:
    low, high = map(float, text.split(","))
  except ValueError:
    low, high = 0.0, 0.0
  if not low < high < np.inf:
    raise UserError(f"data.window is {text!r}, expected two numbers, the lower first, e.g. -160,240", "data.window")
  return low, high


def _channels(collection: Collection) -> tuple[str, ...]:
  """Names for channels that have none, as many as the first case has."""
  count = case_volumes.read_image(collection.cases[0], ()).values.shape[-1]
  return {1: ("image",), 3: ("red", "green", "blue")}.get(count) or tuple(f"channel_{n}" for n in range(1, count + 1))


def read_labels(collection: Collection) -> Labels:
  """What the masks hold, where no file says; raises UserError where it makes no sense."""
  where: dict[int, pathlib.Path] = {}
  for case in tqdm(collection.cases, desc="reading masks", unit="case", leave=False):
    for value in np.unique(case_volumes.read_numbers(case).values).tolist():
      where.setdefault(value, case.masks[0])
  values = sorted(where.keys() - {0})
  if not values:
    raise UserError(f"every mask in {collection.root} is empty: expected numbers of classes, 0 is the background")
  if values == [1, 255]:
    raise UserError(f"masks are marked by 1, as in {where[1]}, and by 255, as in {where[255]}: save them all alike")
  if len(values) == 1:
    return Labels({_FOREGROUND: tuple(values)}, (1,))
  if collection.layout == "BraTS" and set(values) in ({1, 2, 3}, {1, 2, 4}):
    return folders.brats_labels(values)
  return Labels({f"label_{value}": (value,) for value in values}, tuple(values))
