"""Describes a user's data set by its files: channels, classes, the size of a slice, and the window of intensities."""

import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import case_volumes, folders, slice_sizes
from bt_jax.datasets.own_data.collection import Collection, Labels, shown
from bt_jax.errors import UserError
from bt_jax.scans import sequences

LARGEST = 512  # pixels of a side of a stored slice
_FOREGROUND = "foreground"
_WHITE, _FEW = 255, 32  # the number that marks a class in images, and that below which numbers are labels
_EDGES = 0.9  # share of a number's pixels
# A word of its own: `CT1` and `T1ct` are T1 with contrast.
_CT = re.compile(r"(?<![A-Za-z0-9])CT(?![A-Za-z0-9])", re.IGNORECASE)
_AIR = -900.0  # Hounsfield units are lower in air; MRI has no such values


def describe(collection: Collection, window: str) -> tuple[DatasetInfo, Labels]:
  """Describes a data set by the headers of files, and by masks where no file says what is in them; see `make_info`.

  Raises:
    UserError: a header or a mask cannot be read, or intensities of CT have no window.
  """
  longest = max(slice_sizes.longest_side(case) for case in collection.cases)
  channels = collection.channels or channel_names(case_volumes.read_image(collection.cases[0], ()).values.shape[-1])
  labels = collection.labels or _read_labels(collection)
  return make_info(collection, channels, labels, longest, window), labels


def make_info(
  collection: Collection, channels: tuple[str, ...], labels: Labels, longest: int, window: str
) -> DatasetInfo:
  """Makes the description of a data set.

  Args:
    collection: the cases.
    channels: names of the channels.
    labels: labels of the masks.
    longest: longest side of all slices, in pixels.
    window: the intensities that become black and white, see `parse_window`.

  Raises:
    UserError: intensities of CT have no window, or it is not two numbers.
  """
  if not window and any(map(_CT.search, channels)):
    raise UserError(
      f"{collection.root} is of CT, whose intensities mean the same in every scan: name those that become black and white as "
      "data.window, e.g. -160,240 of soft tissue",
      "data.window",
    )
  return DatasetInfo(
    name=collection.root.resolve().name,
    channels=channels,
    classes=tuple(labels.values),
    ids=labels.ids,
    reference=next((name for name in channels if sequences.in_name(name)[0] == "flair"), channels[0]),
    size=min(longest, LARGEST),
    overlapping=labels.overlapping,
    window=parse_window(window),
    deep=True,
  )


def parse_window(text: str) -> tuple[float, ...]:
  """Parses the intensities that become black and white; none for an empty text; raises UserError unless it is two numbers."""
  if not text:
    return ()
  try:
    low, high = map(float, text.split(","))
  except ValueError:
    low, high = 0.0, 0.0
  if not -np.inf < low < high < np.inf:
    raise UserError(f"data.window is {text!r}, expected two numbers, the lower first, e.g. -160,240", "data.window")
  return low, high


def channel_names(count: int) -> tuple[str, ...]:
  """Names for this many channels that have none."""
  return {1: ("image",), 3: ("red", "green", "blue")}.get(count) or tuple(f"channel_{n}" for n in range(1, count + 1))


def _read_labels(collection: Collection) -> Labels:
  """The labels in the masks, where no file says."""
  numbers = Numbers()
  for case in tqdm(collection.cases, desc="reading masks", unit="case", leave=False, disable=None):
    numbers.add(case_volumes.read_numbers(case))
  return labels_of(numbers, collection)


