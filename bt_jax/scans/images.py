"""Slices in TIFF, PNG and JPEG: pictures to a scan, and masks back to pictures."""

import io
import logging
import math
import pathlib
import struct
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from PIL import Image, PngImagePlugin

from bt_jax import files as writing
from bt_jax.errors import UserError
from bt_jax.scans import roles
from bt_jax.scans.scan import NOTICE, Scan, fill_roles

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # of a broken file, one line is said

_LONGEST = 2**13  # along any axis
_LARGEST_VOLUME = 3 * 2**27  # values; 1.6 GB as float32
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# What the libraries raise for broken pictures.
_BROKEN = (ValueError, OSError, SyntaxError, RuntimeError, struct.error)
_COLOUR = 2, 4, 6  # kinds of PNG with more than one channel


class Picture(NamedTuple):
  """One file of a volume: its stem, one of TIFF, PNG and JPEG, and how many slices it holds (None: it is no stack)."""

  stem: str
  format: str
  pages: int | None


def format_of(start: bytes) -> str | None:
  """TIFF, PNG or JPEG, by the first bytes of a file."""
  if start.startswith(_TIFF):
    return "TIFF"
  return "PNG" if start.startswith(_PNG) else "JPEG" if start.startswith(_JPEG) else None


def is_stack(path: pathlib.Path) -> bool:
  """Whether this is a TIFF of several pages, a volume of its own."""
  import tifffile

  try:
    with tifffile.TiffFile(path) as tiff:
      return len(tiff.series) == 1 and tiff.series[0].ndim > tiff.series[0].keyframe.ndim
  except _BROKEN:
    return False


def read(files: Sequence[pathlib.Path], *, name: str, given: Mapping[str, str] = {}) -> Scan:
  """Reads the slices of one volume, in this order; intensities stay as they are.

  Args:
    files: pictures of one size and type, or TIFFs of several pages.
    name: of the study.
    given: pictures by role, of one channel each; `files` then holds FLAIR alone.

  Raises:
    UserError: a file is damaged, or none of a slice; or they do not go together.
  """
  paths = roles.by_role(files, given) if given else {}
  images = {role: _stack([path]) for role, path in paths.items()} or {"flair": _stack(files)}
  pictures, flair = images["flair"]
  if paths:
    found, told, warnings = roles.one_each({role: image for role, (_, image) in images.items()}, paths)
  else:
    found, told, warnings = roles.by_place(flair, files[0])
  image, told, missing = fill_roles(found, told, name)
  if flair.shape[-1] == 3 and any(picture.format == "JPEG" for picture in pictures):
    warnings.append("JPEG mixes the channels and changes their values: TIFF or PNG keeps them")
  if len(image) == 1:
    warnings.append("one slice stands for its volume: its own mean and deviation are used")
  return Scan(
    name, "images", image, None, told, [one for picture in pictures for one in _slice_names(picture)],
    missing + warnings, source=pictures,
  )  # fmt: skip


def _slice_names(picture: Picture) -> list[str]:
  if picture.pages is None:
    return [picture.stem]
  return [f"{picture.stem}_{page:04d}" for page in range(1, picture.pages + 1)]


def _stack(
  files: Sequence[pathlib.Path],
) -> tuple[tuple[Picture, ...], Shaped[np.ndarray, "slices height width channels"]]:
  pictures, images = {}, []
  for file in files:
    picture, image = _read_one(file)
    if picture.stem in pictures:
      raise UserError(f"{file} is given twice (another slice is called {picture.stem}, too): give each slice once")
    pictures[picture.stem] = picture
    images.append(image)
    if (image.shape[1:], image.dtype) != (images[0].shape[1:], images[0].dtype):
      raise UserError(
        f"{files[0]} is {_kind(images[0])} and {file} is {_kind(image)}: the slices of a volume are alike, "
        "give each volume a folder of its own"
      )
    if sum(image.size for image in images) > _LARGEST_VOLUME:
      raise UserError(f"{file} is one slice too many, the volume has over {_LARGEST_VOLUME:,} values: give it in parts")
  return tuple(pictures.values()), np.concatenate(images)


def _kind(image: np.ndarray) -> str:
  _, height, width, channels = image.shape
  return f"{height} x {width}, {image.dtype}, {channels} channel{'s' if channels > 1 else ''}"


def _read_one(path: pathlib.Path) -> tuple[Picture, Shaped[np.ndarray, "slices height width channels"]]:
  with open(path, "rb") as file:
    start = file.read(26)
  if not start:
    raise UserError(f"{path} is empty (0 bytes): copy it again")
  format = format_of(start)
  if format is None:
    raise UserError(f"{path} is no TIFF, PNG or JPEG, whatever it is called: convert it, or leave it out")
  try:
    values = _read_tiff(path) if format == "TIFF" else _read_picture(path, format, start)
  except Image.DecompressionBombError as error:
    raise UserError(f"{path} says it is larger than any MRI ({error}): is it damaged?") from error
  except _BROKEN as error:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    raise UserError(f"{path} is damaged or of a kind of {format} that is not read ({reason}): save it again") from error
  pages = len(values) if values.ndim == 4 else None
  values = values if values.ndim == 4 else values[None]
  return Picture(path.stem, format, pages), _without_alpha(values, path)


