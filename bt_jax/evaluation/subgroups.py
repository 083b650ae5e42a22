"""Subgroups of patients: by what is known of them, missing sequences, and the size of their masks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.patient_groups import NOT_KNOWN, GroupOf
from bt_jax.datasets.registry import groups_of
from bt_jax.errors import UserError
from bt_jax.evaluation.records import Record, of_any_class


def groupings_of(info: DatasetInfo) -> dict[str, GroupOf]:
  """The groupings of a data set's patients, by name: by what is known of them, and by the size of their masks."""
  return dict(groups_of(info).groupings)


def parse(names: str, info: DatasetInfo) -> tuple[str, ...]:
  """The groupings of a data set that `report.subgroups` names; raises UserError for an unknown name."""
  groupings = groupings_of(info)
  if names in ("all", "none"):
    return tuple(groupings) if names == "all" else ()
  asked = tuple(name.strip() for name in names.split(","))
  for name in asked:
    if name not in groupings:
      raise UserError(f"report.subgroups has {name!r}, expected all, none, or some of {', '.join(groupings)}")
  return asked


def summarize(
  patients: list[Record],
  rows: list[Record],
  names: tuple[str, ...],
  numbers: Callable[[list[Record]], dict[str, Any]],
  info: DatasetInfo,
) -> dict[str, list[dict[str, Any]]]:
  """Computes statistics of the slices of each group of patients.

  Args:
    patients: one record per patient, or per patient and class, with the clinical columns.
    rows: records of their slices.
    names: names of groupings.
    numbers: maps records to statistics.
    info: description of the data set.

  Returns:
    For each name its groups, each with `group`, `patients`, `slices` and the statistics. `size` is left out if patients
    have no `truth_voxels`, as for a split that divides volumes.
  """
  patients = of_any_class(patients)
  sized = all("truth_voxels" in row for row in patients)
  quartiles = _quartiles(patients) if sized else [""] * len(patients)
  known = [row | {"quartile": quartile} for row, quartile in zip(patients, quartiles, strict=True)]
  groups, groupings = {}, groupings_of(info)
  for name in names:
    if name == "size" and not sized:
      continue
    group_of = {row["patient"]: groupings[name](row) for row in known}
    groups[name] = []
    for group in sorted(set(group_of.values()), key=lambda group: (group == NOT_KNOWN, group)):
      members = [row for row in rows if group_of[row["patient"]] == group]
      count = sum(of == group for of in group_of.values())
      groups[name].append({"group": group, "patients": count, "slices": len(of_any_class(members)), **numbers(members)})
  return groups


def _quartiles(patients: list[Record]) -> list[str]:
  """The quarter of these patients that each patient is in, by the volume of its true mask."""
  size = np.array([row["truth_voxels"] for row in patients])
  edges = np.quantile(size, [0.25, 0.5, 0.75])
  words = ("smallest quarter", "second quarter", "third quarter", "largest quarter")
  return [f"{quarter + 1}: {words[quarter]}" for quarter in np.searchsorted(edges, size)]
