"""Reads a case: its image in axial slices of all channels, its masks by class, and the size of its voxels."""

import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from bt_jax.datasets.own_data import colours
from bt_jax.datasets.own_data.collection import Case, Labels, Spacing, shown
from bt_jax.errors import UserError, one_line
from bt_jax.scans import directions, findings, nifti, nifti_geometry, raster
from bt_jax.scans.file_types import kind_of
from bt_jax.scans.intensities import check_finite, extremes
from bt_jax.scans.scan import same_grid, to_axial

_MOST_CHANNELS = 64
MOST_LABELS = 32  # different numbers in a mask; more would be intensities
_ROUNDED = 1e-3  # rounding error that a header's scale may add to a whole number
Report = Callable[[UserError], None]


class Volume(NamedTuple):
  """The values of a file or of a case, in axial slices.

  Attributes:
    values: [slices, height, width, channels].
    spacing_mm: distances between slices, rows and columns; None where the files do not say.
    affine: from columns, rows and slices to mm, for NIfTI; None for other formats.
    files: the file of each slice.
    source: what a mask on the same grid needs to be written; see `Scan`.
    turns: the orientation of each slice of a TIFF, PNG or JPEG, 1..8; empty for NIfTI.
    warnings: what to know about the files, a sentence each.
  """

  values: Shaped[np.ndarray, "slices height width channels"]
  spacing_mm: Spacing | None
  affine: Float[np.ndarray, "4 4"] | None
  files: tuple[pathlib.Path, ...]
  source: Any = None
  turns: tuple[int, ...] = ()
  warnings: tuple[str, ...] = ()

  @property
  def path(self) -> pathlib.Path:
    """The file of the first slice."""
    return self.files[0]

  def file_of(self, where: Bool[np.ndarray, "slices height width channels"]) -> pathlib.Path:
    """The file of the first slice in which a condition holds."""
    return self.files[int(where.any((1, 2, 3)).argmax())]


def raise_first(error: UserError) -> None:
  """Raises the first problem."""
  raise error


def read_case(case: Case, channels: Sequence[str], report: Report = raise_first) -> tuple[Volume | None, Volume | None]:
  """The image of a case and the numbers in its mask, see `read_image` and `read_numbers`; None for each that has a problem.

  Args:
    case: a case of the collection; the numbers of one without a mask are None.
    channels: names of the expected channels; empty to accept any number of them.
    report: called with each problem, also where image and mask have different grids; by default the first is raised.
  """
  image = read_image(case, channels, report)
  numbers = read_numbers(case, report) if case.masks else None
  if image and numbers:
    why = "a mask lies on the grid of its image: save it with the image's affine, or resample it to the nearest label"
    if error := _unlike(numbers, image, why):
      report(error)
      return image, None
  return image, numbers


def read_image(case: Case, channels: Sequence[str], report: Report = raise_first) -> Volume | None:
  """The image of a case, float32; None where a file cannot be read, channels have different grids, or one is constant.

  Args:
    case: a case of the collection.
    channels: names of the expected channels; empty to accept any number of them.
    report: called with each problem, a `UserError`; by default the first is raised.
  """
  groups = [_read_all(paths, report, mask=False) for paths in case.images]
  if None in groups:
    return None
  first, errors = groups[0], []
  for group in groups[1:]:
    errors += [error] if (error := _unlike(group, first, "the channels of a case share one grid: resample it")) else []
  count = sum(group.values.shape[-1] for group in groups)
  if channels and count != len(channels):
    errors.append(
      UserError(
        f"{first.path} gives {case.name} {count} channel{'s' * (count != 1)}, expected {len(channels)} ({', '.join(channels)}): "
        "convert it, or move the case away"
      )
    )
  errors += [error for group in groups for error in _constant(group)]
  for error in errors:
    report(error)
  if errors:
    return None
  values = np.concatenate([group.values for group in groups], axis=-1).astype(np.float32, copy=False)
  warnings = tuple(warning for group in groups for warning in group.warnings)
  return first._replace(values=values, spacing_mm=first.spacing_mm or case.spacing_mm, warnings=warnings)


