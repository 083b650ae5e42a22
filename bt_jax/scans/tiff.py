"""Reads TIFFs completely: every page of the chain, as many pages as declared, turned upright.

Of a truncated file tifffile reads the pages that are left and logs the rest, so the chain of pages is followed here too.
"""

import math
import pathlib
import struct
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Shaped

from bt_jax.errors import UserError
from bt_jax.scans import codestreams, orientation

_MOST_PAGES = 2**16
_CODESTREAMS = (7, 33003, 33004, 33005, 34712)  # the compressions of JPEG and JPEG 2000
_SHORT = 3  # the type of a 16-bit number
# Bytes of one value of each type (TIFF 6.0, page 15, and BigTIFF).
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# By version: the formats of an offset and of a tag count, the position of the first offset, and the bytes of a tag.
_LAYOUTS = {42: ("I", "H", 4, 12), 43: ("Q", "Q", 8, 20)}


def orientations(path: pathlib.Path) -> list[int]:
  """The orientation of every page, by following the chain of pages to its end.

  Raises:
    UserError: the chain or a tag leads beyond the end of the file, as in a truncated one; the chain is circular; or the
      orientation of a page is invalid.
  """
  pages, seen, end = [], set(), path.stat().st_size
  with open(path, "rb") as file:
    order = "<" if file.read(2) == b"II" else ">"

    def number(kind: str) -> int:
      return struct.unpack(order + kind, file.read(struct.calcsize(kind)))[0]

    try:
      offset_kind, count_kind, first, size = _LAYOUTS[number("H")]
      file.seek(first)
      offset = number(offset_kind)
      while offset:
        if offset in seen or len(seen) > _MOST_PAGES:
          raise UserError(f"{path} is damaged (its pages run in a circle): copy it again")
        seen.add(offset)
        file.seek(offset)
        if not (count := number(count_kind)):
          raise ValueError("a page without tags, which was never written")
        tags = file.read(count * size)
        offset = number(offset_kind)
        pages.append(orientation.check(_orientation(tags, order, size == 20, end), path))
    except UserError:
      raise
    except (struct.error, KeyError, OverflowError, ValueError) as error:
      raise UserError(
        f"{path} is truncated or damaged (its chain of pages breaks off after {len(pages)}): copy it again"
      ) from error
  return pages


def _orientation(tags: bytes, order: str, large: bool, end: int) -> int | None:
  """The orientation of a page; raises ValueError where a tag has values beyond the end of the file."""
  size, head, inline, offset = (20, "HHQ", 8, "Q") if large else (12, "HHI", 4, "I")
  value = None
  for start in range(0, len(tags), size):
    tag, kind, count = struct.unpack_from(order + head, tags, start)
    where, length = start + size - inline, _BYTES.get(kind, 0) * count
    if length > inline and struct.unpack_from(order + offset, tags, where)[0] + length > end:
      raise ValueError(f"tag {tag} lies behind the end")
    if tag == orientation.TAG:
      value = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), tags, where)[0]
  return value


def is_stack(path: pathlib.Path) -> bool:
  """Whether this is a TIFF of several pages, a volume of its own; raises errors of tifffile where it is damaged."""
  with _opened(path) as tiff:
    return len(tiff.series) == 1 and tiff.series[0].ndim > tiff.series[0].keyframe.ndim


def _opened(path: pathlib.Path) -> Any:
  """Opens a file; pages that tifffile wrote one by one are one series, and other files that its OME header names stay closed."""
  import tifffile

  tiff = tifffile.TiffFile(path, _multifile=False)
  if not tiff.is_shaped or len(tiff.series) == 1:
    return tiff
  tiff.close()
  return tifffile.TiffFile(path, _multifile=False, is_shaped=False)


