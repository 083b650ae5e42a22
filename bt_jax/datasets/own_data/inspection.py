"""What a user's folder holds, read to its end: everything that is wrong with it, and a picture of its cases."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import case_volumes
from bt_jax.datasets.own_data.collection import Collection
from bt_jax.datasets.own_data.source import describe
from bt_jax.errors import UserError
from bt_jax.scans import resampling

_SHOWN, _SIDE, _COLUMNS = 24, 160, 6  # cases in the picture, pixels of a side of each, and cases in a line
_GAP, _LINE = 4, 14
# Of the classes, from the palette of Okabe and Ito (2008).
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))


@dataclasses.dataclass
class Inspection:
  """What was found.

  Attributes:
    collection: with its problems, those of images and masks too.
    info: of the data set; None where its problems leave it open.
    lines: for people.
    picture: of the cases; None where none can be read.
  """

  collection: Collection
  info: DatasetInfo | None
  lines: list[str]
  picture: Image.Image | None


def inspect(collection: Collection, window: str) -> Inspection:
  """Reads every case of a collection."""
  info = None
  try:
    info = describe(collection, window) if collection.cases else None
  except UserError as error:
    collection.problems.append(error)
  counts, thumbnails = [], []
  for case in tqdm(collection.cases, desc="checking", unit="case", leave=False):
    if info is None:
      break
    try:
      volume, masks = case_volumes.read_case(case, info.channels, collection.labels)
    except UserError as error:
      collection.problems.append(error)
      continue
    counts.append(_count(volume, masks))
    if len(thumbnails) < _SHOWN:
      thumbnails.append((case.name, _thumbnail(volume, masks, info)))
  lines = [*_about(collection, info), *(_numbers(counts, info) if counts else [])]
  return Inspection(collection, info, lines, _sheet(thumbnails) if thumbnails else None)


def _about(collection: Collection, info: DatasetInfo | None) -> list[str]:
  lines = [
    f"{collection.root}: {collection.layout}",
    f"{len(collection.cases)} cases of {len(collection.patients)} patients",
  ]
  if info is not None:
    overlap = ", which overlap" if info.overlapping else ""
    labels = collection.labels.values.items()
    numbers = [f"{name} ({', '.join(map(str, values))})" for name, values in labels]
    lines += [f"channels: {', '.join(info.channels)}", f"classes{overlap}: {', '.join(numbers)}"]
    lines.append(
      f"stored as slices of {info.size} x {info.size} pixels, 16 bits; the longer side of a slice fills them"
    )
  if collection.folds is not None:
    lines.append(f"folds: {len(set(collection.folds.values()))}, as your file has them")
  fields = next(iter(collection.fields.values()), {})
  if fields:
    lines.append(f"known of patients: {', '.join(fields)}")
  return lines + [f"note: {note}" for note in collection.notes]


def _count(volume: case_volumes.Volume, masks: np.ndarray) -> dict[str, Any]:
  """What is said of a case together with the others."""
  low, high = resampling.extremes(volume.values)
  return {
    "size": volume.values.shape[1:3],
    "slices": len(volume.values),
    "spacing": volume.spacing_mm and tuple(round(length, 3) for length in volume.spacing_mm),
    "low": low,
    "high": high,
    "voxels": masks.sum((0, 1, 2)),
    "marked": int(masks.any((1, 2, 3)).sum()),
  }


def _numbers(counts: Sequence[dict[str, Any]], info: DatasetInfo) -> list[str]:
  def common(name: str, text: Sequence[str] | None = None) -> str:
    values = collections.Counter(text or [str(of[name]) for of in counts]).most_common()
    return "; ".join(f"{value} in {count}" for value, count in values[:3]) + ("; ..." if len(values) > 3 else "")

  slices = [of["slices"] for of in counts]
  lines = [
    f"slices: {min(slices)} to {max(slices)} in a case, {sum(slices)} in all, {sum(of['marked'] for of in counts)} with a mask",
    "height x width: " + common("size", ["{} x {}".format(*of["size"]) for of in counts]) + " cases",
    "mm between slices, rows, columns: "
    + common(
      "spacing", [" x ".join(map("{:g}".format, of["spacing"])) if of["spacing"] else "not known" for of in counts]
    )
    + " cases",
  ]
  for number, name in enumerate(info.channels):
    lows, highs = ([of[kind][number] for of in counts] for kind in ("low", "high"))
    lines.append(
      f"intensities of {name}: {min(lows):g} to {max(highs):g}; highest of a case {min(highs):g} to {max(highs):g}"
    )
  for number, name in enumerate(info.classes):
    voxels = [int(of["voxels"][number]) for of in counts]
    lines.append(
      f"voxels of {name}: median {int(np.median(voxels))}, {sum(count == 0 for count in voxels)} cases without any"
    )
  return lines


def _thumbnail(volume: case_volumes.Volume, masks: np.ndarray, info: DatasetInfo) -> Image.Image:
  """The slice with the most of any class, of the reference channel, with each class in its colour."""
  index = int(masks.sum((1, 2, 3)).argmax())
  index = index if masks.any() else len(masks) // 2
  channel = volume.values[..., info.reference_index : info.reference_index + 1]
  low, high = resampling.window(channel, fixed=info.window)
  _, rows, columns = volume.spacing_mm or (1.0, 1.0, 1.0)
  fit = lambda image: np.asarray(resampling.to_training(image[None].astype(np.float32), _SIDE, rows / columns))[0]
  grey = fit(np.asarray(resampling.scale(channel[index], low, high)))
  mixed = np.repeat(grey, 3, axis=-1)
  for number, mask in enumerate(np.moveaxis(fit(masks[index]) >= 0.5, -1, 0)):
    mixed[mask] = 0.55 * mixed[mask] + 0.45 * np.array(_COLOURS[number % len(_COLOURS)])
  return Image.fromarray(np.round(mixed).astype(np.uint8))


def _sheet(thumbnails: Sequence[tuple[str, Image.Image]]) -> Image.Image:
  columns = min(_COLUMNS, len(thumbnails))
  width, height = _SIDE + _GAP, _SIDE + _LINE + _GAP
  sheet = Image.new("RGB", (columns * width + _GAP, -(-len(thumbnails) // columns) * height + _GAP), (255, 255, 255))
  for number, (name, image) in enumerate(thumbnails):
    x, y = _GAP + number % columns * width, _GAP + number // columns * height
    sheet.paste(image, (x, y))
    ImageDraw.Draw(sheet).text((x, y + _SIDE), name[-26:], (0, 0, 0))
  return sheet
