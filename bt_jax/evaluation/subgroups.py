"""Subgroups of patients: by hospital, grade, missing sequences, tumour size and molecular cluster."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri import constants
from bt_jax.errors import UserError
from bt_jax.evaluation.records import Record, of_any_class

_GRADES = {1: "II", 2: "III"}  # of the World Health Organization, as data.csv codes them
UNKNOWN = "not known"


def missing_sequences(row: Record) -> str:
  """The sequences that a patient lacks, as text, from a row of `patients.csv`."""
  absent = [name for name in ("pre", "post") if not row[f"has_{name}"]]
  return f"no {' nor '.join(absent)}" if absent else "none missing"


# For each grouping, the column that it needs, if any, and a function from a row of `patients.csv`, with `quartile`, to a
# group.
_GROUPINGS: dict[str, tuple[str | None, Callable[[Record], str]]] = {
  "site": ("site", lambda row: row["site"]),
  "grade": ("neoplasm_histologic_grade", lambda row: _GRADES.get(row["neoplasm_histologic_grade"], UNKNOWN)),
  "sequences": ("has_pre", missing_sequences),
  "size": (None, lambda row: row["quartile"]),
  **{
    name: (
      name,
      lambda row, name=name: (
        UNKNOWN if row[name] == constants.UNKNOWN else f"{name.removesuffix('Cluster')} {row[name]}"
      ),
    )
    for name in constants.GENOMIC_CLUSTERS
  },
}
_NOT_GROUPED = {"has_pre", "has_post", *constants.CLINICAL_FIELDS}


def groupings_of(info: DatasetInfo) -> dict[str, Callable[[Record], str]]:
  """The groupings of a data set's patients, by name: by known patient fields, and by the size of their masks."""
  known = {name: group for name, (column, group) in _GROUPINGS.items() if column in (None, *info.patient_fields)}
  others = [name for name in info.patient_fields if name not in known and name not in _NOT_GROUPED]
  return known | {name: lambda row, name=name: row[name] or UNKNOWN for name in others}


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
    for group in sorted(set(group_of.values()), key=lambda group: (group == UNKNOWN, group)):
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