def read(
  path: pathlib.Path, check_size: Callable[[Sequence[int], int], None]
) -> tuple[Shaped[np.ndarray, "... height width channels"], int]:
  """The upright pixels of a TIFF, [height, width, channels] or [pages, height, width, channels], and their orientation.

  Args:
    path: the file.
    check_size: raises UserError for a shape and a number of bytes that are too large to be decoded.

  Raises:
    UserError: it is truncated, holds fewer or more pages than it declares, or is not one volume of slices.
    ValueError: tags contradict each other, or pixels cannot be decoded.
  """
  turned = orientations(path)
  if len(set(turned)) > 1:
    raise UserError(f"{path} has pages of several orientations: save them all upright")
  try:
    with _opened(path) as tiff:
      if len(tiff.series) != 1:
        raise UserError(
          f"{path} has pages of different sizes or types, expected the slices of one volume: save them apart"
        )
      (series,) = tiff.series
      check_size(series.shape, math.prod(series.shape) * series.dtype.itemsize)
      _check_pages(tiff, series, len(turned), path)
      _check_segments(series, path)
      # One thread, because what others log is not collected.
      values, page, axes, colours = series.asarray(maxworkers=1), series.keyframe, series.axes, series.keyframe.colormap
  except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError) as error:
    raise ValueError(f"{type(error).__name__} {error}") from error  # tifffile's, where tags contradict each other
  if values.dtype.kind not in "buif":
    raise UserError(f"{path} holds {values.dtype} numbers, expected integers or floats: save it as such")
  channels = next((axes.index(axis) for axis in "SC" if axis in axes), None)
  values = values[..., None] if channels is None else np.moveaxis(values, channels, -1)
  if values.ndim not in (3, 4):
    raise UserError(f"{path} has the axes {axes}, expected slices of one volume: save one series alone")
  return orientation.upright(_as_shown(values, page, colours, path), turned[0]), turned[0]


def _check_pages(tiff: Any, series: Any, chain: int, path: pathlib.Path) -> None:
  """Raises UserError where fewer pages can be read than the chain has, or not as many as ImageJ, OME or tifffile declared."""
  count = math.prod(series.shape) // max(math.prod(series.keyframe.shape), 1)
  declared = _declared(tiff, series.keyframe)
  if any(page is None for page in series.pages) or count < chain or (declared and count not in declared):
    raise UserError(
      f"{path} declares {declared[0] if declared else chain} pages, but {min(count, chain)} can be read: it is truncated, "
      "or in several files: copy it again, or save it as a plain TIFF"
    )


def _declared(tiff: Any, page: Any) -> list[int]:
  """How many pages a file may have by its description; empty where that does not say."""
  if imagej := tiff.imagej_metadata:
    count = imagej.get("images")
    return [count, count // page.samplesperpixel] if count else []  # Bio-Formats counts samples as images
  if tiff.ome_metadata:
    return [sum(_planes(element) for element in _xml(tiff.ome_metadata).iter() if element.tag.endswith("}Pixels"))]
  for shaped in tiff.shaped_metadata or ():
    shape, own = tuple(shaped.get("shape", ())), page.shape
    if shape[-len(own) :] == own:
      return [math.prod(shape[: -len(own)])]
  return []


def _xml(text: str) -> ElementTree.Element:
  try:
    return ElementTree.fromstring(text)
  except ElementTree.ParseError as error:
    raise ValueError(f"its OME header is damaged, {error}") from error


def _planes(pixels: ElementTree.Element) -> int:
  samples = next((child.get("SamplesPerPixel", "1") for child in pixels if child.tag.endswith("}Channel")), "1")
  sizes = [int(pixels.get(f"Size{axis}", "1")) for axis in "ZCT"]
  return math.prod(sizes) // max(int(samples), 1)


def _check_segments(series: Any, path: pathlib.Path) -> None:
  """Raises UserError where pixels lie beyond the end of the file or were never written: tifffile would read zeros."""
  size = path.stat().st_size
  segments = [segment for page in series.pages for segment in zip(page.dataoffsets, page.databytecounts, strict=True)]
  if not segments or any(start <= 0 or length <= 0 or start + length > size for start, length in segments):
    raise UserError(f"{path} is truncated, or parts of it were never written ({size:,} bytes): copy it again")
  if series.keyframe.compression not in _CODESTREAMS:
    return
  with open(path, "rb") as file:
    for start, length in segments:
      file.seek(start)
      if not codestreams.is_whole(file.read(length)):
        raise UserError(f"{path} is damaged, a compressed part of it at byte {start:,} has no end: copy it again")


def _as_shown(values: np.ndarray, page: Any, colours: np.ndarray | None, path: pathlib.Path) -> np.ndarray:
  """Grey or RGB pixels in which larger numbers are brighter."""
  from tifffile import COMPRESSION, PHOTOMETRIC

  decoded = PHOTOMETRIC.YCBCR if page.compression == COMPRESSION.JPEG else None
  if page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, decoded):
    return values
  if page.photometric == PHOTOMETRIC.MINISWHITE:
    return (np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1) - values
  if page.photometric == PHOTOMETRIC.PALETTE and np.ndim(colours) == 2 and values.max() < colours.shape[-1]:
    return np.moveaxis(colours[:, values[..., 0].astype(int)] >> 8, 0, -1).astype(np.uint8)
  raise UserError(f"{path} is in other colours (photometric {page.photometric}), expected grey or RGB: save it as such")