def read_numbers(case: Case, report: Report = raise_first) -> Volume | None:
  """The numbers in the mask of a case, uint8 [slices, height, width, 1]; None where they are not labels, see `read_image`."""
  return _read_all(case.masks, report, mask=True)


def _read_all(paths: Sequence[pathlib.Path], report: Report, *, mask: bool) -> Volume | None:
  """The slices of several files, one after another."""
  volumes = []
  for path in paths:
    try:
      volumes.append(_to_numbers(_read(path, mask=mask)) if mask else _read(path, mask=mask))
    except UserError as error:
      report(error)
  if len(volumes) < len(paths):
    return None
  first = volumes[0]
  for volume in volumes:
    if volume.values.shape[1:] != first.values.shape[1:]:
      report(
        UserError(
          f"{volume.path} is {_size(volume)}, and {first.path} {_size(first)}: slices of a case are alike, resample one, or "
          "name each image as a case in cases.csv"
        )
      )
      return None
    if not mask and volume.values.dtype != first.values.dtype:
      report(
        UserError(
          f"{volume.path} has {8 * volume.values.itemsize} bits, and {first.path} {8 * first.values.itemsize}: save the slices of a case alike"
        )
      )
      return None
  if len(volumes) == 1:
    return first
  return first._replace(
    values=np.concatenate([volume.values for volume in volumes]),
    affine=None,
    files=tuple(file for volume in volumes for file in volume.files),
    source=tuple(source for volume in volumes if volume.affine is None for source in volume.source),
    turns=tuple(turn for volume in volumes for turn in volume.turns),
    warnings=tuple(warning for volume in volumes for warning in volume.warnings),
  )


def _read(path: pathlib.Path, *, mask: bool) -> Volume:
  """The values of one file; raises UserError where it is damaged, or of a kind that is not supported."""
  try:
    kind = kind_of(path)
    if kind == "nifti":
      return _read_nifti(path, mask=mask)
    if kind == "images":
      with findings.kept() as messages:
        source, values = raster.load(path, any_channels=not mask)
      if not mask:
        check_finite(values, path)
      warnings = tuple(findings.sentences(path.name, messages))
      turns = (source.orientation,) * len(values)
      return Volume(values, None, None, (path,) * len(values), (source,), turns, warnings)
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror or one_line(error)}): make it readable") from error
  raise UserError(f"{path} is not a NIfTI, TIFF, PNG or JPEG: convert it, or move it away")


def _read_nifti(path: pathlib.Path, *, mask: bool) -> Volume:
  values, source, warnings = nifti.load(path, channels=(1,) if mask else range(1, _MOST_CHANNELS + 1), flat=True)
  try:
    values = np.ascontiguousarray(to_axial(values, source.affine))
  except UserError:
    raise UserError(f"{path} has an affine that places no volume: correct its header, or convert it again") from None
  spacing = None
  if not mask:
    spacing, sizes = nifti_geometry.spacing(source, values.shape[:3], path)
    warnings = [*warnings, *sizes, *nifti_geometry.warnings(source, spacing, path)]
  affine = directions.axial_affine(source.affine, source.shape)
  return Volume(values, spacing, affine, (path,) * len(values), source, warnings=tuple(warnings))


