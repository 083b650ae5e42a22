"""What every mode needs of a run: its data, its split, its state, and predictions of its network."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from bt_jax import files
from bt_jax.datasets import splits, store
from bt_jax.datasets.channels import context_of
from bt_jax.datasets.registry import source_of
from bt_jax.datasets.store import Source
from bt_jax.distributed import hosts
from bt_jax.errors import UserError
from bt_jax.runs.components import Components
from bt_jax.schema import Slices


@dataclasses.dataclass(frozen=True)
class Data:
  """The data set of a run, its split, and what outputs call them.

  Attributes:
    source: of the data set.
    builder: of it.
    index: of all its slices.
    split: which of them train, validate and test.
    reader: of slices by id, contrast raised.
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
    """The fields that stand in every output."""
    return {"data": self.title, "split": self.split.name, "leaky": self.split.leaky}

  def read(self, part: str) -> Slices:
    """The slices of `train`, `validation` or `test`."""
    return self.reader.read(getattr(self.split, part), progress=True)

  def labels(self, part: str) -> np.ndarray:
    """int32, 1 where a slice of the part has a tumour; no image is read."""
    label = {entry.id: entry.label for entry in self.index}
    return np.array([label[name] for name in getattr(self.split, part)], np.int32)

  def write_split(self, workdir: pathlib.Path) -> None:
    """Writes `split.json`; raises UserError where the folder holds another."""
    path = workdir / "split.json"
    if path.is_file() and splits.read(workdir)["hash"] != self.split.hash:
      raise UserError(
        f"{path} is not the split of this configuration on this data set: choose another workdir", "workdir"
      )
    if hosts.is_first():
      files.write_json(path, self.split.to_json(self.title))


def build(config: ConfigDict) -> store.Builder:
  """Opens the data set of a configuration, building it first if need be."""
  return source_of(config).open_or_build()


def open_data(config: ConfigDict, components: Components) -> Data:
  """The data of a configuration; raises UserError where it is not right."""
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
    print("this split cuts volumes: neighbours of test slices are training slices, which leaks once more")
  return Data(source, builder, index, split, store.Reader.of(builder, info, index, components.contrast, context))
