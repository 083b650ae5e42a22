"""How the fields that are known of patients are typed, and how they group patients."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bt_jax.datasets.info import DatasetInfo

NOT_KNOWN = "not known"
Row = Mapping[str, Any]  # of `patients.csv`, with `quartile`, the quarter that the size of the patient's mask is in
GroupOf = Callable[[Row], str]


class PatientGroups(NamedTuple):
  """What a data set says of the fields of its patients.

  Attributes:
    codes: the fields that hold a whole number, which is negative where it is not known.
    groupings: functions from a patient's row to its group, by name.
  """

  codes: frozenset[str]
  groupings: Mapping[str, GroupOf]


def flags_of(info: DatasetInfo) -> list[str]:
  """The fields of patients that say whether a channel was recorded, e.g. `has_post`."""
  return [f"has_{channel}" for channel in info.channels if f"has_{channel}" in info.patient_fields]


def missing_sequences(row: Row) -> str:
  """The sequences that a patient lacks, as text.

  >>> missing_sequences({"patient": "TCGA_CS_4941", "has_pre": True, "has_post": False})
  'no post'
  """
  absent = [name.removeprefix("has_") for name, value in row.items() if name.startswith("has_") and value is False]
  return f"no {' nor '.join(absent)}" if absent else "none missing"


def by_size(row: Row) -> str:
  """The quarter of the patients that the size of this patient's mask is in."""
  return row["quartile"]


def by_field(name: str) -> GroupOf:
  """Groups patients by the text of a field."""
  return lambda row: row[name] or NOT_KNOWN


def default_groups(info: DatasetInfo) -> PatientGroups:
  """Every field of the patients is text and a group of its own, but for missing sequences, which make one together."""
  flags = flags_of(info)
  groupings = {name: by_field(name) for name in info.patient_fields if name not in flags}
  if flags:
    groupings["sequences"] = missing_sequences
  return PatientGroups(frozenset(), groupings | {"size": by_size})
