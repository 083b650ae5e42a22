"""Reads a case: its image in axial slices of all channels, its masks by class, and how large its voxels are."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel
import numpy as np
import tifffile
from jaxtyping import Float, Integer, Shaped, UInt8, UInt16
from PIL import Image

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data.collection import Case, Labels
from bt_jax.errors import UserError, one_line
from bt_jax.scans import nifti, nifti_geometry, raster, resampling
from bt_jax.scans.file_types import kind_of
from bt_jax.scans.scan import axial_spacing, check_range, same_grid, to_axial

_MOST_CHANNELS = 64
_MOST_LABELS = 32  # numbers in one mask, of which more are intensities
Spacing = tuple[float, float, float]


class Volume(NamedTuple):
  """The values of a file or of a case, in axial slices.

  Attributes:
    values: [slices, height, width, channels].
    spacing_mm: between slices, rows and columns; None where the files do not say.
    affine: of NIfTI, and its shape there; None of other formats.
    path: of the first file.
    source: what a mask needs to be written like it; see `Scan`.
  """

  values: Shaped[np.ndarray, "slices height width channels"]
  spacing_mm: Spacing | None
  affine: tuple[Float[np.ndarray, "4 4"], tuple[int, ...]] | None
  path: pathlib.Path
  source: Any = None


def _read(path: pathlib.Path, *, mask: bool) -> Volume:
  """The values of one file; raises UserError where it is damaged, or of no kind that is read."""
  kind = kind_of(path)
  if kind == "nifti":
    values, source, _ = nifti.load(path, channels=(1,) if mask else range(1, _MOST_CHANNELS + 1), flat=True)
    shape = values.shape[:3]
    values = np.ascontiguousarray(to_axial(values, source.affine))
    spacing = None if mask else nifti_geometry.spacing(source, values.shape[:3], path)[0]
    return Volume(values, spacing, (source.affine, shape), path, source)
  if kind == "images":
    source, values = raster.load(path, any_channels=not mask)
    return Volume(values, None, None, path, (source,))
  raise UserError(f"{path} is not a NIfTI, TIFF, PNG or JPEG: convert it")


def _read_all(paths: Sequence[pathlib.Path], *, mask: bool) -> Volume:
  """The slices of several files, one after another."""
  volumes = [_read(path, mask=mask) for path in paths]
  first = volumes[0]
  for volume in volumes:
    if volume.values.shape[1:] != first.values.shape[1:]:
      raise UserError(f"{volume.path} is {_size(volume)}, and {first.path} {_size(first)}: slices of a case are alike")
  if len(volumes) == 1:
    return first
  sources = tuple(source for volume in volumes if volume.affine is None for source in volume.source)
  values = np.concatenate([volume.values for volume in volumes])
  return first._replace(values=values, affine=None, source=sources)


def _size(volume: Volume) -> str:
  slices, height, width, channels = volume.values.shape
  return f"{f'{slices} x ' if slices > 1 else ''}{height} x {width}, {channels} channel{'s' * (channels > 1)}"


def read_image(case: Case, channels: Sequence[str]) -> Volume:
  """The image of a case, float32.

  Args:
    case: of the collection.
    channels: by name; empty where any number of them will do.

  Raises:
    UserError: a file cannot be read, channels do not lie alike, or one of them is constant.
  """
  groups = [_read_all(paths, mask=False) for paths in case.images]
  first = groups[0]
  for group in groups[1:]:
    _check_alike(group, first, "channels of a case are alike: resample it")
  values = np.concatenate([group.values for group in groups], axis=-1).astype(np.float32, copy=False)
  if channels and values.shape[-1] != len(channels):
    raise UserError(
      f"{first.path} gives {case.name} {values.shape[-1]} channels, expected {len(channels)} ({', '.join(channels)}): "
      "convert it, or move the case away"
    )
  for number, group in enumerate(np.moveaxis(values, -1, 0)):
    where = groups[number].path if len(groups) == values.shape[-1] else f"channel {number + 1} of {first.path}"
    check_range(group[..., None], where)
  return first._replace(values=values)


def read_numbers(case: Case) -> Volume:
  """The numbers in the mask of a case, uint8 [slices, height, width, 1]; raises UserError where they are not labels."""
  volumes = _read_all(case.masks, mask=True)
  values, path = volumes.values, volumes.path
  if values.shape[-1] != 1:
    if (values != values[..., :1]).any():
      raise UserError(f"{path} is a mask in colours, expected numbers of classes in one channel: convert it")
    values = values[..., :1]
  if values.dtype.kind == "f" and (values != np.rint(values)).any():
    value = values[values != np.rint(values)][0]
    raise UserError(f"{path} is a mask with the value {value:g}, expected whole numbers: round or threshold it")
  lowest, highest = values.min(), values.max()
  if lowest < 0 or highest > 255:
    raise UserError(f"{path} is a mask with the number {lowest if lowest < 0 else highest:g}, expected 0 to 255")
  values = values.astype(np.uint8)
  if (count := np.count_nonzero(np.bincount(values.ravel()))) > _MOST_LABELS:
    raise UserError(
      f"{path} is a mask of {count} different numbers, expected labels: is it an image, or saved as JPEG?"
    )
  return volumes._replace(values=values)


def read_case(
  case: Case, channels: Sequence[str], labels: Labels
) -> tuple[Volume, UInt8[np.ndarray, "slices height width classes"]]:
  """The image of a case, and its masks in {0, 1}.

  Raises:
    UserError: as `read_image` and `read_numbers`; the two do not lie alike; or there is a number that no class has.
  """
  image, numbers = read_image(case, channels), read_numbers(case)
  _check_alike(numbers, image, "a mask lies on the grid of its image: resample it, to the nearest label")
  known = {value for values in labels.values.values() for value in values}
  found = np.flatnonzero(np.bincount(numbers.values.ravel(), minlength=256))
  if strange := [int(value) for value in found if value and value not in known]:
    raise UserError(
      f"{numbers.path} has the label {strange[0]}, which is not among {', '.join(map(str, sorted(known)))}: correct the mask, or "
      "name it in dataset.json"
    )
  masks = [np.isin(numbers.values[..., 0], values) for values in labels.values.values()]
  return image, np.stack(masks, axis=-1).astype(np.uint8)


def _check_alike(one: Volume, other: Volume, why: str) -> None:
  if one.values.shape[:3] != other.values.shape[:3]:
    sizes = " and ".join(" x ".join(map(str, volume.values.shape[:3])) for volume in (one, other))
    raise UserError(f"{one.path} and {other.path} differ in size ({sizes}): {why}")
  if one.affine and other.affine and not same_grid(one.affine[0], other.affine[0], one.affine[1]):
    raise UserError(f"{one.path} and {other.path} lie apart by their affines: {why}")


def in_plane(case: Case) -> tuple[int, float]:
  """The longer side of a case's slices, in pixels of the smaller side, and how high a pixel is by its width; by headers alone.

  Raises:
    UserError: the header cannot be read.
  """
  path = case.images[0][0]
  try:
    if kind_of(path) == "nifti":
      header = nibabel.load(path)
      grid = to_axial(np.broadcast_to(np.uint8(0), (*header.shape, 1, 1)[:3]), header.affine).shape
      _, rows, columns = axial_spacing(header.affine)
      aspect = rows / columns
    else:
      grid, aspect = _picture_size(path), 1.0
  except UserError:
    raise
  except Exception as error:  # whatever a library makes of a header that makes no sense
    raise UserError(f"{path} has a header that cannot be read ({one_line(error)}): copy or convert it again") from error
  height, width = grid[-2:]
  return round(max(height * max(aspect, 1.0), width * max(1 / aspect, 1.0))), aspect


def _picture_size(path: pathlib.Path) -> tuple[int, int]:
  if path.suffix.lower() in (".tif", ".tiff"):
    with tifffile.TiffFile(path) as tiff:
      page = tiff.pages.first
      return page.imagelength, page.imagewidth
  with Image.open(path) as image:
    turned = image.getexif().get(0x0112, 1) > 4
    return (image.width, image.height) if turned else (image.height, image.width)


def to_stored(
  volume: Volume, masks: Integer[np.ndarray, "slices height width classes"], info: DatasetInfo
) -> tuple[UInt16[np.ndarray, "slices size size channels"], UInt8[np.ndarray, "slices size size classes"]]:
  """A case as the data set stores it: 16 bits, square, the longer side filling it, what is left over black.

  Intensities become black and white as those of a scan do that is predicted, see `resampling.window`; resampling is
  linear, and a pixel is of a class where more than half of it is. A case that has the stored size stays as it is.
  """
  low, high = resampling.window(volume.values, fixed=info.window)
  _, rows, columns = volume.spacing_mm or (1.0, 1.0, 1.0)
  image, fits = (
    np.asarray(resampling.scale(volume.values, low, high)),
    volume.values.shape[1:3] == (info.size, info.size),
  )
  if not (fits and abs(rows / columns - 1) < 1e-3):
    image = np.asarray(resampling.to_training(image, info.size, rows / columns))
    masks = np.asarray(resampling.to_training(masks.astype(np.float32), info.size, rows / columns)) >= 0.5
  return np.rint(image * (65535 / 255)).astype(np.uint16), masks.astype(np.uint8)