class Numbers:
  """The numbers that are in masks.

  Attributes:
    where: the first file that has each number.
  """

  def __init__(self):
    self.where: dict[int, pathlib.Path] = {}
    self._pixels, self._between = np.zeros(256, int), np.zeros(256, int)

  def add(self, numbers: case_volumes.Volume) -> None:
    """Records the numbers of a case."""
    values = numbers.values[..., 0]
    counts = np.bincount(values.ravel(), minlength=256)
    for value in np.flatnonzero(counts).tolist():
      if value not in self.where:
        self.where[value] = numbers.file_of(numbers.values == value)
    self._pixels += counts
    if values.max() >= _FEW:
      around = [rank(values, size=(1, 3, 3)) for rank in (ndimage.minimum_filter, ndimage.maximum_filter)]
      self._between += np.bincount(values[(around[0] < values) & (values < around[1])], minlength=256)

  def of_edges(self) -> list[int]:
    """The numbers that nearly all lie between a lower and a higher one, as where the edges of a mask are smooth."""
    return np.flatnonzero(self._between > _EDGES * self._pixels).tolist()


def labels_of(numbers: Numbers, collection: Collection) -> Labels:
  """Names for the numbers in masks, where no file says; raises UserError where they make no sense.

  Args:
    numbers: the numbers.
    collection: the collection of these masks.
  """
  where = numbers.where
  values = sorted(where.keys() - {0})
  if not values:
    raise UserError(f"every mask in {collection.root} is empty: expected numbers of classes, 0 is the background")
  if edges := numbers.of_edges():
    raise UserError(
      f"masks in {collection.root} have {shown(edges, 5)} only between lower and higher numbers, as smooth edges do, e.g. "
      f"{where[edges[0]]}: threshold them, and resample masks to the nearest label; if these are classes, number them 1, 2, ..."
    )
  if _WHITE in values and values[0] < _FEW:
    raise UserError(
      f"masks are marked by {values[0]}, as in {where[values[0]]}, and by 255, as in {where[255]}: save them all alike, and mark "
      "what is to be ignored as background"
    )
  if len(values) > case_volumes.MOST_LABELS:
    raise UserError(
      f"masks in {collection.root} have {len(values)} different numbers, e.g. {where[values[-1]]} {values[-1]}, expected labels: "
      "were they resampled?"
    )
  if len(values) == 1:
    return Labels({_FOREGROUND: tuple(values)}, (1,))
  pediatric = any("-PED-" in case.name for case in collection.cases)  # numbered in another way
  if collection.layout == "BraTS" and not pediatric and (set(values) <= {1, 2, 3} or set(values) <= {1, 2, 4}):
    return folders.brats_labels(values)
  return Labels({f"label_{value}": (value,) for value in values}, tuple(values))


def note_scales(as_they_are: Mapping[str, bool], window: Sequence[float]) -> list[str]:
  """A sentence where some cases keep their intensities and others are scaled, see `resampling.window`; none where all are alike.

  Args:
    as_they_are: whether the intensities of a case stay as they are, by its name.
    window: the intensities that become black and white in every case; empty where each has its own.
  """
  kept, scaled = ([name for name, as_it_is in as_they_are.items() if as_it_is == one] for one in (True, False))
  if window or not kept or not scaled:
    return []
  return [
    f"intensities of {shown(kept)} lie in 0 to 255 and stay as they are, those of {shown(scaled)} are scaled to their own range: if all have "
    "one scale, name the intensities that become black and white as data.window"
  ]


def note_units(name: str, lowest: float, window: Sequence[float]) -> list[str]:
  """A sentence where the lowest intensities are those of air in CT, and no window says what they mean.

  Args:
    name: name of the channel.
    lowest: median of the lowest intensities of cases.
    window: the intensities that become black and white in every case; empty where each has its own.
  """
  if window or lowest > _AIR:
    return []
  return [
    f"{name} goes down to {lowest:g}, as Hounsfield units do: if it is CT, name the intensities that become black and white as "
    "data.window, e.g. -160,240 of soft tissue"
  ]


def absent(collection: Collection, names: list[str]) -> UserError:
  """The error for classes, by name, that are in no mask."""
  return UserError(
    f"no mask in {collection.root} has {shown(names)}: take it out of the labels of dataset.json, or add cases that have it"
  )
