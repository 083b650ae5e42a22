"""Draws the first cases of a user's data, each with its classes in colour, and what the colours stand for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data.case_volumes import Volume
from bt_jax.datasets.own_data.collection import Labels
from bt_jax.scans import resampling, sequences

_SIDE, _COLUMNS = 160, 6  # pixels of a side of each case, and cases in a line
_GAP, _LINE, _LONGEST = 4, 14, 18  # pixels, and characters of a name
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
# Colours of the classes, from the palette of Okabe and Ito (2008).
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
_SHARE = 0.45  # of the colour in a pixel


class Excerpt(NamedTuple):
  """The slice of a case with the most labelled pixels.

  Attributes:
    name: name of the case.
    number: number of the slice, from 1.
    slices: number of slices in the case.
    grey: intensities of one channel in 0..255, downsampled.
    numbers: labels on the same grid.
  """

  name: str
  number: int
  slices: int
  grey: Float[np.ndarray, "side side"]
  numbers: UInt8[np.ndarray, "side side"]


def excerpt(
  name: str, image: Volume, numbers: Volume, channels: Sequence[str], window: tuple[float, ...] = ()
) -> Excerpt:
  """The slice of a case that is drawn.

  Args:
    name: name of the case.
    image: image of the case.
    numbers: numbers in its mask.
    channels: names of the channels, where they have any; FLAIR is drawn, else the first.
    window: the intensities that become black and white; empty where the case has its own.
  """
  counts = np.count_nonzero(numbers.values, axis=(1, 2, 3))
  index = int(counts.argmax()) if counts.any() else len(counts) // 2
  flair = next((number for number, name in enumerate(channels) if sequences.in_name(name)[0] == "flair"), 0)
  channel = image.values[..., flair : flair + 1]
  low, high = window or np.concatenate(resampling.window(channel)).tolist()
  grey = np.clip((channel[index, ..., 0] - low) * (255 / max(high - low, 1e-12)), 0, 255)
  _, rows, columns = image.spacing_mm or (1.0, 1.0, 1.0)
  height, width = grey.shape[0] * rows, grey.shape[1] * columns
  size = tuple(max(round(_SIDE * length / max(height, width)), 1) for length in (width, height))
  corner = ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2)

  def fit(pixels: np.ndarray, how: Image.Resampling) -> np.ndarray:
    square = Image.new("L", (_SIDE, _SIDE))
    square.paste(Image.fromarray(pixels).resize(size, how), corner)
    return np.asarray(square)

  return Excerpt(
    name,
    index + 1,
    len(counts),
    fit(np.rint(grey).astype(np.uint8), Image.Resampling.BILINEAR).astype(np.float32),
    fit(np.ascontiguousarray(numbers.values[index, ..., 0]), Image.Resampling.NEAREST),
  )


def draw(excerpts: Sequence[Excerpt], info: DatasetInfo, labels: Labels) -> Image.Image:
  """The sheet of these cases, under a legend of classes; where classes overlap, the last is on top."""
  columns = max(min(_COLUMNS, len(excerpts)), 2)
  width, height = _SIDE + _GAP, _SIDE + _LINE + _GAP
  legend = _legend(info, columns * width)
  sheet = Image.new(
    "RGB", (columns * width + _GAP, legend.height - (-len(excerpts) // columns) * height + _GAP), _WHITE
  )
  sheet.paste(legend, (_GAP, 0))
  for number, one in enumerate(excerpts):
    x, y = _GAP + number % columns * width, legend.height + number // columns * height
    sheet.paste(_coloured(one, labels), (x, y))
    name = one.name if len(one.name) <= _LONGEST else f"...{one.name[3 - _LONGEST :]}"  # numbers are at the end
    name = name.encode(errors="replace").decode()  # bytes of a file name may not be text
    text = f"{name}  {one.number}/{one.slices}"
    ImageDraw.Draw(sheet).text((x, y + _SIDE), text, _BLACK)
  return sheet


def _coloured(one: Excerpt, labels: Labels) -> Image.Image:
  grey = np.repeat(one.grey[..., None], 3, axis=-1)
  mixed = grey.copy()
  for number, values in enumerate(labels.values.values()):
    mask = np.isin(one.numbers, values)
    mixed[mask] = (1 - _SHARE) * grey[mask] + _SHARE * np.array(_COLOURS[number % len(_COLOURS)])
  return Image.fromarray(np.round(mixed).astype(np.uint8))


def _legend(info: DatasetInfo, width: int) -> Image.Image:
  """What the images show, and a patch of colour and a name for each class, in as many lines as they need."""
  pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
  entries, x, line = [], 0, 1
  for number, name in enumerate(info.classes):
    length = _LINE + _GAP + round(pen.textlength(name)) + 3 * _GAP
    if x and x + length > width:
      x, line = 0, line + 1
    entries.append((x, line, _COLOURS[number % len(_COLOURS)], name))
    x += length
  legend = Image.new("RGB", (width, (line + 1) * (_LINE + _GAP) + _GAP), _WHITE)
  pen = ImageDraw.Draw(legend)
  pen.text((0, _GAP // 2), f"{info.name}: {info.reference}, the slice with most labels", _BLACK)
  for x, line, colour, name in entries:
    y = line * (_LINE + _GAP)
    pen.rectangle((x, y + 1, x + _LINE - 2, y + _LINE - 2), fill=colour)
    pen.text((x + _LINE + _GAP, y), name, _BLACK)
  return legend
