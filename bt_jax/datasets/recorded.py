"""The data set that a file of ours was made from, as recorded in the file."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri.constants import INFO

_EARLIEST = dataclasses.replace(INFO, masks=DatasetInfo.masks)  # nor was it recorded which LGG data were synthetic


def info_of(content: Mapping[str, Any]) -> DatasetInfo:
  """The data set that a summary or a checkpoint's record names; files that name none are from before, when there was only LGG."""
  if not content.get("info"):
    return _EARLIEST
  since = {
    "folds": INFO.folds,
    "patient_fields": list(INFO.patient_fields),
  }  # fields that early descriptions of LGG lack
  return DatasetInfo.from_json({**since, **content["info"]})
