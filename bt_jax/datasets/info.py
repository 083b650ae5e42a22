"""The description of a data set: its channels, the classes of its masks, and who published it."""

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
  """The content of `DatasetInfo.to_json`."""

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
  masks: NotRequired[str]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """Description of a data set, stored with every network that was trained on it.

  Attributes:
    name: name of the data set, e.g. `lgg_mri`.
    channels: names of the channels of an image, in the order in which they are stored.
    classes: names of the classes of masks, without the background.
    ids: the number of each class in a label map, where the background is 0.
    reference: the channel that masks were drawn on: images of results show it, and it stands in for one that is missing.
    size: height and width of a stored slice in pixels.
    overlapping: whether a pixel may have several classes, as where one region contains another.
    licence: licence of the data.
    citation: publications to cite.
    folds: number of folds that its patients are divided into.
    patient_fields: names of what is known of each patient besides images; they become columns of `patients.csv`.
    deep: whether images are stored in 16 bits rather than 8.
    window: the intensities that become black and white, e.g. for CT; empty where each volume has its own.
    masks: what reports call the masks that predictions are compared with, by who or what drew them.
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
  masks: str = "the true masks"

  def __post_init__(self):
    if len(self.ids) != len(self.classes):
      raise ValueError(f"there are {len(self.classes)} classes and {len(self.ids)} ids, expected one for each")
    if len(set(self.ids)) < len(self.ids) or not all(0 < label < 256 for label in self.ids):
      raise ValueError(f"the ids are {', '.join(map(str, self.ids))}, expected different numbers from 1 to 255")
    if self.reference not in self.channels:
      raise ValueError(f"the reference channel is {self.reference!r}, expected one of {', '.join(self.channels)}")

  @property
  def reference_index(self) -> int:
    """Index of the reference among the channels."""
    return self.channels.index(self.reference)

  @property
  def reference_title(self) -> str:
    """The name of the reference channel for people, with acronyms in capitals."""
    return self.titles[self.reference_index]

  @property
  def titles(self) -> tuple[str, ...]:
    """The names of all channels for people, likewise."""
    return tuple(name.upper() if name in _ACRONYMS else name for name in self.channels)

  @property
  def dtype(self) -> type[np.generic]:
    """The dtype of stored images: 0 is black, its highest value white."""
    return np.uint16 if self.deep else np.uint8

  @property
  def slice_bytes(self) -> int:
    """Bytes of a slice's image and masks in memory."""
    return self.size**2 * (len(self.channels) * np.dtype(self.dtype).itemsize + len(self.classes))

  def to_json(self) -> Info:
    """The JSON that checkpoints and exports store; `from_json` is the inverse."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

  @classmethod
  def from_json(cls, content: Info) -> "DatasetInfo":
    """The inverse of `to_json`."""
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})

  def check_same(self, other: "DatasetInfo", own: str, others: str) -> None:
    """Raises UserError where networks of two data sets cannot work together because their channels, classes or sizes differ.

    Args:
      other: data set of the other network or run.
      own: name of this network or run.
      others: name of the other.
    """
    for field in ("channels", "classes", "overlapping", "reference", "size"):
      mine, theirs = getattr(self, field), getattr(other, field)
      if mine != theirs:
        shown = lambda value: ", ".join(value) if isinstance(value, tuple) else value
        raise UserError(
          f"{own} is of {self.name} with {field} {shown(mine)}, and {others} of {other.name} with {shown(theirs)}: name "
          "runs of one data set"
        )
