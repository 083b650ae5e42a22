"""Reads slices in TIFF, PNG and JPEG as a scan, and writes masks as images."""

import io
import math
import pathlib
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from bt_jax import files as writing
from bt_jax.errors import UserError, one_line
from bt_jax.scans import codestreams, findings, orientation, sequences, tiff
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.intensities import check_finite, check_range
from bt_jax.scans.scan import NOTICE, Maps, Mask, Scan, check_expansion, fill_roles
from bt_jax.schema import CHANNELS

_LONGEST = 2**12  # along any axis
_LARGEST_VOLUME = 3 * 2**27  # values; 1.6 GB as float32
_MOST_WARNINGS = 5  # of libraries, about the files of one volume
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# What the libraries raise for broken images.
_BROKEN = (ValueError, OSError, SyntaxError, RuntimeError, MemoryError, struct.error)
_COLOUR = 2, 4, 6  # colour types of PNG with more than one channel


class SliceFile(NamedTuple):
  """One file of a volume.

  Attributes:
    stem: its name without the suffix.
    format: TIFF, PNG or JPEG.
    pages: how many slices it holds; None if it is not a stack.
    orientation: how its pixels are turned for display, 1..8; its mask is stored with the same orientation.
  """

  stem: str
  format: str
  pages: int | None
  orientation: int = orientation.AS_STORED


def format_of(start: bytes) -> str | None:
  """TIFF, PNG or JPEG, by the first bytes of a file."""
  if start.startswith(_TIFF):
    return "TIFF"
  return "PNG" if start.startswith(_PNG) else "JPEG" if start.startswith(_JPEG) else None


def is_stack(path: pathlib.Path) -> bool:
  """Whether this is a TIFF of several pages, a volume of its own."""
  try:
    with findings.kept():
      return tiff.is_stack(path)
  except _BROKEN:
    return False


def read(files: Sequence[pathlib.Path], *, name: str, given: Mapping[str, str] = {}) -> Scan:
  """Reads the slices of one volume, in this order and turned upright; intensities stay as they are.

  Args:
    files: images of one size and type, or TIFFs of several pages.
    name: name of the study.
    given: paths by role, of images with one channel each; `files` then holds only FLAIR.

  Raises:
    UserError: a file is damaged or not a slice, or the files do not belong together.
  """
  paths = sequences.by_role(files, given) if given else {}
  images = {role: _stack([path]) for role, path in paths.items()} or {"flair": _stack(files)}
  sources, flair, _ = images["flair"]
  if paths:
    channels, origins, warnings = sequences.one_each({role: image for role, (_, image, _) in images.items()}, paths)
  else:
    channels, origins, warnings = sequences.by_channel(flair, files[0])
  warnings += [sentence for *_, sentences in images.values() for sentence in sentences]
  image, origins, missing = fill_roles(channels, origins, name)
  if flair.shape[-1] == len(CHANNELS) and any(source.format == "JPEG" for source in sources):
    warnings.append("JPEG mixes the channels and changes their values: TIFF or PNG keeps them")
  if len(image) == 1:
    warnings.append("one slice stands for its volume: its own mean and standard deviation are used")
  return Scan(
    name, "images", image, None, origins, [one for source in sources for one in _slice_names(source)],
    missing + warnings, source=sources,
  )  # fmt: skip


def _slice_names(source: SliceFile) -> list[str]:
  if source.pages is None:
    return [source.stem]
  return [f"{source.stem}_{page:04d}" for page in range(1, source.pages + 1)]


