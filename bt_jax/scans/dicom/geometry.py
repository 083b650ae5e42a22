"""How the frames of a series lie in space: sorted along their normal, checked for gaps, with an affine."""

import dataclasses

import numpy as np
from jaxtyping import Float

from bt_jax.errors import UserError
from bt_jax.scans.dicom.series import Frame, Series

_TURNED = 1e-3  # of direction cosines, and mm of a pixel, beyond which slices are not of one volume
_UNEVEN = 0.1  # of the usual distance between slices, beyond which one is missing or doubled
_LEANING = 0.1  # sine of the angle between the row of slices and their normal, beyond which the volume is wrong
_FARTHEST, _FINEST, _COARSEST = 1e5, 0.01, 1e3  # mm: of a place, and of spacings; beyond them a header lies
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM counts to the left and back


@dataclasses.dataclass(frozen=True)
class Stack:
  """The frames of a volume, in order.

  Attributes:
    series: they are of.
    frames: sorted along the normal of the slices; by their number in the series where their place is unknown.
    affine: from (slice, row, column) to mm, to the right, front and head; None where their place is unknown.
    warnings: what is odd, a sentence each.
  """

  series: Series
  frames: list[Frame]
  affine: Float[np.ndarray, "4 4"] | None
  warnings: list[str]

  @property
  def thickness_known(self) -> bool:
    """Whether the affine's distance between slices is told by the files."""
    return self.affine is not None and (len(self.frames) > 1 or _thickness(self.frames[0]) is not None)


def arrange(series: Series) -> Stack:
  """Sorts the frames of a series and finds their affine.

  Raises:
    UserError: they differ in size or direction, one is missing, or two lie at the same place.
  """
  frames = series.frames
  _check_doubled(series)
  if len({frame.shape for frame in frames}) > 1:
    one, other = frames[0], next(frame for frame in frames if frame.shape != frames[0].shape)
    sizes = " and ".join(f"{frame.shape[0]} x {frame.shape[1]} ({frame.label})" for frame in (one, other))
    raise UserError(f"the slices of {series.label} differ in size: {sizes}: give the slices of one volume")
  if not all(map(_placed, frames)):
    warning = f"{series.label} does not say how its slices lie: they are taken in the order of their numbers, as axial"
    # sorted() keeps the order of files where there are no numbers either.
    ordered = sorted(frames, key=lambda frame: (frame.numbers["InstanceNumber"] or 0, frame.number))
    return Stack(series, ordered, None, [warning])
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
      f"the slices of {series.label} do not lie in one row ({frames[int(astray.argmax())].label} is {astray.max():.3g} "
      "mm astray): give the slices of one volume"
    )
  lean = float(np.linalg.norm(step - (step @ normal) * normal) / np.linalg.norm(step))
  if lean > _LEANING:
    raise UserError(
      f"the slices of {series.label} lie in a row that leans by {np.degrees(np.arcsin(min(lean, 1.0))):.0f} degrees (gantry "
      "tilt?): resample it to a grid of right angles"
    )
  affine = np.eye(4)
  affine[:3] = np.stack([step, down * frames[0].spacing[0], right * frames[0].spacing[1], frames[0].position], axis=1)
  return Stack(series, frames, _RAS @ affine, _told_otherwise(series, frames[0], float(np.linalg.norm(step))))


def _check_doubled(series: Series) -> None:
  """Raises UserError where two files are the same image; places alone do not tell it where none is told."""
  seen = {}
  for path, uid in {frame.path: frame.about["SOPInstanceUID"] for frame in series.frames}.items():
    if uid and (first := seen.setdefault(uid, path)) != path:
      raise UserError(f"{first} and {path} are the same image, doubled in {series.label}: leave one out")


def _placed(frame: Frame) -> bool:
  """Whether the frame says where it lies, and rightly: directions of length 1 at a right angle, and some spacing."""
  if frame.position is None or frame.orientation is None or frame.spacing is None:
    return False
  return bool(
    np.allclose(frame.orientation @ frame.orientation.T, np.eye(2), atol=0.01)
    and abs(frame.position).max() <= _FARTHEST
    and frame.spacing.min() >= _FINEST
    and frame.spacing.max() <= _COARSEST
  )


def _thickness(frame: Frame) -> float | None:
  told = (frame.numbers[keyword] for keyword in ("SpacingBetweenSlices", "SliceThickness"))
  return next((value for value in told if value and _FINEST <= value <= _COARSEST), None)


def _check_distances(series: Series, frames: list[Frame], heights: Float[np.ndarray, "slices"]) -> None:
  """Raises UserError where one slice follows another at an unusual distance."""
  distances = np.diff(heights)
  if not distances.size:
    return
  usual = float(np.percentile(distances, 50, method="lower"))
  if distances.min() < max(0.01, _UNEVEN * usual):
    at = int(distances.argmin())
    raise UserError(
      f"{series.label} has two images at one place ({frames[at].label} and {frames[at + 1].label}): "
      "slices are doubled, or it is a 4-D series: give one volume of it"
    )
  unusual = abs(distances - usual)
  if unusual.max() > _UNEVEN * usual:
    at = int(unusual.argmax())
    raise UserError(
      f"slices of {series.label} are missing or too many: they lie {usual:.3g} mm apart, but {distances[at]:.3g} mm "
      f"between {frames[at].label} and {frames[at + 1].label}: give the whole series"
    )


def _told_otherwise(series: Series, frame: Frame, distance: float) -> list[str]:
  told = frame.numbers["SpacingBetweenSlices"]
  if not told or distance < 1.5 * told:
    return []
  return [
    f"{series.label} says {told:.3g} mm from slice to slice, but they lie {distance:.3g} mm apart: are some missing?"
  ]
