"""How the frames of a series lie in space.

`highdicom.spatial` is not used: its `get_volume_positions` returns None for a series that is not a volume, where an error
here names the frames, and its affine steps along the normal of the slices, which is wrong for a tilted gantry.
"""

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from bt_jax.errors import UserError
from bt_jax.scans.dicom.series import Frame, Series
from bt_jax.scans.scan import COARSEST_MM, FARTHEST_MM, FINEST_MM, check_shear, implausible_size, leave_out

_TURNED = 1e-3  # largest difference of direction cosines, and of pixel sizes in mm, within one volume
_UNEVEN = 0.1  # share of the usual slice distance by which others may differ; beyond it a slice is missing or doubled
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # the axes of DICOM point to the left and back
_PLACING = {"position": "ImagePositionPatient", "orientation": "ImageOrientationPatient", "spacing": "PixelSpacing"}


@dataclasses.dataclass(frozen=True)
class Stack:
  """The frames of a volume, in order.

  Attributes:
    series: the series that they belong to.
    frames: sorted along the normal of the slices; by their number in the series where their position is unknown.
    affine: from (slice, row, column) to mm in RAS; None where their position is unknown.
    warnings: what is unusual, a sentence each.
    is_plausible: whether the size that the affine gives is possible for a head.
  """

  series: Series
  frames: list[Frame]
  affine: Float[np.ndarray, "4 4"] | None
  warnings: list[str]
  is_plausible: bool = True

  @property
  def distance(self) -> float:
    """Distance between slices in mm, at right angles to them; 1 where their position is unknown."""
    if self.affine is None:
      return 1.0
    return float(abs(np.linalg.det(self.affine[:3, :3])) / np.prod(np.linalg.norm(self.affine[:3, 1:3], axis=0)))

  @property
  def spacing_known(self) -> bool:
    """Whether all sizes in mm, the slice distance included, are known from the files and possible for a head."""
    return (
      self.affine is not None and self.is_plausible and (len(self.frames) > 1 or _thickness(self.frames[0]) is not None)
    )


def arrange(series: Series) -> Stack:
  """Sorts the frames of a series and finds their affine.

  Raises:
    UserError: frames differ in size or direction, one is missing, two lie at the same position, or a header holds
      numbers that are impossible for a head.
  """
  frames, warnings = series.frames, [f"{series.label}: {warning}" for warning in series.warnings]
  if "MOSAIC" in series.says("ImageType").upper().split():
    raise UserError(
      f"{series.label} is a mosaic, all slices in one image ({frames[0].label}): convert it to NIfTI, e.g. by dcm2niix"
    )
  _check_doubled(series)
  if len({frame.shape for frame in frames}) > 1:
    one, other = frames[0], next(frame for frame in frames if frame.shape != frames[0].shape)
    sizes = " and ".join(f"{frame.shape[0]} x {frame.shape[1]} ({frame.label})" for frame in (one, other))
    raise UserError(f"the slices of {series.label} differ in size: {sizes}: give the slices of one volume")
  if missing := [keyword for name, keyword in _PLACING.items() if any(getattr(one, name) is None for one in frames)]:
    warning = f"{series.label} lacks {' and '.join(missing)}: slices are taken in the order of their numbers, as axial"
    # sorted() keeps the order of files where there are no numbers either.
    ordered = sorted(frames, key=lambda frame: (frame.numbers["InstanceNumber"] or 0, frame.number))
    return Stack(series, ordered, None, [*warnings, warning])
  for frame in frames:
    _check_possible(frame)
  right, down = frames[0].orientation / np.linalg.norm(frames[0].orientation, axis=1, keepdims=True)
  normal = np.cross(right, down)
  normal /= np.linalg.norm(normal)
  for frame in frames:
    differences = np.append(frame.orientation - frames[0].orientation, frame.spacing - frames[0].spacing)
    if abs(differences).max() > _TURNED:
      raise UserError(
        f"the slices of {series.label} differ in direction or pixel size ({frames[0].label} and {frame.label}): "
        "leave localizers out and give the slices of one volume"
      )
  heights = {id(frame): float(frame.position @ normal) for frame in frames}
  frames = sorted(frames, key=lambda frame: heights[id(frame)])
  _check_distances(series, frames, np.array([heights[id(frame)] for frame in frames]))
  if len(frames) > 1:
    step = (frames[-1].position - frames[0].position) / (len(frames) - 1)
  else:
    step = normal * (_thickness(frames[0]) or 1.0)
  line = frames[0].position + step * np.arange(len(frames))[:, None]
  astray = abs(np.stack([frame.position for frame in frames]) - line).max(1)
  if astray.max() > max(1.0, _UNEVEN * np.linalg.norm(step)):
    raise UserError(
      f"the slices of {series.label} do not lie on one line ({frames[int(astray.argmax())].label} is {astray.max():.3g} "
      "mm off): give the slices of one volume"
    )
  affine = np.eye(4)
  affine[:3] = np.stack([step, down * frames[0].spacing[0], right * frames[0].spacing[1], frames[0].position], axis=1)
  stack = Stack(series, frames, _RAS @ affine, warnings)
  warnings += check_shear(affine, series.label) + _said_otherwise(stack)
  spacing = (stack.distance, *frames[0].spacing)
  if (reason := implausible_size((len(frames), *frames[0].shape), spacing)) is None:
    return stack
  warnings.append(leave_out(reason, spacing, f"{series.label} ({frames[0].label})"))
  return dataclasses.replace(stack, is_plausible=False)


