"""The data set that a file of ours was made of, as the file says."""

from collections.abc import Mapping
from typing import Any

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri.constants import INFO


def info_of(content: Mapping[str, Any]) -> DatasetInfo:
  """The data set that a summary or a checkpoint's record names; before they did, there was LGG alone."""
  if not content.get("info"):
    return INFO
  since = {"folds": INFO.folds, "patient_fields": list(INFO.patient_fields)}  # what infos of LGG did not have at first
  return DatasetInfo.from_json({**since, **content["info"]})
