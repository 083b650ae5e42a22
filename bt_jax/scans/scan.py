"""One scan as the networks want it, whatever file it came from, and the way back to the file's own grid."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from nibabel import orientations

from bt_jax.errors import UserError
from bt_jax.schema import CHANNELS

NOTICE = "For research only, never clinical use."  # stands in every output

_MOST_VOXELS = 2**27  # 1.6 GB of three channels in float32
_LONGEST = 2**13  # along any axis
_MOST_SLICES = 2**11
# A range of intensities below these is rounding alone: as a share of them, and in any unit; what is above is not an intensity.
_FLAT, _LEAST_SPAN, _MOST_SPAN = 1e-6, 1e-9, 1e30
_RATIO, _SMALL = (
  100,
  2**24,
)  # bytes out of one, beyond so many bytes; real scans pack to a fifth, empty margins to 1 : 50

# Of the sides of voxels, and of the longest side of a volume: of a head with some margin, or of a good part of a brain.
FINEST_MM, COARSEST_MM, _SMALLEST_HEAD_MM, _LARGEST_VIEW_MM = 0.05, 50.0, 50.0, 1000.0
_MANY = 64  # voxels along the longest axis, of fewer than which a volume may be cut out of a head
_SAME = 0.05  # of a voxel
_SQUARE = 0.01  # by how much pixels may be higher than wide where nothing of their size can be believed
_SHEARED, _MOST_SHEARED = 1.0, 60.0  # degrees: what is worth a word, and what no gantry tilts
FARTHEST_MM = 5000.0  # from the middle of the scanner, which a table moves through

# Slices run from the feet to the head, rows from front to back, columns from the patient's right to the left: the way
# the published slices lie. As nibabel counts axes: columns, rows, slices.
_AXIAL = orientations.axcodes2ornt(("L", "P", "S"))


Mask = Bool[np.ndarray, "slices height width"] | UInt8[np.ndarray, "slices height width"]  # of one class, or of labels


@dataclasses.dataclass(frozen=True)
class Scan:
  """One scan.

  Attributes:
    name: of the study, for people.
    format: of its files, a name of `studies.FORMATS`.
    image: float32 [slices, height, width, channels], of the networks, for LGG pre-contrast, FLAIR and post-contrast; in
      whatever scale the file has; axial, where the file says how it lies.
    spacing_mm: between slices, rows and columns; None where the file does not say.
    roles: what each channel was read from, in words.
    slice_names: what each slice is called in outputs, e.g. the stem of its file or `0012`.
    warnings: what to know about the files, a sentence each.
    ood_warnings: what says that this is not a scan for the networks, a sentence each.
    sha256: of the bytes of its files; empty where it is of none.
    source: what its format needs to write a mask like it.
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

  def __post_init__(self):
    check_image(self.image, self.name)


def extremes(image: Any) -> tuple[Any, Any]:
  """The lowest and highest value of each channel, [channels] each; axis by axis, as NumPy is slow to do it at once."""
  return image.min(0).min(0).min(0), image.max(0).max(0).max(0)


def check_size(shape: Sequence[int], where: Any) -> None:
  """Raises UserError where a volume, by its header, is larger than any of a head; before its values are read.

  Args:
    shape: without channels.
    where: the file, or the name of the study.
  """
  if math.prod(shape) > _MOST_VOXELS or max(shape, default=0) > _LONGEST:
    raise UserError(
      f"{where} says it is {' x '.join(map(str, shape))} in size, larger than any MRI of a head: is it damaged? crop it"
    )


def check_expansion(size: int, path: pathlib.Path) -> None:
  """Raises UserError where a file unpacks to so many bytes out of so few that no scan can be in it.

  Args:
    size: of what it says it holds, in bytes, before it is unpacked.
    path: of the file.
  """
  if size > max(_SMALL, path.stat().st_size * _RATIO):
    raise UserError(
      f"{path} says that it unpacks to {size:,} bytes, over {_RATIO} out of one, as no scan does: damaged or truncated, "
      "copy it again"
    )


def check_image(image: np.ndarray, name: str) -> None:
  """Raises UserError where an image is empty, too large, is not finite, or has a channel of one value only."""
  if not image.size:
    raise UserError(f"{name} has no pixel: name another file")
  check_size(image.shape[:3], name)
  if len(image) > _MOST_SLICES:
    raise UserError(f"{name} has {len(image)} axial slices, more than any MRI of a head: give it in parts")
  check_finite(image, name)
  check_range(image, name)


def check_finite(image: Shaped[np.ndarray, "... channels"], where: Any) -> None:
  """Raises UserError where a value is NaN or infinite; `where` is the file, or the name of the study."""
  if image.size and not np.isfinite(extremes(image)).all():
    count = int((~np.isfinite(image)).any(-1).sum())
    raise UserError(f"{where} has {count} voxels that are not finite (NaN or infinite): replace them before")


