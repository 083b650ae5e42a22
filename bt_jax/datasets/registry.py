"""The data sets: sources by the names that configurations give them, and descriptions as files of ours recorded them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri import clinical_groups
from bt_jax.datasets.lgg_mri.constants import INFO, PHANTOM
from bt_jax.datasets.lgg_mri.lgg_mri_dataset_builder import published_folds
from bt_jax.datasets.lgg_mri.lgg_source import LggSource
from bt_jax.datasets.patient_groups import PatientGroups, default_groups
from bt_jax.datasets.store import Source
from bt_jax.errors import choose
from bt_jax.options import fields_of


def _own(*, root: str | None, dir: str | None, folds: int, window: str) -> Source:
  from bt_jax.datasets.own_data.source import OwnSource  # reads NIfTI, which the published data set does not need

  return OwnSource(root, dir, folds=folds, window=window)


# The sources by name. The keyword arguments of each are fields of a configuration's section `data`.
DATASETS: dict[str, Callable[..., Source]] = {
  "lgg": lambda *, root, dir, expect_full: LggSource("full" if expect_full else "partial", root, dir),
  "phantom": lambda *, root, dir: LggSource("phantom", root, dir, PHANTOM),
  "own": _own,
}


def source_of(config: ConfigDict) -> Source:
  """The data set that a configuration names; raises UserError where there is none."""
  source = choose("data.name", config.data.name, DATASETS)
  return source(**{field: config.data[field] for field in fields_of(source)})


PUBLISHED = INFO  # the data set that the published U-Net learned from


def published_patients() -> list[str]:
  """The patients of `PUBLISHED`."""
  return list(published_folds())


def info_of(content: Mapping[str, Any]) -> DatasetInfo:
  """The data set that a summary or a checkpoint's record names; files that name none are from before, when there was only LGG."""
  if not content.get("info"):
    # Nor was it recorded then whether the slices were synthetic.
    return dataclasses.replace(INFO, masks=DatasetInfo.masks)
  # Fields that early descriptions of LGG lack.
  since = {"folds": INFO.folds, "patient_fields": list(INFO.patient_fields)}
  return DatasetInfo.from_json({**since, **content["info"]})


def groups_of(info: DatasetInfo) -> PatientGroups:
  """How the fields of a data set's patients are typed and grouped."""
  published = (info.name, info.patient_fields) == (INFO.name, INFO.patient_fields)
  return clinical_groups.GROUPS if published else default_groups(info)
