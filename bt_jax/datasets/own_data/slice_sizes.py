"""The size of the slices of a case, by the headers of its files alone."""

import gzip
import pathlib

import nibabel
import numpy as np
import tifffile
from PIL import Image

from bt_jax.datasets.own_data.collection import Case, Spacing
from bt_jax.errors import UserError, one_line
from bt_jax.scans import findings, nifti_geometry
from bt_jax.scans.file_types import kind_of
from bt_jax.scans.nifti_geometry import Source
from bt_jax.scans.scan import to_axial


def side_of(height: int, width: int, spacing: Spacing | None) -> int:
  """The longer side of a slice, in square pixels of the finer spacing."""
  _, rows, columns = spacing or (1.0, 1.0, 1.0)
  return round(max(height * max(rows / columns, 1.0), width * max(columns / rows, 1.0)))


def longest_side(case: Case) -> int:
  """`side_of` the slices of a case, by headers alone; raises UserError where one cannot be read."""
  path = case.images[0][0]
  try:
    if kind_of(path) == "nifti":
      source = _header(path)
      shape = to_axial(np.broadcast_to(np.uint8(0), (*source.shape, 1)[:3]), source.affine).shape
      return side_of(*shape[1:], nifti_geometry.spacing(source, shape, path)[0])
    if path.suffix.lower() in (".tif", ".tiff"):
      with findings.kept(), tifffile.TiffFile(path, _multifile=False) as tiff:
        return max(tiff.pages.first.imagelength, tiff.pages.first.imagewidth)
    with findings.kept(), Image.open(path) as image:
      return max(image.size)
  except UserError:
    raise
  except Exception as error:  # any error of a library over an invalid header
    raise UserError(f"{path} has a header that cannot be read ({one_line(error)}): copy or convert it again") from error


def _header(path: pathlib.Path) -> Source:
  """The geometry of a NIfTI, by the first bytes of the file, gzipped or not whatever its name."""
  with open(path, "rb") as file:
    packed = file.read(2) == b"\x1f\x8b"
  with gzip.open(path) if packed else open(path, "rb") as file:
    start = file.read(540)
  kind = nibabel.Nifti2Image if start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
  header = kind.header_class(start[: kind.header_class.sizeof_hdr])
  affine = nifti_geometry.in_mm(header.get_best_affine(), header)
  return Source(kind, header, affine, header.get_data_shape()[:3], ".nii.gz" if packed else ".nii")
