"""The data sets, by the names that configurations give them."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from bt_jax.datasets import store
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri.constants import INFO, PHANTOM
from bt_jax.datasets.own_data.source import OwnSource
from bt_jax.datasets.store import Source
from bt_jax.errors import choose


@dataclasses.dataclass(frozen=True)
class LggSource(Source):
  """The published slices, or the phantom that imitates them; see `store.open_or_build`."""

  variant: str
  root: str | None
  data_dir: str | None
  info: DatasetInfo = INFO

  def open_or_build(self) -> store.Builder:
    return store.open_or_build(self.variant, root=self.root, data_dir=self.data_dir)

  def read_index(self, builder: store.Builder) -> list[store.SliceId]:
    return store.read_index(builder)

  def read_patients(self, builder: store.Builder, patients: set[str]) -> dict[str, dict[str, Any]]:
    return store.read_patients(builder, self.info, patients)

  def read_spacings(self, builder: store.Builder) -> dict[str, tuple[float, float, float]]:
    return {}  # the published slices are TIFFs, which have none


# Functions from a configuration to its source.
DATASETS = {
  "lgg": lambda config: LggSource("full" if config.data.expect_full else "partial", config.data.root, config.data.dir),
  "phantom": lambda config: LggSource("phantom", config.data.root, config.data.dir, PHANTOM),
  "own": lambda config: OwnSource(
    config.data.root, config.data.dir, folds=config.data.folds, window=config.data.window
  ),
}


def source_of(config: ConfigDict) -> Source:
  """The data set that a configuration names; raises UserError where there is none."""
  return choose("data.name", config.data.name, DATASETS)(config)
