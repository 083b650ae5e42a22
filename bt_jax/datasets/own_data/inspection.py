"""Reads all of a user's folder: reports everything that is wrong with it, and draws an image of its cases."""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import case_volumes, contact_sheet, data_description, folds, slice_sizes
from bt_jax.datasets.own_data.collection import Case, Collection, Labels, Spacing, shown
from bt_jax.errors import UserError
from bt_jax.scans import resampling
from bt_jax.scans.intensities import extremes

_SHOWN = 24  # cases in the image
_GAIN = 20  # largest ratio between the ranges of intensities of two cases; beyond it one is in another scale


class Summary(NamedTuple):
  """Statistics of a case.

  Attributes:
    case: the case.
    shape: slices, height, width.
    spacing_mm: distances between slices, rows and columns.
    low: the lowest intensity of each channel.
    high: the highest intensity of each channel.
    voxels: how many voxels have each number in its mask, [256].
    labelled: how many slices have any label.
    warnings: warnings about its files.
  """

  case: Case
  shape: tuple[int, int, int]
  spacing_mm: Spacing | None
  low: np.ndarray
  high: np.ndarray
  voxels: np.ndarray
  labelled: int
  warnings: tuple[str, ...]


@dataclasses.dataclass
class Inspection:
  """The result of an inspection.

  Attributes:
    collection: the cases and all problems, including those of images and masks.
    info: the data set; None where problems leave it open.
    lines: the report to print.
    picture: image of the cases; None where none can be read.
  """

  collection: Collection
  info: DatasetInfo | None
  lines: list[str]
  picture: Image.Image | None


def inspect(collection: Collection, window: str, asked_folds: int = 5) -> Inspection:
  """Reads every case of a collection.

  Args:
    collection: the cases.
    window: the intensities that become black and white, see `data_description.parse_window`.
    asked_folds: number of folds, where no file in the folder divides patients.
  """
  fixed = _attempt(collection, lambda: data_description.parse_window(window)) or ()
  summaries, excerpts, seen = _read_all(collection, fixed)
  info, labels = _described(collection, summaries, seen, window)
  complete = not collection.refused and len(collection.patients) >= folds.FEWEST  # otherwise there is a problem already
  fold_of = _attempt(collection, lambda: folds.divide(collection, asked_folds)) if complete else None
  lines = _about(collection, info, labels, fold_of)
  lines += _numbers(summaries, info, labels) if info is not None else []
  lines += [f"note: {note}" for note in [*collection.notes, *_remarks(summaries, info)]]
  picture = contact_sheet.draw(excerpts, info, labels) if info is not None and excerpts else None
  return Inspection(collection, info, lines, picture)


def _read_all(
  collection: Collection, window: tuple[float, ...]
) -> tuple[list[Summary], list[contact_sheet.Excerpt], data_description.Numbers]:
  """The summary of each case that can be read, excerpts of the first few, and the numbers that are in masks."""
  channels, report = collection.channels, collection.problems.append
  summaries, excerpts, seen, case_of = [], [], data_description.Numbers(), {}
  for case in tqdm(collection.cases, desc="checking", unit="case", leave=False, disable=None):
    if collection.broken.intersection(case.files):
      continue
    image, numbers = case_volumes.read_case(case, channels, report)
    if image is not None:
      channels = channels or data_description.channel_names(image.values.shape[-1])
      other = case_of.setdefault(case_volumes.digest(image), case)
      if other.patient != case.patient:
        report(case_volumes.same_image(case, other))
    if numbers is not None:
      seen.add(numbers)
      if collection.labels is not None:
        _attempt(collection, lambda numbers=numbers: case_volumes.check_labels(numbers, collection.labels))
    if image is None or numbers is None:
      continue
    summaries.append(_summary(case, image, numbers))
    if len(excerpts) < _SHOWN:
      excerpts.append(contact_sheet.excerpt(case.name, image, numbers, collection.channels, window))
  return summaries, excerpts, seen


def _attempt(collection: Collection, call: Callable[[], Any]) -> Any:
  """The result of a call; None where it raises UserError, which becomes a problem of the collection."""
  try:
    return call()
  except UserError as error:
    collection.problems.append(error)
    return None


def _described(
  collection: Collection, summaries: Sequence[Summary], seen: data_description.Numbers, window: str
) -> tuple[DatasetInfo | None, Labels | None]:
  labels = collection.labels
  if labels is None and seen.where:
    labels = _attempt(collection, lambda: data_description.labels_of(seen, collection))
  if labels is None or not summaries:
    return None, labels
  lacking = [name for name, values in labels.values.items() if not seen.where.keys() & set(values)]
  if lacking:
    collection.problems.append(data_description.absent(collection, lacking))
  longest = max(slice_sizes.side_of(*of.shape[1:], of.spacing_mm) for of in summaries)
  channels = collection.channels or data_description.channel_names(len(summaries[0].low))
  return _attempt(collection, lambda: data_description.make_info(collection, channels, labels, longest, window)), labels


