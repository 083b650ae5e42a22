"""Images of one prediction: each slice with the mask over it, and all of them on one contact sheet."""

import functools
import itertools
import math
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from bt_jax import files
from bt_jax.datasets.info import DatasetInfo
from bt_jax.inference.measurements import size
from bt_jax.inference.predictor import Prediction
from bt_jax.inference.segmented import Segmented
from bt_jax.scans import directions
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.scan import NOTICE, Scan, numbered

_MARK = (230, 159, 0)  # Okabe and Ito's orange, the colour of predictions in reports
_CLASSES = (_MARK, (86, 180, 233), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0), (0, 114, 178))
_FILL = 0.2  # opacity over the tumour
_PAPER, _INK = (24, 24, 24), (230, 230, 230)
_LONGEST, _SHORTEST = 512, 200  # pixels along the longer side of an image
_TILE, _COLUMNS, _MOST_TILES = 128, 10, 60  # of the contact sheet
_FONT, _LINE, _GAP = 12, 16, 4  # pixels
_HEADING = 400  # widest name in a heading, in pixels
_LONGEST_NAME = 200  # bytes of a file name, of the 255 that most file systems allow
UNKNOWN = "Left and right are not known: the files do not say how the head lies."
_SEEN = 2**22  # values, roughly, from which the range of grey is taken


class Line(NamedTuple):
  """A line of text under an image, and its colour."""

  text: str
  colour: tuple[int, int, int] = _INK


def save(folder: pathlib.Path, prediction: Prediction) -> list[pathlib.Path]:
  """Writes FOLDER/overlays/SLICE.png for each slice, and FOLDER/contact_sheet.png.

  Letters at the edges say which side of the patient is there, where the files do.

  FLAIR is shown from its 0.5th to its 99.5th percentile over the volume, the mask in orange; of several classes, each has
  its own colour, with a legend.
  """
  scan, window = prediction.scan, _window(prediction)
  scale, written = _scale(scan), []
  for index, name in enumerate(_file_names(scan.slice_names)):
    gate = ", stopped by the classifier" if prediction.gated[index] else ""
    heading = f"{_short(scan.slice_names[index])}: probability {prediction.slice_probability[index]:.3f}{gate}"
    legend = _legend(prediction, prediction.masks[index : index + 1])
    image = _lettered(_overlay(prediction, index, window, scale), scan)
    page = _with_text(image, [Line(heading), *legend, *_unknown(scan), Line(NOTICE)])
    written.append(_write(folder / "overlays" / f"{name}.png", page))
  return [*written, _write(folder / "contact_sheet.png", _contact_sheet(prediction, window))]


def captures(segmented: Segmented, algorithm: Algorithm) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
  """An image of each slice, all of one size, with the outline, the volume of the whole mask and its origin burnt in.

  Args:
    segmented: a scan with its masks.
    algorithm: what made them.
  """
  scan, window = segmented.scan, _window(segmented)
  scale = _scale(scan)
  threshold = "" if algorithm.threshold is None else f", threshold {algorithm.threshold:.2f}"
  lines = [Line(_finding(segmented)), *_legend(segmented, segmented.masks), Line(f"{algorithm.origin}{threshold}")]
  for index in range(len(segmented.masks)):
    number = Line(f"slice {index + 1} of {len(segmented.masks)}")
    image = _lettered(_overlay(segmented, index, window, scale), scan)
    yield np.asarray(_with_text(image, [*lines, number, *_unknown(scan), Line(NOTICE)]))


def colours(info: DatasetInfo) -> list[str]:
  """The colour of each class as `#rrggbb`, from a palette that the colour-blind can tell apart."""
  return ["#{:02x}{:02x}{:02x}".format(*_CLASSES[number % len(_CLASSES)]) for number in range(len(info.classes))]


def colour_map(masks: Bool[np.ndarray, "height width classes"]) -> UInt8[np.ndarray, "height width 3"]:
  """Masks of several classes as one image, each in its colour; where they overlap, the last is on top."""
  image = np.zeros((*masks.shape[:2], 3), np.uint8)
  for number in range(masks.shape[-1]):
    image[masks[..., number]] = _CLASSES[number % len(_CLASSES)]
  return image


