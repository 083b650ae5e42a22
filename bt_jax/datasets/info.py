"""What a data set is: its channels, the classes that its masks mark, and whose it is."""

import dataclasses
from typing import Annotated, NotRequired

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from bt_jax.errors import UserError
from bt_jax.files import Count

_ACRONYMS = ("flair", "t1", "t1ce", "t2", "dwi", "adc", "ct")
Names = Annotated[list[str], Field(min_length=1)]


class Info(TypedDict):
  """What `DatasetInfo.to_json` gives."""

  name: str
  channels: Names
  classes: Names
  ids: list[Count]
  reference: str
  size: Annotated[int, Field(gt=0, le=2**15)]
  overlapping: bool
  licence: str
  citation: str
  folds: NotRequired[Annotated[int, Field(gt=0)]]
  patient_fields: NotRequired[list[str]]
  window: NotRequired[list[float]]
  deep: NotRequired[bool]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """Travels with every network that was trained on the data set, so that nothing else has to know it.

  Attributes:
    name: of the data set, e.g. `lgg_mri`.
    channels: of an image, by name, as they are stored.
    classes: that masks mark, by name, without the background.
    ids: the number of each class in a map of labels, where the background is 0.
    reference: the channel that masks were drawn on: images of results show it, and it stands in for one that is missing.
    size: height and width of a stored slice in pixels.
    overlapping: whether a pixel may be of several classes, as where one region is a part of another.
    licence: of the data.
    citation: of who published it.
    folds: that its patients are divided into.
    patient_fields: what is known of each patient beside the images, the columns of `patients.csv` that it adds.
    deep: whether images are stored in 16 bits rather than 8.
    window: the intensities that become black and white, as of CT; empty where each volume has its own.
  """

  name: str
  channels: tuple[str, ...]
  classes: tuple[str, ...]
  ids: tuple[int, ...]
  reference: str
  size: int
  overlapping: bool = False
  licence: str = ""
  citation: str = ""
  folds: int = 1
  patient_fields: tuple[str, ...] = ()
  window: tuple[float, ...] = ()
  deep: bool = False

  def __post_init__(self):
    if len(self.ids) != len(self.classes):
      raise ValueError(f"there are {len(self.classes)} classes and {len(self.ids)} ids, expected one for each")
    if len(set(self.ids)) < len(self.ids) or not all(0 < label < 256 for label in self.ids):
      raise ValueError(f"the ids are {', '.join(map(str, self.ids))}, expected different numbers from 1 to 255")
    if self.reference not in self.channels:
      raise ValueError(f"the reference channel is {self.reference!r}, expected one of {', '.join(self.channels)}")

  @property
  def reference_index(self) -> int:
    """Of the reference among the channels."""
    return self.channels.index(self.reference)

  @property
  def reference_title(self) -> str:
    """What people read of the reference channel; an acronym in capitals."""
    return self.reference.upper() if self.reference in _ACRONYMS else self.reference

  @property
  def dtype(self) -> type[np.generic]:
    """Of stored images: 0 is black, the highest value that it has white."""
    return np.uint16 if self.deep else np.uint8

  @property
  def slice_bytes(self) -> int:
    """Of image and masks in memory."""
    return self.size**2 * (len(self.channels) * np.dtype(self.dtype).itemsize + len(self.classes))

  def to_json(self) -> Info:
    """As a checkpoint and an export keep it; `from_json` undoes it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

  @classmethod
  def from_json(cls, content: Info) -> "DatasetInfo":
    """What `to_json` gave."""
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})

  def check_same(self, other: "DatasetInfo", own: str, others: str) -> None:
    """Raises UserError where networks of two data sets cannot work together, as their channels, classes or sizes differ.

    Args:
      other: of the other network or run.
      own: what this one is called.
      others: what the other is called.
    """
    for field in ("channels", "classes", "overlapping", "reference", "size"):
      mine, theirs = getattr(self, field), getattr(other, field)
      if mine != theirs:
        shown = lambda value: ", ".join(value) if isinstance(value, tuple) else value
        raise UserError(
          f"{own} is of {self.name} with {field} {shown(mine)}, and {others} of {other.name} with {shown(theirs)}: name "
          "runs of one data set"
        )
