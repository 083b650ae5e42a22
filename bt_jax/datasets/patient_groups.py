"""How the fields that are known of patients are typed, and how they group patients."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bt_jax.datasets.info import DatasetInfo

NOT_KNOWN = "not known"
SIZE_TITLE = "size of the tumour"
Row = Mapping[str, Any]  # of `patients.csv`, with `quartile`, the quarter that the size of the patient's mask is in
GroupOf = Callable[[Row], str]


class PatientGroups(NamedTuple):
  """What a data set says of the fields of its patients.

  Attributes:
    codes: the fields that hold a whole number, which is negative where it is not known.
    flags: the fields that say, as True or False, whether a sequence was recorded, e.g. `has_post`.
    groupings: functions from a patient's row to its group, by name.
    titles: what people call a grouping, by its name; others are called by their name in words, see `title`.
  """

  codes: frozenset[str]
  flags: tuple[str, ...]
  groupings: Mapping[str, GroupOf]
  titles: Mapping[str, str]

  def title(self, name: str) -> str:
    """What people call the grouping of this name."""
    return self.titles.get(name, name.replace("_", " "))


def missing_sequences(row: Row, flags: Sequence[str]) -> str:
  """The sequences that a patient lacks by these flags, as text.

  >>> missing_sequences({"patient": "TCGA_CS_4941", "has_pre": True, "has_post": False}, ("has_pre", "has_post"))
  'no post'
  """
  absent = [flag.removeprefix("has_") for flag in flags if not row[flag]]
  return f"no {' nor '.join(absent)}" if absent else "none missing"


def by_size(row: Row) -> str:
  """The quarter of the patients that the size of this patient's mask is in."""
  return row["quartile"]


def by_field(name: str) -> GroupOf:
  """Groups patients by the text of a field, which is empty where it is not known."""
  return lambda row: NOT_KNOWN if row[name] in (None, "") else str(row[name])


def default_groups(info: DatasetInfo) -> PatientGroups:
  """Every field of the patients is text and groups them by what stands in it, whatever it is called."""
  groupings = {name: by_field(name) for name in info.patient_fields}
  return PatientGroups(frozenset(), (), groupings | {"size": by_size}, {"size": SIZE_TITLE})