def _check_doubled(series: Series) -> None:
  """Raises UserError where all files with one SOPInstanceUID are the same image; their positions may be unknown."""
  of_uid = collections.defaultdict(list)
  for frame in {frame.path: frame for frame in series.frames}.values():
    of_uid[frame.about["SOPInstanceUID"]].append(frame)
  for uid, same in of_uid.items():
    if uid and len(same) > 1 and len({frame.identity for frame in same}) == 1:
      raise UserError(f"{same[0].path} and {same[1].path} are the same image, doubled in {series.label}: leave one out")


def _check_possible(frame: Frame) -> None:
  """Raises UserError where directions are not at a right angle, or position or pixel size are impossible for a head."""
  if not np.allclose(frame.orientation @ frame.orientation.T, np.eye(2), atol=0.01):
    what = f"ImageOrientationPatient {_numbers(frame.orientation.ravel())}, expected two directions at a right angle"
  elif abs(frame.position).max() > FARTHEST_MM:
    what = (
      f"ImagePositionPatient {_numbers(frame.position)}, more than {FARTHEST_MM / 1e3:g} m from the scanner's centre"
    )
  elif not (frame.spacing.min() >= FINEST_MM and frame.spacing.max() <= COARSEST_MM):
    what = f"PixelSpacing {_numbers(frame.spacing)} mm, expected {FINEST_MM:g} to {COARSEST_MM:g}"
  else:
    return
  raise UserError(f"{frame.label} has {what}: correct its header, or export it again")


def _numbers(values: Iterable[float]) -> str:
  return " x ".join(f"{value:.6g}" for value in values)


def _thickness(frame: Frame) -> float | None:
  values = (frame.numbers[keyword] for keyword in ("SpacingBetweenSlices", "SliceThickness"))
  return next((value for value in values if value and FINEST_MM <= value <= COARSEST_MM), None)


def _check_distances(series: Series, frames: list[Frame], heights: Float[np.ndarray, " slices"]) -> None:
  """Raises UserError where one slice follows another at an unusual distance."""
  distances = np.diff(heights)
  if not distances.size:
    return
  usual = float(np.percentile(distances, 50, method="lower"))
  if distances.min() < max(0.01, _UNEVEN * usual):
    index = int(distances.argmin())
    raise UserError(
      f"{series.label} has two images at one position ({frames[index].label} and {frames[index + 1].label}): "
      "slices are doubled, or it is a 4-D series: give one volume of it"
    )
  unusual = abs(distances - usual)
  if unusual.max() > _UNEVEN * usual:
    index = int(unusual.argmax())
    raise UserError(
      f"slices of {series.label} are missing or too many: they lie {usual:.3g} mm apart, but {distances[index]:.3g} mm "
      f"between {frames[index].label} and {frames[index + 1].label}: give the whole series"
    )


def _said_otherwise(stack: Stack) -> list[str]:
  series, frame = stack.series, stack.frames[0]
  if len(series.frames) == 1:
    values = {keyword: frame.numbers[keyword] for keyword in ("SpacingBetweenSlices", "SliceThickness")}
    known = ", ".join(f"{keyword} {value:g}" for keyword, value in values.items() if value is not None)
    why = f"has {known} mm, which no head has" if known else "lacks SliceThickness"
    return [] if _thickness(frame) else [f"{series.label} {why}: its volume in mm is unknown"]
  stated = frame.numbers["SpacingBetweenSlices"]
  if not stated or stack.distance < 1.5 * stated:
    return []
  return [
    f"{series.label} says {stated:.3g} mm from slice to slice, but they lie {stack.distance:.3g} mm apart: are some missing?"
  ]