def _summary(case: Case, image: case_volumes.Volume, numbers: case_volumes.Volume) -> Summary:
  low, high = extremes(image.values)
  voxels = np.bincount(numbers.values.ravel(), minlength=256)
  spacing = image.spacing_mm and tuple(round(length, 3) for length in image.spacing_mm)
  labelled = int(numbers.values.any((1, 2, 3)).sum())
  return Summary(case, image.values.shape[:3], spacing, low, high, voxels, labelled, image.warnings)


def _about(
  collection: Collection, info: DatasetInfo | None, labels: Labels | None, fold_of: dict[str, int] | None
) -> list[str]:
  table = collection.root / "cases.csv" in collection.described
  alone = not table and [case.name for case in collection.cases] == collection.patients
  lines = [
    f"{collection.root}: {collection.layout}",
    f"cases: {len(collection.cases)} of {len(collection.patients)} patients"
    + (" (each case counts as a patient: name those that share one in cases.csv)" if alone else ""),
  ]
  if info is not None:
    overlap = ", which overlap" if info.overlapping else ""
    numbers = [f"{name} ({', '.join(map(str, values))})" for name, values in labels.values.items()]
    lines += [f"channels: {', '.join(info.channels)}", f"classes{overlap}, and their numbers: {', '.join(numbers)}"]
    lines.append(
      f"stored as axial slices of {info.size} x {info.size} pixels, 16 bits; the longer side of a slice fills them, and smaller "
      "or larger ones are resampled linearly"
    )
  if fold_of:
    sizes = collections.Counter(fold_of[case.name] for case in collection.cases)
    how = "by a hash of patients" if collection.folds is None else "as your file has them"
    lines.append(
      f"folds: {len(set(sizes) - {-1})}, {how}, of {', '.join(str(sizes[fold]) for fold in sorted(set(sizes) - {-1}))} cases"
    )
  if fields := next(iter(collection.fields.values()), {}):
    lines.append(f"known of patients: {', '.join(fields)}")
  return lines


def _numbers(summaries: Sequence[Summary], info: DatasetInfo, labels: Labels) -> list[str]:
  def common(values: Sequence[str]) -> str:
    counts = collections.Counter(values).most_common()
    return "; ".join(f"{value} in {count} cases" for value, count in counts[:3]) + ("; ..." if len(counts) > 3 else "")

  slices, labelled = [of.shape[0] for of in summaries], [of.labelled for of in summaries]
  lines = [
    f"slices: {min(slices)} to {max(slices)} in a case, {sum(slices)} in all",
    f"empty: {sum(slices) - sum(labelled)} slices and {labelled.count(0)} cases have no label",
    "height x width: " + common([f"{of.shape[1]} x {of.shape[2]}" for of in summaries]),
    "mm between slices, rows, columns: "
    + common([" x ".join(map("{:g}".format, of.spacing_mm)) if of.spacing_mm else "not known" for of in summaries]),
  ]
  for number, name in enumerate(info.channels):
    lows, highs = (
      [of[number] for of in values] for values in zip(*((of.low, of.high) for of in summaries), strict=True)
    )
    lines.append(
      f"intensities of {name}: {min(lows):g} to {max(highs):g}; highest of a case {min(highs):g} to {max(highs):g}"
    )
  for name, values in labels.values.items():
    voxels = [int(of.voxels[list(values)].sum()) for of in summaries]
    lines.append(
      f"voxels of {name}: median of a case {np.median(voxels):.0f}, at most {max(voxels)}, {voxels.count(0)} cases without any"
    )
  return lines


def _remarks(summaries: Sequence[Summary], info: DatasetInfo | None) -> list[str]:
  """What is not wrong but may be unintended, a sentence each."""
  notes = []
  if empty := [of.case.name for of in summaries if not of.labelled]:
    notes.append(f"{len(empty)} cases have no label in any slice: {shown(empty)}")
  as_they_are = {of.case.name: bool(resampling.stays_as_it_is(of.low, of.high)) for of in summaries}
  notes += data_description.note_scales(as_they_are, info.window if info is not None else ())
  unknown = [of.case.name for of in summaries if of.spacing_mm is None]
  if 0 < len(unknown) < len(summaries):
    notes.append(f"sizes in mm are not known of {shown(unknown)}: distances of all cases will be in pixels")
  for number, name in enumerate(info.channels if info is not None else ()):
    notes += data_description.note_units(name, float(np.median([of.low[number] for of in summaries])), info.window)
    spans = [of.high[number] - of.low[number] for of in summaries]
    if max(spans) > _GAIN * min(spans):
      dim, bright = (summaries[int(index(spans))].case.name for index in (np.argmin, np.argmax))
      notes.append(f"{name} spans {min(spans):g} in {dim}, and {max(spans):g} in {bright}: is one in another scale?")
  sentences = collections.defaultdict(list)
  for of in summaries:
    for warning in dict.fromkeys(of.warnings):
      sentences[warning].append(of.case.name)
  return notes + [f"{warning} ({shown(cases)})" for warning, cases in sentences.items()]
