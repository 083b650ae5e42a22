"""The data of a run: its data set and its split."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from bt_jax import files
from bt_jax.datasets import splits, store
from bt_jax.datasets.channels import context_of
from bt_jax.datasets.store import Source
from bt_jax.distributed import hosts
from bt_jax.errors import UserError
from bt_jax.pipeline import percentiles
from bt_jax.runs.components import Components
from bt_jax.schema import Slices


@dataclasses.dataclass(frozen=True)
class Data:
  """The data set of a run, its split, and the names that outputs give them.

  Attributes:
    source: source of the data set.
    builder: builder of the data set.
    index: index of all its slices.
    split: the slices for training, validation and test.
    reader: reads slices by id, with their contrast enhanced.
  """

  source: Source
  builder: store.Builder
  index: list[store.SliceId]
  split: splits.Split
  reader: store.Reader

  @property
  def title(self) -> str:
    return self.builder.builder_config.title

  @property
  def names(self) -> dict[str, Any]:
    """The fields that every output has."""
    return {"data": self.title, "split": self.split.name, "leaky": self.split.leaky}

  def read(self, subset: str) -> Slices:
    """The slices of `train`, `validation` or `test`."""
    return self.reader.read(getattr(self.split, subset), progress=True)

  def labels(self, subset: str) -> np.ndarray:
    """int32 labels of the slices of `subset`, 1 if a slice has a tumour; no image is read."""
    label = {entry.id: entry.label for entry in self.index}
    return np.array([label[name] for name in getattr(self.split, subset)], np.int32)

  def write_split(self, workdir: pathlib.Path) -> None:
    """Writes `split.json`; raises UserError if the folder holds a different one."""
    path = workdir / "split.json"
    if path.is_file() and splits.read(workdir)["hash"] != self.split.hash:
      raise UserError(
        f"{path} is not the split of this configuration on this data set: choose another workdir", "workdir"
      )
    if hosts.is_first():
      files.write_json(path, self.split.to_json(self.title))


def open_data(config: ConfigDict, components: Components) -> Data:
  """Opens the data and makes the split of a configuration; raises UserError if something is wrong with them."""
  source, info = components.source, components.info
  builder = source.open_or_build()
  index = source.read_index(builder)
  context = context_of(components.channels, info)
  split = splits.make_split(
    index,
    kind=config.split.kind,
    fold=config.split.fold,
    seed=config.split.seed,
    count=info.folds,
    folds=config.split.folds,
  )
  if context and split.leaky and hosts.is_first():
    print("this split divides volumes: neighbours of test slices are training slices, which is a further leak")
  reader = store.Reader.of(builder, info, index, components.contrast, context)
  if components.normalize == percentiles.NAME:
    volumes: dict[str, list[str]] = {}
    for entry in index:
      volumes.setdefault(entry.case, []).append(entry.id)
    reader = dataclasses.replace(reader, percentiles=percentiles.of_cases(volumes.items(), reader.read))
  return Data(source, builder, index, split, reader)
