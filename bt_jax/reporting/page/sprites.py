"""Volumes for the viewer of the report: the slices of a case side by side in one image (a sprite) for each layer."""

import io
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, PngImagePlugin
from skimage import measure

from bt_jax import files
from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import one_line
from bt_jax.schema import Slices, to_8_bits

COLUMNS = 8  # slices per line of a sprite
_TOLERANCE = 0.3  # largest error of an outline in pixels, to draw it with fewer points


class Volume(NamedTuple):
  """A case in the viewer, with its slices in order.

  Attributes:
    case: name of the case.
    flair: the reference channel as a grey PNG with `COLUMNS` slices per line.
    truth: the true masks.
    prediction: the predicted masks; None for a classifier.
  """

  case: str
  flair: bytes
  truth: Bool[np.ndarray, "n size size classes"]
  prediction: Bool[np.ndarray, "n size size classes"] | None


def save_volumes(
  folder: pathlib.Path, slices: Slices, masks: Bool[np.ndarray, "n size size classes"] | None, *, reference: int
) -> list[pathlib.Path]:
  """Writes FOLDER/CASE/flair.png, truth.png and, unless `masks` is None, prediction.png for every case.

  `flair.png` shows the channel with index `reference`. An image of masks has first all slices of the first class, then
  those of the second, and so on.
  """
  image = to_8_bits(slices.image[..., reference, None])
  layers = {"flair": image, "truth": slices.mask == 1, "prediction": masks}
  written = []
  for case in dict.fromkeys(map(str, slices.case)):
    indices = np.flatnonzero(slices.case == case)
    indices = indices[np.argsort(slices.number[indices])]
    for name, layer in layers.items():
      if layer is not None:
        content = files.png(Image.fromarray(_sprite(np.concatenate(np.moveaxis(layer[indices], -1, 0)))), optimize=True)
        written.append(files.write_bytes(folder / case / f"{name}.png", content))
  return written


def read_volume(folder: pathlib.Path, case: str, count: int, info: DatasetInfo) -> Volume | None:
  """Reads a volume of `count` slices of a data set that `save_volumes` wrote; None if it is missing or has another size.

  Raises:
    UserError: an image is damaged.
  """
  paths = {name: folder / case / f"{name}.png" for name in ("flair", "truth", "prediction")}
  if not paths["flair"].is_file() or not paths["truth"].is_file():
    return None
  classes = len(info.classes)
  count_of = {"flair": count, "truth": count * classes, "prediction": count * classes}
  try:
    content = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    layers = {name: _slices(content[name], count_of[name], info.size) for name in content}
  except (OSError, SyntaxError, ValueError) as error:  # raised by Pillow for a broken image
    raise files.damaged(folder / case, f"an image: {one_line(error)}", files.EVALUATE) from error
  if any(layer is None for layer in layers.values()):
    return None
  masks = {
    name: np.moveaxis(layer.reshape(classes, count, info.size, info.size) > 0, 0, -1)
    for name, layer in layers.items()
    if name != "flair"
  }
  return Volume(case, content["flair"], masks["truth"], masks.get("prediction"))


def flair_slices(volume: Volume) -> UInt8[np.ndarray, "n size size"]:
  """The slices of the reference channel of a volume."""
  count, size = volume.truth.shape[:2]
  return _slices(volume.flair, count, size)


def outlines(masks: Bool[np.ndarray, "n size size"]) -> str:
  """The outlines of all slices as the data of one SVG path, in pixels of the sprite, accurate to 0.3 pixels."""
  pieces = []
  for number, mask in enumerate(masks):
    line, column = divmod(number, COLUMNS)
    # Zero padding closes the outline of a mask that touches the border; pixel centres are at half-integers.
    for contour in measure.find_contours(np.pad(mask, 1).astype(np.uint8), 0.5):
      points = measure.approximate_polygon(contour, _TOLERANCE)[:-1, ::-1] - 0.5
      points += np.array([column, line]) * mask.shape[0]
      pieces.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
  return "".join(pieces)


def _sprite(layer: np.ndarray) -> np.ndarray:
  lines = -(-len(layer) // COLUMNS)
  padded = np.zeros((lines * COLUMNS, *layer.shape[1:]), layer.dtype)
  padded[: len(layer)] = layer
  height, width = layer.shape[1:]
  return padded.reshape(lines, COLUMNS, height, width).swapaxes(1, 2).reshape(lines * height, COLUMNS * width)


def _slices(content: bytes, count: int, size: int) -> Shaped[np.ndarray, "count size size"] | None:
  """The slices in the PNG of a sprite; None unless it has the size of so many and is grey or of masks."""
  # `Image.open` refuses images of as many pixels as long volumes have. Its limit is for images of unknown size: this one's
  # is compared with the expected one before any pixel is decoded.
  image, lines = PngImagePlugin.PngImageFile(io.BytesIO(content)), -(-count // COLUMNS)
  if image.size != (COLUMNS * size, lines * size) or image.mode not in ("L", "1"):
    return None
  return np.asarray(image).reshape(lines, size, COLUMNS, size).swapaxes(1, 2).reshape(-1, size, size)[:count]