def choose_tiles(areas: Int[np.ndarray, " slices"]) -> tuple[list[int], int]:
  """The slices on a contact sheet, every n-th and the one with the largest area, and n.

  Args:
    areas: area of the mask in each slice, at least one slice.
  """
  step = math.ceil(len(areas) / _MOST_TILES)
  chosen = {*range(0, len(areas), step)} | ({int(np.argmax(areas))} if areas.any() else set())
  return sorted(chosen), step


def _contact_sheet(prediction: Prediction, window: tuple[float, float]) -> Image.Image:
  scan = prediction.scan
  chosen, step = choose_tiles(prediction.mask.sum((1, 2)))
  height, width = _square_pixels(scan)
  scale = _TILE / max(height, width)
  columns = min(_COLUMNS, len(chosen))
  cell = (_TILE + _GAP, max(round(height * scale), 1) + _LINE + _GAP)
  area = Image.new("RGB", (columns * cell[0], -(-len(chosen) // columns) * cell[1]), _PAPER)
  for tile_number, index in enumerate(chosen):
    tile = _lettered(_overlay(prediction, index, window, scale), scan)
    left, top = tile_number % columns * cell[0], tile_number // columns * cell[1]
    area.paste(tile, (left + (_TILE - tile.width) // 2, top))
    probability = f"  {prediction.slice_probability[index]:.2f}"
    label = _short(scan.slice_names[index], _TILE - _font().getlength(probability)) + probability
    color = _MARK if prediction.mask[index].any() else _INK
    ImageDraw.Draw(area).text((left + 2, top + cell[1] - _LINE - _GAP), label, color, _font())
  several = f"{len(scan.slice_names)} slices" + (f", one in {step} shown" if step > 1 else "")
  heading = f"{_short(scan.name)}: {_finding(prediction)}; {several}"
  return _with_text(area, [Line(heading), *_legend(prediction, prediction.masks), *_unknown(scan), Line(NOTICE)])


def _finding(segmented: Segmented) -> str:
  if not segmented.mask.any():
    return "no tumour segmented"
  return f"tumour segmented, {_extent(segmented.mask, segmented.scan.spacing_mm)}"


def _extent(mask: Bool[np.ndarray, "slices height width"], spacing_mm: tuple[float, float, float] | None) -> str:
  extent = size(mask, spacing_mm)
  voxels = f"{extent['voxels']} voxel{'s' * (extent['voxels'] != 1)}"
  return voxels if extent["volume_ml"] is None else f"{extent['volume_ml']:.2f} ml"


def _window(segmented: Segmented) -> tuple[float, float]:
  """The intensities shown as black and as white."""
  shown = segmented.scan.image[..., segmented.info.reference_index]
  step = max(math.isqrt(shown.size // _SEEN), 1)
  low, high = np.percentile(shown[:, ::step, ::step], (0.5, 99.5))
  return (float(low), float(high)) if low < high else (float(shown.min()), float(shown.max()))


def _scale(scan: Scan) -> float:
  """Pixels of an image by square pixels of a slice."""
  longest = max(_square_pixels(scan))
  return min(_LONGEST / longest, float(math.ceil(_SHORTEST / longest)))


def _square_pixels(scan: Scan) -> tuple[float, float]:
  """Height and width of a slice in square pixels of the finer spacing."""
  _, height, width, _ = scan.image.shape
  _, rows, columns = scan.spacing_mm or (1, 1, 1)
  return height * rows / min(rows, columns), width * columns / min(rows, columns)


def _overlay(segmented: Segmented, index: int, window: tuple[float, float], scale: float) -> Image.Image:
  """A scaled slice with square pixels, the tumour lightly filled and outlined by one pixel."""
  wanted = tuple(max(round(side * scale), 1) for side in reversed(_square_pixels(segmented.scan)))
  resize = lambda values, how: np.asarray(Image.fromarray(values.astype(np.float32)).resize(wanted, how))
  low, high = window
  shown = resize(
    np.clip(segmented.scan.image[index, ..., segmented.info.reference_index], low, high), Image.Resampling.BICUBIC
  )
  grey = 255 * np.clip((shown.astype(np.float64) - low) / (high - low), 0, 1)
  mixed = np.repeat(grey[..., None], 3, axis=-1)
  for number, colour in zip(range(len(segmented.info.classes)), itertools.cycle(_CLASSES), strict=False):
    # A pixel that holds any tumour shows it, so that a few voxels are seen in small images too.
    tumor = resize(segmented.masks[index, ..., number], Image.Resampling.BOX) > 0
    line = ndimage.binary_dilation(tumor, np.ones((3, 3))) & ~tumor
    share = (_FILL * tumor + line)[..., None]
    mixed = mixed * (1 - share) + np.array(colour) * share
  return Image.fromarray(np.round(mixed).astype(np.uint8))


def _lettered(image: Image.Image, scan: Scan) -> Image.Image:
  """The image with the patient's directions at its edges, where they are known."""
  towards = directions.letters(scan.affine)
  if towards is None:
    return image
  across, down, draw = towards["columns"], towards["rows"], ImageDraw.Draw(image)
  width, height = image.size
  for text, position, anchor in (
    (directions.opposite(across), (_GAP, height / 2), "lm"),
    (across, (width - _GAP, height / 2), "rm"),
    (directions.opposite(down), (width / 2, _GAP), "mt"),
    (down, (width / 2, height - _GAP), "mb"),
  ):
    draw.text(position, text, _INK, _font(), anchor, stroke_width=1, stroke_fill=(0, 0, 0))
  return image


def _unknown(scan: Scan) -> list[Line]:
  return [Line(UNKNOWN)] if scan.affine is None else []


def _legend(segmented: Segmented, masks: Bool[np.ndarray, "*shape classes"]) -> list[Line]:
  """Each class of these masks in its colour with its size, where there are several."""
  classes, spacing = segmented.info.classes, segmented.scan.spacing_mm
  if len(classes) == 1:
    return []
  return [
    Line(f"{name}: {_extent(masks[..., number], spacing)}", _CLASSES[number % len(_CLASSES)])
    for number, name in enumerate(classes)
  ]


def _with_text(image: Image.Image, lines: list[Line]) -> Image.Image:
  """The image above lines of small text, as wide as either needs."""
  width = max(image.width, *(math.ceil(_font().getlength(line.text)) + 2 * _GAP for line in lines))
  page = Image.new("RGB", (width, image.height + len(lines) * _LINE + _GAP), _PAPER)
  page.paste(image, ((width - image.width) // 2, 0))
  for number, line in enumerate(lines):
    ImageDraw.Draw(page).text((_GAP, image.height + number * _LINE + 1), line.text, line.colour, _font())
  return page


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
  return ImageFont.load_default(_FONT)


def _short(name: str, width: float = _HEADING) -> str:
  """The end of a name, which differs from slice to slice, in one line of at most this many pixels."""
  name, start = " ".join("".join(c if c.isprintable() else " " for c in name).split()), ""
  while name and _font().getlength(start + name) > width:
    name, start = name[1:], "..."
  return start + name


def _file_names(names: list[str]) -> list[str]:
  """Unique names of slices for files, without special characters; of a long name the end."""
  harmless = ["".join(c if c.isprintable() and c not in "/\\" else "_" for c in name) for name in names]
  cut = [name.encode()[-_LONGEST_NAME:].decode(errors="ignore") for name in harmless]
  if len({name.casefold() for name in cut}) == len(cut):
    return cut
  return [f"{number}_{name}" for number, name in zip(numbered(len(cut)), cut, strict=True)]


def _write(path: pathlib.Path, image: Image.Image) -> pathlib.Path:
  """Writes a PNG, without `files.write_bytes`, whose atomic write takes longer than the image: the folder is moved as a whole."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(files.png(image, {"Disclaimer": NOTICE}, compress_level=3))
  return path
