"""DICOM series and their frames, each with what its header says."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Frame:
  """One slice.

  Attributes:
    path: its file.
    number: number of the frame in its file, from 1; 0 where the file holds only one image.
    about: texts of its header by keyword, see `headers.ABOUT`; empty where it says nothing.
    numbers: numbers of its header by keyword; None where it says nothing.
    position: centre of the first pixel, in mm to the left, back and head (LPS); None where unknown.
    orientation: directions of increasing column, and of increasing row.
    spacing: mm between rows, and between columns.
    slope: factor from stored values to the unit of the series.
    intercept: added to the scaled values, in the unit of the series.
  """

  path: pathlib.Path
  number: int
  about: dict[str, str]
  numbers: dict[str, float | None]
  position: Float[np.ndarray, "3"] | None
  orientation: Float[np.ndarray, "2 3"] | None
  spacing: Float[np.ndarray, "2"] | None
  slope: float
  intercept: float

  @property
  def shape(self) -> tuple[int, int]:
    return int(self.numbers["Rows"]), int(self.numbers["Columns"])

  @property
  def label(self) -> str:
    return f"{self.path}, frame {self.number}" if self.number else str(self.path)

  @property
  def identity(self) -> tuple[float | int | None, ...]:
    """What distinguishes it from other images of its series: its numbers and position."""
    position = () if self.position is None else tuple(map(float, self.position))
    return (self.numbers["InstanceNumber"], self.number, *position)


@dataclasses.dataclass(frozen=True)
class Series:
  """Frames of one series, in no particular order.

  Attributes:
    frames: at least one frame.
    warnings: what was unusual when they were grouped, a sentence each.
  """

  frames: list[Frame]
  warnings: tuple[str, ...] = ()

  @property
  def uid(self) -> str:
    return self.frames[0].about["SeriesInstanceUID"]

  @property
  def uids(self) -> set[str]:
    """The SeriesInstanceUIDs of its frames; more than one where each slice has its own."""
    return {frame.about["SeriesInstanceUID"] for frame in self.frames}

  @property
  def number(self) -> float | None:
    return self.frames[0].numbers["SeriesNumber"]

  @property
  def label(self) -> str:
    """A description, with the UID that a user would give."""
    description = self.frames[0].about["SeriesDescription"] or "no description"
    number = "without number" if self.number is None else f"{self.number:g}"
    return f"{description} (series {number}, {self.uid or 'without UID'})"

  def says(self, keyword: str) -> str:
    return self.frames[0].about[keyword]
