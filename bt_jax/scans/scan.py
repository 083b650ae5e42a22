"""One scan in the form that networks take, whatever its files, and the inverse to the files' own grid."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from nibabel import orientations

from bt_jax.errors import UserError
from bt_jax.scans.intensities import check_finite, check_range
from bt_jax.schema import CHANNELS

NOTICE = "For research only, never clinical use."  # stands in every output

_MOST_VOXELS = 2**27  # 1.6 GB of three channels in float32
_LONGEST = 2**13  # along any axis
_MOST_SLICES = 2**11
_RATIO, _SMALL = (
  100,
  2**24,
)  # largest expansion, of files beyond so many bytes; real scans pack to a fifth, empty margins to 1 : 50

# Limits for the sides of voxels, and for the longest side of a volume: a head with some margin, or a good part of a brain.
FINEST_MM, COARSEST_MM, _SMALLEST_HEAD_MM, _LARGEST_VIEW_MM = 0.05, 50.0, 50.0, 1000.0
_MANY = 64  # a volume with fewer voxels along its longest axis may be cut out of a head
_SAME = 0.05  # of a voxel
_SQUARE = 0.01  # by how much the sides of pixels may differ where their size is implausible
_SHEARED, _MOST_SHEARED = 1.0, 60.0  # degrees: what is worth a warning, and what no gantry tilt explains
FARTHEST_MM = 5000.0  # from the scanner's centre, through which the table moves

# Slices run from the feet to the head, rows from front to back, columns from the patient's right to the left, as
# in the published slices. In nibabel's order of axes: columns, rows, slices.
AXIAL = orientations.axcodes2ornt(("L", "P", "S"))


def numbered(count: int) -> list[str]:
  """Names of slices that have none of their own: their numbers for people, `0001`, `0002`, ..."""
  return [f"{number:04d}" for number in range(1, count + 1)]


Mask = Bool[np.ndarray, "slices height width"] | UInt8[np.ndarray, "slices height width"]  # of one class, or of labels

Maps = Mapping[str, Float[np.ndarray, "slices height width"]]  # values in 0..1 to be written beside a mask, by name


@dataclasses.dataclass(frozen=True)
class Scan:
  """One scan.

  Attributes:
    name: name of the study, for people.
    format: format of its files, a name of `reader.FORMATS`.
    image: float32 [slices, height, width, channels], with the channels of the networks (for LGG pre-contrast, FLAIR and
      post-contrast) in the scale of the files; axial, where the files give their orientation.
    spacing_mm: distances between slices, rows and columns; None where the files do not say.
    roles: what each channel was read from, in words.
    slice_names: what each slice is called in outputs, e.g. the stem of its file, or its number from 1 on, `0012`.
    warnings: what to know about the files, a sentence each.
    ood_warnings: reasons why this may not be a scan for the networks, a sentence each.
    sha256: SHA-256 of the bytes of its files; empty where there are none.
    source: what its format needs to write a mask on the same grid.
    affine: from (column, row, slice) of `image` to mm in RAS; None where the files do not say how the head lies.
  """

  name: str
  format: str
  image: Float[np.ndarray, "slices height width channels"]
  spacing_mm: tuple[float, float, float] | None
  roles: dict[str, str]
  slice_names: list[str]
  warnings: list[str]
  sha256: str = ""
  source: Any = None
  ood_warnings: list[str] = dataclasses.field(default_factory=list)
  affine: Float[np.ndarray, "4 4"] | None = None

  def __post_init__(self):
    check_image(self.image, self.name, tuple(self.roles))


def check_size(shape: Sequence[int], where: Any) -> None:
  """Raises UserError where a header declares a volume larger than any MRI of a head, before its values are read.

  Args:
    shape: shape without channels.
    where: the file, or the name of the study.
  """
  if math.prod(shape) > _MOST_VOXELS or max(shape, default=0) > _LONGEST:
    raise UserError(
      f"{where} says it is {' x '.join(map(str, shape))} in size, larger than any MRI of a head: is it damaged? crop it"
    )


def check_expansion(size: int, path: pathlib.Path) -> None:
  """Raises UserError where a file would unpack to more bytes than a scan of its packed size can hold.

  Args:
    size: unpacked size in bytes that the file declares.
    path: the file.
  """
  if size > max(_SMALL, path.stat().st_size * _RATIO):
    raise UserError(
      f"{path} says that it unpacks to {size:,} bytes, over {_RATIO} times its size, as no scan does: damaged or truncated, "
      "copy it again"
    )


def check_image(image: np.ndarray, name: str, channels: Sequence[str]) -> None:
  """Raises UserError where an image is empty, too large, is not finite, or has a channel of one value only."""
  if not image.size:
    raise UserError(f"{name} has no pixel: name another file")
  check_size(image.shape[:3], name)
  if len(image) > _MOST_SLICES:
    raise UserError(f"{name} has {len(image)} axial slices, more than any MRI of a head: give it in parts")
  check_finite(image, name)
  check_range(image, name, channels)


def fill_roles(
  arrays: dict[str, Shaped[np.ndarray, "..."]], origins: dict[str, str], name: str
) -> tuple[Float[np.ndarray, "... 3"], dict[str, str], list[str]]:
  """The three channels from the sequences that were found; FLAIR stands in for the others, as in the published slices.

  Args:
    arrays: arrays of one shape, by role, a name of `CHANNELS`.
    origins: what each was read from, in words.
    name: name of the study.

  Returns:
    The channels in the last axis, what each was read from, and a warning for those replaced.

  Raises:
    UserError: there is no FLAIR, or shapes differ.
  """
  if "flair" not in arrays:
    raise UserError(f"{name} has no FLAIR: name it, the networks look for FLAIR abnormality", "flair")
  shapes = {role: array.shape for role, array in arrays.items()}
  if len(set(shapes.values())) > 1:
    sizes = ", ".join(f"{role} {' x '.join(map(str, shape))}" for role, shape in shapes.items())
    raise UserError(f"the sequences of {name} differ in size ({sizes}): register and resample them to FLAIR first")
  missing = [role for role in CHANNELS if role not in arrays]
  image = np.stack([arrays.get(role, arrays["flair"]) for role in CHANNELS], axis=-1).astype(np.float32, copy=False)
  roles = {role: origins.get(role, f"FLAIR in its place: {origins['flair']}") for role in CHANNELS}
  warnings = [f"no {' and no '.join(missing)} sequence: FLAIR stands in its place"] if missing else []
  return image, roles, warnings


def same_grid(one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape: Sequence[int]) -> bool:
  """Whether two volumes of one shape have the same grid: no corner is off by more than a twentieth of the smallest side of a voxel.

  Args:
    one: affine from indices to mm, in the order of axes of `shape`.
    other: the other affine.
    shape: voxels along the three axes.
  """
  return bool(apart_mm(one, other, shape) <= _SAME * np.linalg.norm(other[:3, :3], axis=0).min())


def apart_mm(one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape: Sequence[int]) -> float:
  """The largest distance between the same corners of a volume under two affines; see `same_grid`."""
  corners = np.stack(np.meshgrid(*([-0.5, size - 0.5] for size in shape), [1.0], indexing="ij"), -1).reshape(-1, 4)
  return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def to_axial(array: Shaped[np.ndarray, "..."], affine: Float[np.ndarray, "4 4"]) -> Shaped[np.ndarray, "..."]:
  """Turns [i, j, k, ...] into [slices, rows, columns, ...] by flips and swaps of axes alone.

  Args:
    array: array as stored in the file.
    affine: from (i, j, k) to mm in RAS, as in nibabel; oblique volumes are turned to the nearest axes.

  Raises:
    UserError: the affine is singular.
  """
  turned = orientations.apply_orientation(array, orientations.ornt_transform(orientation_of(affine), AXIAL))
  return np.moveaxis(turned, (0, 1, 2), (2, 1, 0))


def from_axial(array: Shaped[np.ndarray, "..."], affine: Float[np.ndarray, "4 4"]) -> Shaped[np.ndarray, "..."]:
  """The exact inverse of `to_axial`."""
  turned = np.moveaxis(array, (2, 1, 0), (0, 1, 2))
  return orientations.apply_orientation(turned, orientations.ornt_transform(AXIAL, orientation_of(affine)))


def axial_spacing(affine: Float[np.ndarray, "4 4"]) -> tuple[float, float, float]:
  """Distances in mm between slices, rows and columns once an array with this affine is axial.

  Slice distances are measured at right angles to the slices, and row distances at right angles to the rows. The product
  of all three is then the volume of a voxel, the determinant of the affine, and that of the last two the area of a pixel,
  even where a tilted gantry has shifted the slices against each other.
  """
  axes = affine[:3, :3][:, np.argsort(orientation_of(affine)[:, 0])]  # columns, rows, slices
  columns, rows, slices = np.abs(np.diag(np.linalg.qr(axes).R)).tolist()
  return slices, rows, columns


def check_shear(affine: Float[np.ndarray, "4 4"], where: Any) -> list[str]:
  """A warning where the axes of a volume are not at right angles, as after a gantry tilt.

  Raises:
    UserError: no gantry tilt explains the angle; `where`, the file or the name of the series, is in the message.
  """
  axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
  degrees = float(np.degrees(np.arcsin(min(np.abs(axes.T @ axes - np.eye(3)).max(), 1.0))))
  if degrees > _MOST_SHEARED:
    raise UserError(
      f"{where} is sheared by {degrees:.0f} degrees, more than a gantry is tilted: correct its header, or resample it to right angles"
    )
  if degrees <= _SHEARED:
    return []
  return [
    f"the volume is sheared by {degrees:.0f} degrees (gantry tilt?): its volume is right, lengths across slices are not"
  ]


def implausible_size(shape: Sequence[int], spacing_mm: Sequence[float]) -> str | None:
  """Why a volume of this size in mm cannot be of a head, as part of a sentence; None where it can.

  Args:
    shape: numbers of slices, rows and columns.
    spacing_mm: distances between slices, rows and columns.
  """
  longest = max(size * length for size, length in zip(shape, spacing_mm, strict=True))
  sides = " x ".join(f"{length:.3g}" for length in spacing_mm)
  if not FINEST_MM <= min(spacing_mm) <= max(spacing_mm) <= COARSEST_MM:
    return f"voxels of {sides} mm"
  if longest > _LARGEST_VIEW_MM or (longest < _SMALLEST_HEAD_MM and max(shape) >= _MANY):
    return f"a field of view of {longest:.3g} mm (voxels of {sides} mm)"
  return None


def leave_out(reason: str, spacing_mm: Sequence[float], where: Any) -> str:
  """The warning that sizes in mm are left out for this reason, see `implausible_size`.

  Raises:
    UserError: pixels are not square by these sizes, so that the shape of the slices is unknown, too.
  """
  _, rows, columns = spacing_mm
  if abs(rows - columns) > _SQUARE * max(rows, columns):
    raise UserError(
      f"{where} has {reason}, which no MRI of a head has: correct its header (pixdim, sform and units; PixelSpacing and positions)"
    )
  return f"the header has {reason}, which no MRI of a head has: sizes in mm are left out"


def orientation_of(affine: np.ndarray) -> np.ndarray:
  """For each axis of the array, the axis of the patient it runs along, and in which direction."""
  axes = affine[:3, :3]
  lengths = np.linalg.norm(axes, axis=0)
  if not np.isfinite(affine).all() or not lengths.all() or abs(np.linalg.det(axes / lengths)) < 1e-6:
    raise UserError("the affine of the volume is singular: correct its header, or convert it again")
  return orientations.io_orientation(affine)
