"""Builds the data set of a configuration."""

import pathlib

from ml_collections import ConfigDict

from bt_jax.runs import run_data


def build(config: ConfigDict, workdir: pathlib.Path | None) -> None:
  """Builds the data set of a configuration; `workdir` is not used."""
  del workdir
  print(f"built in {run_data.build(config).data_path}")
