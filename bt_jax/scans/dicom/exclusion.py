"""Finds the stored pixels that a DICOM header declares not to be signal: padding, and what a display shutter hides."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Num

from bt_jax.scans.dicom.headers import numbers_in

_PADDINGS = (
  ("PixelPaddingValue", "PixelPaddingRangeLimit"),
  ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
  ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
)


def excluded(
  dataset: Any,
  cells: Num[np.ndarray, "frames rows columns"],
  values: Num[np.ndarray, "frames rows columns"],
  path: pathlib.Path,
) -> Bool[np.ndarray, "frames rows columns"] | None:
  """Where pixels are not signal; None where all are.

  Args:
    dataset: the file with its header.
    cells: pixels as stored, with all bits.
    values: the numbers that the stored bits of the cells stand for.
    path: the file, for messages.

  Raises:
    UserError: a value in the header is not a number.
  """
  outside = np.zeros(cells.shape, bool)
  for value, limit in _PADDINGS:
    ends = [number for keyword in (value, limit) for number in numbers_in(dataset, keyword, path)[:1]]
    if value in dataset and ends and (cells.dtype.kind == "f") == (value != "PixelPaddingValue"):
      outside |= _padding(dataset, cells, values, ends)
  outside |= _shutter(dataset, cells.shape[1:], path)
  return outside if outside.any() else None


def _padding(dataset: Any, cells: np.ndarray, values: np.ndarray, ends: list[float]) -> Bool[np.ndarray, "..."]:
  """Where pixels are padding: one value, or a range that includes both ends (PS3.3 C.7.5.1.1.2)."""
  if cells.dtype.kind == "f":
    low, high = (cells.dtype.type(end) for end in (min(ends), max(ends)))
    return (values >= low) & (values <= high)
  # A value written with the wrong sign, such as 63536 for -2000, has the same bits.
  known = np.array(ends).astype(np.int64).astype(cells.dtype).astype(np.int64)
  levels = 2 ** int(dataset.BitsStored)
  lowest = -levels // 2 if cells.dtype.kind == "i" else 0
  if known.min() >= 0 and lowest + levels <= known.max() < levels:  # its uppermost bit is the sign
    known -= levels
  if known.min() < lowest or known.max() >= lowest + levels:  # beyond the stored bits
    values = cells
  return (values >= known.min()) & (values <= known.max())


def _shutter(dataset: Any, shape: tuple[int, int], path: pathlib.Path) -> Bool[np.ndarray, "rows columns"]:
  """Where a display shutter hides pixels, outside any of its shapes (PS3.3 C.7.6.11); rows and columns count from 1."""
  from skimage.draw import polygon2mask

  names = dataset.get("ShutterShape") or []
  names = [names] if isinstance(names, str) else names
  rows, columns = np.indices(shape) + 1
  outside = np.zeros(shape, bool)
  numbers = lambda keyword: numbers_in(dataset, keyword, path)
  if "RECTANGULAR" in names:
    edges = [
      numbers(f"Shutter{edge}Edge") for edge in ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
    ]
    if all(edges):
      left, right, top, bottom = (edge[0] for edge in edges)
      outside |= (columns <= left) | (columns >= right) | (rows <= top) | (rows >= bottom)
  if (
    "CIRCULAR" in names
    and (centre := numbers("CenterOfCircularShutter"))
    and (radius := numbers("RadiusOfCircularShutter"))
  ):
    outside |= np.hypot(rows - centre[0], columns - centre[-1]) > radius[0]
  if "POLYGONAL" in names and len(corners := numbers("VerticesOfThePolygonalShutter")) >= 6:
    outside |= ~polygon2mask(shape, np.reshape(corners[: len(corners) // 2 * 2], (-1, 2)) - 1)
  return outside