def _read_picture(path: pathlib.Path, format: str, start: bytes) -> np.ndarray:
  with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):  # what is too large is told
    picture = Image.open(path, formats=[format])
  with picture:
    _check_promise(path, (picture.height, picture.width))
    if getattr(picture, "n_frames", 1) > 1:
      raise UserError(f"{path} is animated, expected one slice: save its frames as files")
    if picture.mode == "CMYK":
      raise UserError(f"{path} is in the colours of print (CMYK), expected grey or three channels: save it as such")
    if format == "PNG" and start[24] == 16 and start[25] in _COLOUR:  # Pillow would drop the lower 8 bits
      import imagecodecs

      return imagecodecs.png_decode(path.read_bytes())
    values = np.asarray(picture.convert("RGBA") if picture.mode in ("P", "PA") else picture)
  return values if values.ndim == 3 else values[..., None]


def _read_tiff(path: pathlib.Path) -> np.ndarray:
  import tifffile

  try:
    with tifffile.TiffFile(path) as tiff:
      if len(tiff.series) != 1:
        raise UserError(
          f"{path} has pages of different sizes or types, expected the slices of one volume: save them apart"
        )
      (series,) = tiff.series
      _check_promise(path, series.shape)
      page, axes, size = series.keyframe, series.axes, path.stat().st_size
      ends = [
        start + length for one in series for start, length in zip(one.dataoffsets, one.databytecounts, strict=True)
      ]
      if not ends or max(ends) > size:
        raise UserError(f"{path} is truncated ({size:,} bytes): copy it again")
      values, colours = series.asarray(), page.colormap
  except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError) as error:
    raise ValueError(f"{type(error).__name__} {error}") from error  # tifffile's, where tags contradict each other
  if values.dtype.kind not in "buif":
    raise UserError(f"{path} holds {values.dtype} numbers, expected integers or floats: save it as such")
  channels = next((axes.index(axis) for axis in "SC" if axis in axes), None)
  values = values[..., None] if channels is None else np.moveaxis(values, channels, -1)
  if values.ndim not in (3, 4):
    raise UserError(f"{path} has the axes {axes}, expected slices of one volume: save one series alone")
  return _as_shown(values, page, colours, path)


def _as_shown(values: np.ndarray, page: Any, colours: np.ndarray | None, path: pathlib.Path) -> np.ndarray:
  """Larger numbers are brighter."""
  from tifffile import COMPRESSION, PHOTOMETRIC

  decoded = PHOTOMETRIC.YCBCR if page.compression == COMPRESSION.JPEG else None
  if page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, decoded):
    return values
  if page.photometric == PHOTOMETRIC.MINISWHITE:
    return (np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1) - values
  if page.photometric == PHOTOMETRIC.PALETTE and np.ndim(colours) == 2 and values.max() < colours.shape[-1]:
    return np.moveaxis(colours[:, values[..., 0].astype(int)] >> 8, 0, -1).astype(np.uint8)
  raise UserError(f"{path} is in other colours (photometric {page.photometric}), expected grey or RGB: save it as such")


def _check_promise(path: pathlib.Path, shape: Sequence[int]) -> None:
  """Looks at what a header says before anything is decoded."""
  if max(shape, default=0) > _LONGEST or math.prod(shape) > _LARGEST_VOLUME:
    raise UserError(f"{path} says it is {' x '.join(map(str, shape))} in size, larger than any MRI: is it damaged?")


def _without_alpha(values: np.ndarray, path: pathlib.Path) -> np.ndarray:
  if values.shape[-1] in (2, 4):
    if values[..., -1].min() != values[..., -1].max():
      raise UserError(f"{path} is transparent in parts, expected one or three channels: save it without alpha")
    values = values[..., :-1]
  if values.shape[-1] not in (1, 3):
    raise UserError(f"{path} has {values.shape[-1]} channels, expected one (FLAIR) or three (pre, FLAIR, post)")
  return values


def write(
  scan: Scan,
  folder: pathlib.Path,
  mask: Bool[np.ndarray, "slices height width"],
  probability: Float[np.ndarray, "slices height width"] | None,
  *,
  software: str,
) -> list[pathlib.Path]:
  """Writes a mask of 0 and 255 for each picture, in its format (PNG for JPEG), and probabilities as float TIFFs.

  Args:
    scan: what `read` made.
    folder: gets `masks/<stem>_mask.tif` or `.png`, and `probabilities/<stem>_probability.tif`.
    mask: of the slices of `scan.image`.
    probability: in 0..1, if wanted.
    software: what made them, for the files' own descriptions.

  Returns:
    The files.
  """
  written, start = [], 0
  for picture in scan.source:
    here = slice(start, start + (picture.pages or 1)) if picture.pages else start
    values = mask[here].astype(np.uint8) * 255
    content, suffix = (
      (_tiff(values, software), ".tif") if picture.format == "TIFF" else (_png(values, software), ".png")
    )
    written.append(writing.write_bytes(folder / "masks" / f"{picture.stem}_mask{suffix}", content))
    if probability is not None:
      path = folder / "probabilities" / f"{picture.stem}_probability.tif"
      written.append(writing.write_bytes(path, _tiff(probability[here], software)))
    start += picture.pages or 1
  return written


def _tiff(values: np.ndarray, software: str) -> bytes:
  import tifffile

  buffer = io.BytesIO()
  tifffile.imwrite(
    buffer, values, photometric="minisblack", compression="zlib", description=NOTICE, software=software, metadata=None
  )
  return buffer.getvalue()


def _png(values: np.ndarray, software: str) -> bytes:
  texts = PngImagePlugin.PngInfo()
  texts.add_text("Description", NOTICE)
  texts.add_text("Software", software)
  buffer = io.BytesIO()
  Image.fromarray(values).save(buffer, "PNG", pnginfo=texts)
  return buffer.getvalue()
