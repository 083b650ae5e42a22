"""The patients of a table in groups: by hospital, grade, missing sequences, size of the tumour, molecular cluster."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bt_jax.datasets.lgg_mri import constants
from bt_jax.errors import UserError
from bt_jax.evaluation.records import Record, of_any_class

_GRADES = {1: "II", 2: "III"}  # of the World Health Organization, as data.csv codes them
UNKNOWN = "not known"


def missing_sequences(row: Record) -> str:
  """Which sequences a patient has not, in words, from a row of `patients.csv`."""
  absent = [name for name in ("pre", "post") if not row[f"has_{name}"]]
  return f"no {' nor '.join(absent)}" if absent else "none missing"


# From a row of `patients.csv`, with `quartile`, to the group it is in.
GROUPINGS: dict[str, Callable[[Record], str]] = {
  "site": lambda row: row["site"],
  "grade": lambda row: _GRADES.get(row["neoplasm_histologic_grade"], UNKNOWN),
  "sequences": missing_sequences,
  "size": lambda row: row["quartile"],
  **{
    name: lambda row, name=name: (
      UNKNOWN if row[name] == constants.UNKNOWN else f"{name.removesuffix('Cluster')} {row[name]}"
    )
    for name in constants.GENOMIC_CLUSTERS
  },
}


def parse(names: str) -> tuple[str, ...]:
  """The groupings that `report.subgroups` names; raises UserError where there is none of a name."""
  if names in ("all", "none"):
    return tuple(GROUPINGS) if names == "all" else ()
  asked = tuple(name.strip() for name in names.split(","))
  for name in asked:
    if name not in GROUPINGS:
      raise UserError(f"report.subgroups has {name!r}, expected all, none, or some of {', '.join(GROUPINGS)}")
  return asked


def summarize(
  patients: list[Record], rows: list[Record], names: tuple[str, ...], numbers: Callable[[list[Record]], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
  """What `numbers` says of the slices of each group of patients, by grouping.

  Args:
    patients: one row each, or one for each class, with the clinical columns.
    rows: of their slices.
    names: of groupings.
    numbers: from rows to numbers.

  Returns:
    For each name its groups, each with `group`, `patients`, `slices` and the numbers. `size` is left out where patients
    have no `truth_voxels`, as where a split cuts volumes.
  """
  patients = of_any_class(patients)
  sized = all("truth_voxels" in row for row in patients)
  quartiles = _quartiles(patients) if sized else [""] * len(patients)
  known = [row | {"quartile": quartile} for row, quartile in zip(patients, quartiles, strict=True)]
  groups = {}
  for name in names:
    if name == "size" and not sized:
      continue
    group_of = {row["patient"]: GROUPINGS[name](row) for row in known}
    groups[name] = []
    for group in sorted(set(group_of.values()), key=lambda group: (group == UNKNOWN, group)):
      members = [row for row in rows if group_of[row["patient"]] == group]
      count = sum(of == group for of in group_of.values())
      groups[name].append({"group": group, "patients": count, "slices": len(of_any_class(members)), **numbers(members)})
  return groups


def _quartiles(patients: list[Record]) -> list[str]:
  """Which quarter of these patients each is in by the volume of its true mask."""
  size = np.array([row["truth_voxels"] for row in patients])
  edges = np.quantile(size, [0.25, 0.5, 0.75])
  words = ("smallest quarter", "second quarter", "third quarter", "largest quarter")
  return [f"{quarter + 1}: {words[quarter]}" for quarter in np.searchsorted(edges, size)]