def check_range(image: Shaped[np.ndarray, "... channels"], where: Any) -> None:
  """Raises UserError where a channel, of one or of `CHANNELS`, is flat: of one value, or next to it, or beyond float32.

  Args:
    image: as it is stored.
    where: the file, or the name of the study.
  """
  if not image.size:
    raise UserError(f"{where} has no pixel: name another file")
  lowest, highest = np.asarray(extremes(image), np.float64)
  span, flattest = highest - lowest, np.maximum(_FLAT * np.maximum(abs(lowest), abs(highest)), _LEAST_SPAN)
  roles = CHANNELS if len(span) == len(CHANNELS) else ("flair",)
  flat = {role: number for number, role in enumerate(roles) if not flattest[number] < span[number] < _MOST_SPAN}
  if flat:
    role = "flair" if "flair" in flat else next(iter(flat))  # FLAIR may stand for all of them
    low, high = lowest[flat[role]], highest[flat[role]]
    how = f"all {low:g}" if low == high else f"from {low:.9g} to {high:.9g}"
    what = "constant" if low == high else "flat" if span[flat[role]] < _MOST_SPAN else "without bounds"
    raise UserError(f"{where} is {what} in {'FLAIR' if role == 'flair' else role} ({how}): name another file")


def fill_roles(
  arrays: dict[str, Shaped[np.ndarray, "..."]], origins: dict[str, str], name: str
) -> tuple[Float[np.ndarray, "... 3"], dict[str, str], list[str]]:
  """The three channels out of those that were found; FLAIR stands in for the others, as in the published slices.

  Args:
    arrays: of one shape, by role, a name of `CHANNELS`.
    origins: what each was read from, in words.
    name: of the study.

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
    raise UserError(f"the sequences of {name} differ in size ({sizes}): register and resample them to FLAIR before")
  missing = [role for role in CHANNELS if role not in arrays]
  image = np.stack([arrays.get(role, arrays["flair"]) for role in CHANNELS], axis=-1).astype(np.float32, copy=False)
  roles = {role: origins.get(role, f"FLAIR in its place: {origins['flair']}") for role in CHANNELS}
  warnings = [f"no {' and no '.join(missing)} sequence: FLAIR stands in its place"] if missing else []
  return image, roles, warnings


def same_grid(one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape: Sequence[int]) -> bool:
  """Whether two volumes of one shape lie alike: no corner is off by more than a twentieth of the smallest side of a voxel.

  Args:
    one: affine from indices to mm, in the order of axes of `shape`.
    other: another.
    shape: voxels along the three axes.
  """
  return bool(apart_mm(one, other, shape) <= _SAME * np.linalg.norm(other[:3, :3], axis=0).min())


def apart_mm(one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape: Sequence[int]) -> float:
  """The largest distance between corners of a volume as two affines place it; see `same_grid`."""
  corners = np.stack(np.meshgrid(*([-0.5, size - 0.5] for size in shape), [1.0], indexing="ij"), -1).reshape(-1, 4)
  return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def to_axial(array: Shaped[np.ndarray, "..."], affine: Float[np.ndarray, "4 4"]) -> Shaped[np.ndarray, "..."]:
  """Turns [i, j, k, ...] into [slices, rows, columns, ...] by flips and swaps of axes alone.

  Args:
    array: as it lies in the file.
    affine: from (i, j, k) to mm, to the right, front and head (RAS), as nibabel has it; oblique ones go to the nearest axes.

  Raises:
    UserError: the affine is not one of a volume.
  """
  turned = orientations.apply_orientation(array, orientations.ornt_transform(orientation_of(affine), _AXIAL))
  return np.moveaxis(turned, (0, 1, 2), (2, 1, 0))


def from_axial(array: Shaped[np.ndarray, "..."], affine: Float[np.ndarray, "4 4"]) -> Shaped[np.ndarray, "..."]:
  """Undoes `to_axial`, exactly."""
  turned = np.moveaxis(array, (2, 1, 0), (0, 1, 2))
  return orientations.apply_orientation(turned, orientations.ornt_transform(_AXIAL, orientation_of(affine)))


def axial_spacing(affine: Float[np.ndarray, "4 4"]) -> tuple[float, float, float]:
  """Mm between slices, rows and columns once an array of this affine is axial.

  Each is measured at right angles to the slices, or within them to the rows: then the three multiply to the volume of a
  voxel, which is the determinant of the affine, and the last two to the area of a pixel, also where a tilted gantry has
  shifted the slices against each other.
  """
  axes = affine[:3, :3][:, np.argsort(orientation_of(affine)[:, 0])]  # columns, rows, slices
  columns, rows, slices = np.abs(np.diag(np.linalg.qr(axes).R)).tolist()
  return slices, rows, columns


def check_shear(affine: Float[np.ndarray, "4 4"], where: Any) -> list[str]:
  """A warning where the axes of a volume are not at right angles, as behind a tilted gantry.

  Raises:
    UserError: they are so far from it that no gantry was tilted; `where` is the file, or the name of the series.
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
  """Says, as part of a sentence, in what a volume of this size in mm is none of a head; None where it may be one.

  Args:
    shape: of slices, rows and columns.
    spacing_mm: between them.
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
    UserError: pixels are not square by them: then the shape of the slice is not known either.
  """
  _, rows, columns = spacing_mm
  if abs(rows - columns) > _SQUARE * max(rows, columns):
    raise UserError(
      f"{where} has {reason}, which no MRI of a head has: correct its header (pixdim, sform and units; PixelSpacing and positions)"
    )
  return f"the header has {reason}, which no MRI of a head has: sizes in mm are left out"


def orientation_of(affine: np.ndarray) -> np.ndarray:
  """For each axis of the array, the axis of the patient it runs along, and which way."""
  axes = affine[:3, :3]
  lengths = np.linalg.norm(axes, axis=0)
  if not np.isfinite(affine).all() or not lengths.all() or abs(np.linalg.det(axes / lengths)) < 1e-6:
    raise UserError("the affine of the volume is singular: correct its header, or convert it again")
  return orientations.io_orientation(affine)
