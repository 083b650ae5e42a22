"""Builds the data set of a configuration."""

import pathlib

from ml_collections import ConfigDict

from bt_jax.runs import run_data


def build(config: ConfigDict, workdir: pathlib.Path | None) -> None:
  """Builds the data set of a configuration; the folder of a run has no part in it."""
  del workdir
  print(f"built in {run_data.build(config).data_path}")