def _to_numbers(volume: Volume) -> Volume:
  """The labels in a mask's file, uint8; raises UserError where its values are not labels."""
  values, path = volume.values, volume.path
  if values.shape[-1] != 1:
    if (values != values[..., :1]).any():
      raise colours.error(path)
    values = values[..., :1]
  rounded = np.rint(values) if values.dtype.kind == "f" else values
  if values.dtype.kind == "f" and (broken := ~(abs(values - rounded) <= _ROUNDED)).any():
    raise UserError(
      f"{path} is a mask with the value {values[broken][0]:g}, expected whole numbers: round or threshold it"
    )
  lowest, highest = rounded.min(), rounded.max()
  if lowest < 0 or highest > 255:
    raise UserError(
      f"{path} is a mask with the number {lowest if lowest < 0 else highest:g}, expected 0 to 255: number its classes so"
    )
  rounded = rounded.astype(np.uint8)
  present = np.flatnonzero(np.bincount(rounded.ravel(), minlength=256))
  jpeg = any(getattr(one, "format", "") == "JPEG" for one in volume.source) if volume.affine is None else False
  if len(present) > (2 if jpeg else MOST_LABELS):
    what = "saved as JPEG, which changes numbers" if jpeg else "is it an image, or are its edges smooth? threshold it"
    raise UserError(
      f"{path} is a mask of {len(present)} different numbers ({shown(present.tolist(), 5)}), expected labels: {what}"
    )
  return volume._replace(values=rounded)


def _size(volume: Volume) -> str:
  slices, height, width, channels = volume.values.shape
  return f"{f'{slices} x ' if slices > 1 else ''}{height} x {width}, {channels} channel{'s' * (channels > 1)}"


def _constant(group: Volume) -> list[UserError]:
  """An error for each channel that is constant."""
  low, high = extremes(group.values)
  several = len(low) > 1
  return [
    UserError(
      f"{f'channel {number + 1} of ' if several else ''}{group.path} is {low[number]:g} everywhere: copy it again, or move the "
      "case away"
    )
    for number in np.flatnonzero(low == high)
  ]


def _unlike(one: Volume, other: Volume, why: str) -> UserError | None:
  """An error where two volumes of a case have different grids; None where they have the same."""
  if one.values.shape[:3] != other.values.shape[:3]:
    sizes = " and ".join(" x ".join(map(str, volume.values.shape[:3])) for volume in (one, other))
    why = colours.of_planes(one.path) or colours.of_planes(other.path) or why
    return UserError(f"{one.path} and {other.path} differ in size ({sizes}): {why}")
  placed = one.affine is not None and other.affine is not None
  if placed and not same_grid(one.affine, other.affine, one.values.shape[2::-1]):
    return UserError(f"{one.path} and {other.path} lie apart by their affines: {why}")
  for slice_turns, file, other_file in zip(
    zip(one.turns, other.turns, strict=False), one.files, other.files, strict=False
  ):
    if slice_turns[0] != slice_turns[1]:
      turns = f"orientation {slice_turns[0]} and {slice_turns[1]}"
      return UserError(f"{file} and {other_file} are stored in different orientations ({turns}): save both upright")
  return None


def to_masks(numbers: Volume, labels: Labels) -> UInt8[np.ndarray, "slices height width classes"]:
  """A mask in {0, 1} for each class; raises UserError where there is a number that no class has."""
  check_labels(numbers, labels)
  table = np.zeros((256, len(labels.values)), np.uint8)
  for number, values in enumerate(labels.values.values()):
    table[list(values), number] = 1
  return table[numbers.values[..., 0]]


def check_labels(numbers: Volume, labels: Labels) -> None:
  """Raises UserError where a mask has a number that no class has."""
  present = np.flatnonzero(np.bincount(numbers.values.ravel()))
  if unknown := [int(value) for value in present if value and value not in labels.known]:
    known = ", ".join(map(str, sorted(labels.known)))
    raise UserError(
      f"{numbers.file_of(numbers.values == unknown[0])} has the label {shown(unknown)}, which is not among {known}: correct the "
      "mask, or name it in dataset.json"
    )


def digest(volume: Volume) -> str:
  """Hash of the values of an image, the same for files with other names or another compression."""
  return hashlib.blake2b(np.ascontiguousarray(volume.values).data, digest_size=16).hexdigest()


def same_image(case: Case, other: Case) -> UserError:
  """The error for an image that two patients have."""
  return UserError(
    f"{case.images[0][0]} holds the same image as {other.images[0][0]} of another patient, which may train and test on it: "
    "move one of them away, or give both one patient in cases.csv"
  )
