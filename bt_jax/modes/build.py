"""Builds the data set of a configuration."""

import pathlib

from ml_collections import ConfigDict

from bt_jax.datasets.registry import source_of


def build(config: ConfigDict, workdir: pathlib.Path | None) -> None:
  """Builds the data set of a configuration; `workdir` is not used."""
  del workdir
  print(f"built in {source_of(config).open_or_build().data_path}")
