"""Remedies for masks in colours, by the way in which they are stored."""

import pathlib

import tifffile
from PIL import Image

from bt_jax.errors import UserError


def error(path: pathlib.Path) -> UserError:
  """The error for a mask in colours, with its remedy."""
  if _has_palette(path):
    return UserError(
      f"{path} is a mask with a palette (an indexed PNG), which shows numbers as colours, expected the numbers alone: save it in grey, "
      f'e.g. with Pillow, Image.fromarray(numpy.asarray(Image.open("{path.name}"))).save("{path.name}")'
    )
  remedy = of_planes(path) or "convert it"
  return UserError(
    f"{path} is a mask in colours, expected the number of a class in each pixel, in one channel: {remedy}"
  )


def of_planes(path: pathlib.Path) -> str:
  """The remedy for a TIFF whose slices were saved as planes of colours; empty for other files."""
  if path.suffix.lower() not in (".tif", ".tiff"):
    return ""
  with tifffile.TiffFile(path) as file:
    page = file.pages.first
    if page.samplesperpixel == 1 or page.planarconfig != tifffile.PLANARCONFIG.SEPARATE:
      return ""
  return (
    f"{path.name} has {page.samplesperpixel} planes that count as colours; if they are slices, save them as pages, e.g. "
    'tifffile.imwrite(..., photometric="minisblack")'
  )


def _has_palette(path: pathlib.Path) -> bool:
  if path.suffix.lower() != ".png":
    return False
  with Image.open(path) as image:
    return image.mode == "P"
