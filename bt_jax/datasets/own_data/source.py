"""A user's own folder as a data set: its description, its builder, and its folds."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import pathlib
import re
from typing import Any

from bt_jax.datasets import store
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import croissant, folds, layouts
from bt_jax.datasets.own_data.collection import Collection, Labels, check_hint
from bt_jax.datasets.own_data.data_description import describe
from bt_jax.datasets.own_data.own_data_dataset_builder import SPLIT, Builder, OwnConfig
from bt_jax.errors import UserError
from bt_jax.schema import slice_id


@dataclasses.dataclass(frozen=True)
class OwnSource(store.Source):
  """A folder of images and masks, see `layouts.find`.

  Attributes:
    root: the folder.
    data_dir: where built data sets live; None is TFDS's own folder.
    folds: number of folds, where no file in the folder divides patients.
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
    collection = layouts.find(self.root)
    collection.check()
    return collection

  @functools.cached_property
  def info(self) -> DatasetInfo:
    """The data set as it was built, or would be; raises UserError where there is a problem."""
    fold_of = self._fold_of
    path = pathlib.Path(self._builder(info=_EMPTY).data_path) / "metadata.json"
    known = DatasetInfo.from_json(json.loads(path.read_text())["info"]) if path.is_file() else self._described[0]
    count = len(set(fold_of.values()) - {-1})
    return dataclasses.replace(known, folds=count, patient_fields=self._fields)

  @functools.cached_property
  def _described(self) -> tuple[DatasetInfo, Labels]:
    try:
      return describe(self.collection, self.window)
    except UserError as error:
      raise check_hint(error) from None

  @functools.cached_property
  def _fold_of(self) -> dict[str, int]:
    """The fold of each case; -1 for a case that always trains."""
    return folds.divide(self.collection, self.folds)

  def _builder(self, *, title: str = "", **fields: Any) -> Builder:
    config = OwnConfig(name=self._variant, title=title, **fields)
    return Builder(config=config, data_dir=self.data_dir, file_format="array_record")

  @property
  def _fields(self) -> tuple[str, ...]:
    return tuple(next(iter(self.collection.fields.values()), {}))

  @functools.cached_property
  def _variant(self) -> str:
    """The folder's name and a hash of what is in it, so that a folder that changed is built again."""
    digest = hashlib.sha256(json.dumps([self.window, _listing(self.collection)]).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9]+", "_", self.collection.root.resolve().name).strip("_") or "data"
    return f"{name[:40]}_{digest[:12]}"

  def open_or_build(self) -> store.Builder:
    """The built data set; builds it first where it is missing; raises UserError where that fails."""
    root, info = self.collection.root, self.info

    def open_builder() -> Builder:
      return self._builder(
        title=root.resolve().name, info=info, collection=self.collection, synthetic=(root / "SYNTHETIC").is_file()
      )

    def build(builder: Builder) -> None:
      builder.builder_config.labels = self._described[1]
      store.prepare(builder, root)
      if importlib.util.find_spec("mlcroissant") is not None:  # an optional dependency
        croissant.write(pathlib.Path(builder.data_path), self.collection, info)

    return store.build_once(open_builder, build)

  def read_index(self, builder: store.Builder) -> list[store.SliceId]:
    """Every slice's id and position, in the order of cases and slices."""
    cases, index = builder.info.metadata["cases"], []
    for case in cases:
      for number, label in enumerate(case["labels"], 1):
        name, patient = case["case"], case["patient"]
        index.append(
          store.SliceId(self._fold_of[name], SPLIT, len(index), patient, name, slice_id(name, number), label)
        )
    return index

  def read_patients(self, builder: store.Builder, patients: set[str]) -> dict[str, dict[str, Any]]:
    """The fields of `cases.csv` of each of these patients."""
    return {patient: dict(self.collection.fields.get(patient, {})) for patient in patients}

  def read_spacings(self, builder: store.Builder) -> dict[str, tuple[float, float, float]]:
    """Distances in mm between slices, rows and columns of each stored case; empty unless they are known for all."""
    spacings = {case["case"]: case["spacing_mm"] for case in builder.info.metadata["cases"]}
    return {} if None in spacings.values() else {name: tuple(spacing) for name, spacing in spacings.items()}


_EMPTY = DatasetInfo("own", ("image",), ("foreground",), (1,), "image", 1, deep=True)


def _listing(collection: Collection) -> list[Any]:
  """What a build depends on: cases, and the name, size and time of each file."""
  stat = lambda file: (str(file.relative_to(collection.root)), (of := file.stat()).st_size, of.st_mtime_ns)
  labels = collection.labels and dataclasses.astuple(collection.labels)
  cases = [[case.name, case.patient, case.spacing_mm, *map(stat, case.files)] for case in collection.cases]
  return [collection.channels, labels, cases]