def _stack(
  files: Sequence[pathlib.Path],
) -> tuple[tuple[SliceFile, ...], Shaped[np.ndarray, "slices height width channels"], list[str]]:
  """The files of a volume, their pixels, and what the libraries logged about them, a sentence each."""
  sources, images, warnings = {}, [], []
  for file in files:
    with findings.kept() as messages:
      source, image = load(file)
    warnings += findings.sentences(file.name, messages)
    if source.stem in sources:
      raise UserError(f"{file} is given twice (another slice is called {source.stem}, too): give each slice once")
    sources[source.stem] = source
    images.append(image)
    if (image.shape[1:], image.dtype) != (images[0].shape[1:], images[0].dtype):
      raise UserError(
        f"{files[0]} is {_kind(images[0])} and {file} is {_kind(image)}: the slices of a volume are alike, "
        "give each volume a folder of its own"
      )
    check_finite(image, file)
    if sum(image.size for image in images) > _LARGEST_VOLUME:
      raise UserError(f"{file} is one slice too many, the volume has over {_LARGEST_VOLUME:,} values: give it in parts")
  volume = np.concatenate(images)
  check_range(volume, files[0] if len(files) == 1 else f"the volume of {files[0]} to {files[-1].name}")
  return tuple(sources.values()), volume, warnings[:_MOST_WARNINGS]


def _kind(image: np.ndarray) -> str:
  _, height, width, channels = image.shape
  return f"{height} x {width}, {image.dtype}, {channels} channel{'s' if channels > 1 else ''}"


def load(
  path: pathlib.Path, *, any_channels: bool = False
) -> tuple[SliceFile, Shaped[np.ndarray, "slices height width channels"]]:
  """The slice or slices of a file, turned upright.

  Args:
    path: a TIFF, PNG or JPEG.
    any_channels: whether a TIFF may have any number of channels; otherwise it must have one or three, besides alpha.

  Raises:
    UserError: the file is damaged, or not a slice.
  """
  with open(path, "rb") as file:
    start = file.read(26)
  if not start:
    raise UserError(f"{path} is empty (0 bytes): copy it again")
  format = format_of(start)
  if format is None:
    raise UserError(f"{path} is not a TIFF, PNG or JPEG, whatever it is called: convert it, or leave it out")
  try:
    if format == "TIFF":
      values, turn = tiff.read(path, lambda shape, size: _check_promise(path, shape, size))
    else:
      values, turn = _read_image(path, format, start)
  except UserError:
    raise
  except Image.DecompressionBombError as error:
    raise UserError(f"{path} says it is larger than any MRI ({error}): is it damaged?") from error
  except _BROKEN as error:
    raise UserError(
      f"{path} is damaged or of a kind of {format} that is not supported ({one_line(error)}): save it again"
    ) from error
  pages = len(values) if values.ndim == 4 else None
  values = values if values.ndim == 4 else values[None]
  keep = any_channels and format == "TIFF"
  return SliceFile(path.stem, format, pages, turn), values if keep else _without_alpha(values, path)


def _read_image(
  path: pathlib.Path, format: str, start: bytes
) -> tuple[Shaped[np.ndarray, "height width channels"], int]:
  """The pixels of a PNG or JPEG as they are shown, and their orientation."""
  if format == "PNG":
    with Image.open(path, formats=[format]) as image:
      image.verify()  # checks the checksum of every chunk, which decoding does not
  elif not codestreams.is_whole(path.read_bytes()):  # the decoder would fill in grey
    raise UserError(f"{path} is truncated, it has no end: copy it again")
  with Image.open(path, formats=[format]) as image:
    shape, deep = (image.height, image.width, len(image.getbands())), format == "PNG" and start[24] == 16
    _check_promise(path, shape, math.prod(shape) * (2 if deep else 1))
    if getattr(image, "n_frames", 1) > 1:
      raise UserError(f"{path} is animated, expected one slice: save its frames as files")
    if image.mode == "CMYK":
      raise UserError(f"{path} is in the colours of print (CMYK), expected grey or three channels: save it as such")
    if deep and start[25] in _COLOUR:  # Pillow would drop the lower 8 bits
      import imagecodecs

      values = imagecodecs.png_decode(path.read_bytes())
    else:
      values = np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image)
    turn = orientation.check(image.getexif().get(orientation.TAG), path)  # it may come after the pixels
  return orientation.upright(values if values.ndim == 3 else values[..., None], turn), turn


