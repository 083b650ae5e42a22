"""What lies in a user's own folder of images and masks: cases, channels, classes, and everything that is wrong with it."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from bt_jax.errors import UserError

CHECK = "mode=check"  # lists everything that is wrong, where a build stops at the first


@dataclasses.dataclass(frozen=True)
class Case:
  """One examination.

  Attributes:
    name: of the case.
    patient: whose it is.
    images: the files of each group of channels, e.g. of each sequence; of one group, in the order of slices.
    masks: the files of its mask, in the order of slices; none where it has none.
  """

  name: str
  patient: str
  images: tuple[tuple[pathlib.Path, ...], ...]
  masks: tuple[pathlib.Path, ...] = ()

  @property
  def files(self) -> list[pathlib.Path]:
    """All of them."""
    return [file for group in (*self.images, self.masks) for file in group]


@dataclasses.dataclass(frozen=True)
class Labels:
  """What the numbers in masks stand for.

  Attributes:
    values: the numbers that each class is marked by, by its name; a region that others are parts of has several.
    ids: the number that stands for each class in masks that are written.
  """

  values: dict[str, tuple[int, ...]]
  ids: tuple[int, ...]

  @property
  def overlapping(self) -> bool:
    """Whether a pixel may be of several classes."""
    every = [value for values in self.values.values() for value in values]
    return len(every) > len(set(every))


@dataclasses.dataclass
class Collection:
  """A folder as it was understood.

  Attributes:
    root: the folder.
    layout: that was recognised, in words.
    channels: of an image, by name; empty where the files have no names for them.
    labels: of the masks; None where no file says, and masks are read to find out.
    cases: in natural order of their names.
    folds: of each case, as a file of the user's divides them; a case that none of them tests is not in it.
    fields: what `cases.csv` says of each patient.
    problems: everything that is wrong, in the order in which it was seen.
    notes: what is worth knowing and not wrong, a sentence each.
  """

  root: pathlib.Path
  layout: str
  channels: tuple[str, ...] = ()
  labels: Labels | None = None
  cases: list[Case] = dataclasses.field(default_factory=list)
  folds: dict[str, int] | None = None
  fields: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
  problems: list[UserError] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  @property
  def patients(self) -> list[str]:
    """Each once, in the order of cases."""
    return list(dict.fromkeys(case.patient for case in self.cases))

  def problem(self, message: str, *arguments: str) -> None:
    """Keeps a problem; see `UserError`."""
    self.problems.append(UserError(message, *arguments))

  def check(self) -> None:
    """Raises the first problem, if there is one, and says how many more there are."""
    if not self.problems:
      return
    first, others = self.problems[0], len(self.problems) - 1
    more = f" ({others} more problem{'s' * (others > 1)} in this folder, which a check lists)" if others else ""
    raise UserError(f"{first}{more}", *first.arguments, *((CHECK,) if others else ()))


def shown(names: Sequence[Any], most: int = 3) -> str:
  """The first few of some names, and how many more there are."""
  names = list(map(str, names))
  return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
