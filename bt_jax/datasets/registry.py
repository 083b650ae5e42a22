"""The data sets there are, by the name that a configuration gives them."""

from collections.abc import Mapping
from typing import Any

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri.constants import INFO

DATASETS: dict[str, DatasetInfo] = {"lgg": INFO, "phantom": INFO}  # the phantom is made in the image of the other


def info_of(content: Mapping[str, Any]) -> DatasetInfo:
  """The data set that a summary or a checkpoint's record names; before they did, there was LGG alone."""
  return DatasetInfo.from_json(content["info"]) if content.get("info") else INFO