def _check_promise(path: pathlib.Path, shape: Sequence[int], size: int) -> None:
  """Checks the shape and number of bytes that a header declares, before anything is decoded."""
  if max(shape, default=0) > _LONGEST or math.prod(shape) > _LARGEST_VOLUME:
    raise UserError(f"{path} says it is {' x '.join(map(str, shape))} in size, larger than any MRI: is it damaged?")
  check_expansion(size, path)


def _without_alpha(values: np.ndarray, path: pathlib.Path) -> np.ndarray:
  if values.shape[-1] in (2, 4):
    if values[..., -1].min() != values[..., -1].max():
      raise UserError(f"{path} is transparent in parts, expected one or three channels: save it without alpha")
    values = values[..., :-1]
  if values.shape[-1] not in (1, len(CHANNELS)):
    raise UserError(f"{path} has {values.shape[-1]} channels, expected one (FLAIR) or three (pre, FLAIR, post)")
  return values


def write(
  scan: Scan,
  folder: pathlib.Path,
  mask: Mask,
  maps: Maps,
  *,
  algorithm: Algorithm,
  classes: Mapping[int, str] | None = None,
) -> list[pathlib.Path]:
  """Writes a mask of 0 and 255, or of labels, for each file, in its format (PNG for JPEG), and maps as float TIFFs.

  Each is stored like its file, pixel for pixel and with the same orientation, so that viewers turn both alike.

  Args:
    scan: a scan from `read`.
    folder: folder for `masks/<stem>_mask.tif` or `.png`, and for each map e.g. `probabilities/<stem>_probability.tif`.
    mask: mask on the grid of `scan.image`.
    maps: further values by name, such as `probability`.
    algorithm: what made the mask; its origin stands in the files' own descriptions.
    classes: the name of each label; not written, as these formats have no place for them.

  Returns:
    The files.
  """
  shown = mask.astype(np.uint8) * 255 if mask.dtype == bool else mask
  written, start = [], 0
  for source in scan.source:
    own = slice(start, start + (source.pages or 1)) if source.pages else start
    turn = source.orientation
    stored = lambda values, turn=turn: orientation.as_stored(values[..., None], turn)[..., 0]
    values = stored(shown[own])
    write_as, suffix = (tiff_bytes, ".tif") if source.format == "TIFF" else (_png, ".png")
    content = write_as(values, turn, algorithm.origin)
    written.append(writing.write_bytes(folder / "masks" / f"{source.stem}_mask{suffix}", content))
    for name, values in maps.items():
      path = folder / folder_of(name) / f"{source.stem}_{name}.tif"
      written.append(writing.write_bytes(path, tiff_bytes(stored(values[own]), turn, algorithm.origin)))
    start += source.pages or 1
  return written


def folder_of(name: str) -> str:
  """The folder for the slices of a map: its plural."""
  return f"{name.removesuffix('y')}ies" if name.endswith("y") else f"{name}s"


def tiff_bytes(values: Shaped[np.ndarray, "..."], turn: int, origin: str) -> bytes:
  """The bytes of a TIFF with a slice, or with one for each page, stored with an orientation, 1..8; `origin` says what made it."""
  import tifffile

  buffer = io.BytesIO()
  tifffile.imwrite(
    buffer, np.ascontiguousarray(values), photometric="minisblack", compression="zlib", description=NOTICE,
    software=origin, metadata=None, extratags=[(orientation.TAG, "H", 1, turn, False)],
  )  # fmt: skip
  return buffer.getvalue()


def _png(values: np.ndarray, turn: int, software: str) -> bytes:
  exif = Image.Exif()
  exif[orientation.TAG] = turn
  turned = {} if turn == orientation.AS_STORED else {"exif": exif}
  return writing.png(Image.fromarray(values), {"Description": NOTICE, "Software": software}, **turned)
