"""The position and size of a NIfTI volume, which a header may state twice or not at all."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import nibabel
import numpy as np
from jaxtyping import Float
from nibabel.spatialimages import HeaderDataError

from bt_jax.errors import UserError
from bt_jax.scans import directions
from bt_jax.scans.scan import (
  FARTHEST_MM,
  apart_mm,
  axial_spacing,
  check_shear,
  implausible_size,
  leave_out,
  orientation_of,
  same_grid,
)

_TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, metres, mm and microns: the lower three bits of the units
_COARSE = 2.0  # a voxel side this many times as long as another is the slice distance
_SAME_SIZE = 0.01  # relative difference that rounding in a header may cause


class Source(NamedTuple):
  """What a mask needs to match FLAIR: image class, header, affine in mm, shape without channels, and `.nii` or `.nii.gz`."""

  kind: type
  header: nibabel.Nifti1Header
  affine: Float[np.ndarray, "4 4"]
  shape: tuple[int, ...]
  suffix: str


def in_mm(affine: Float[np.ndarray, "4 4"], header: nibabel.Nifti1Header) -> Float[np.ndarray, "4 4"]:
  """The affine in mm, by the header's unit of space; unchanged where the standard knows no such unit."""
  return np.diag([_TO_MM.get(_unit(header), 1.0)] * 3 + [1.0]) @ affine


def _unit(header: nibabel.Nifti1Header) -> int:
  return int(header["xyzt_units"]) % 8


def placed(source: Source) -> Float[np.ndarray, "4 4"] | None:
  """The affine of the volume once it is axial, see `directions.axial_affine`; None where the file does not say how the head lies."""
  return directions.axial_affine(source.affine, source.shape) if _says(source.header) else None


def _says(header: nibabel.Nifti1Header) -> bool:
  return bool(header["qform_code"] or header["sform_code"])


def check_alike(sources: Mapping[str, Source], paths: Mapping[str, pathlib.Path]) -> None:
  """Raises UserError where a sequence is not on FLAIR's grid, within a twentieth of a voxel."""
  flair = sources["flair"]
  for role, source in sources.items():
    if source.shape != flair.shape:
      what = f"{_times(source.shape)} voxels and {paths['flair']} {_times(flair.shape)}"
    elif not same_grid(source.affine, flair.affine, (*flair.shape, 1)[:3]):
      what = f"another affine than {paths['flair']}"
    else:
      continue
    raise UserError(f"{paths[role]} has {what}: register and resample it to FLAIR first")


def spacing(
  source: Source, shape: Sequence[int], path: pathlib.Path
) -> tuple[tuple[float, float, float] | None, list[str]]:
  """Distances in mm between slices, rows and columns, None where those of the header are implausible, and warnings.

  The sform may scale a volume to an atlas; where it and `pixdim` differ, `pixdim` is the size of a voxel, by the standard
  (nifti1.h: pixdim are the grid spacings).

  Args:
    source: geometry of the volume.
    shape: numbers of slices, rows and columns.
    path: the file, for messages.

  Raises:
    UserError: the sizes are implausible and their pixels not square, so that the shape of the slices is unknown, too.
  """
  sizes, warnings = _sizes(source)
  reason = implausible_size(shape, sizes) if sizes else "two sizes of its voxels"
  if _unit(source.header) not in _TO_MM:
    reason = f"a unit of space that the standard does not know ({_unit(source.header)})"
  if reason is None:
    return sizes, warnings
  return None, [*warnings, leave_out(reason, sizes or axial_spacing(source.affine), path)]


def _sizes(source: Source) -> tuple[tuple[float, float, float] | None, list[str]]:
  """Sizes by the affine; where `pixdim` differs, sizes by `pixdim`, or None where it was never set, and a warning."""
  by_affine, lengths = axial_spacing(source.affine), _sides(source.affine)
  pixdim = source.header["pixdim"][1:4].astype(float)
  columns, rows, slices = (pixdim * _TO_MM.get(_unit(source.header), 1.0))[
    np.argsort(orientation_of(source.affine)[:, 0])
  ]
  by_pixdim = float(slices), float(rows), float(columns)
  in_order = lengths[np.argsort(orientation_of(source.affine)[:, 0])][::-1]
  if any(np.allclose(by_pixdim, other, rtol=_SAME_SIZE, atol=0) for other in (by_affine, in_order)):
    return by_affine, []
  unset = not source.header["qform_code"] and (pixdim == 1).all()
  used = "neither is believed" if unset else "pixdim is used"
  warning = f"voxels are {_mm(by_pixdim)} mm by pixdim and {_mm(by_affine)} mm by sform: {used}"
  return (None if unset else by_pixdim), [warning]


def warnings(source: Source, spacing_mm: tuple[float, float, float] | None, path: pathlib.Path) -> list[str]:
  """Warnings about the position of a volume, a sentence each; raises UserError where no gantry tilt explains its shear."""
  header, spacing_mm = source.header, spacing_mm or axial_spacing(source.affine)
  sentences = []
  if not _says(header):
    sentences.append("the file does not say how the head lies: its axes are taken as left, front and head")
  if max(spacing_mm) > _COARSE * min(spacing_mm) and spacing_mm[0] < max(spacing_mm):
    plane = "coronally" if spacing_mm[1] == max(spacing_mm) else "sagittally"
    sentences.append(f"the slices were taken {plane}: the axial plane, which the networks know, is coarse")
  sentences += check_shear(source.affine, path)
  if header["qform_code"] and header["sform_code"]:
    try:
      apart = apart_mm(in_mm(header.get_qform(), header), source.affine, (*source.shape, 1)[:3])
    except (ValueError, HeaderDataError) as error:
      apart, reason = np.inf, f"qform makes no sense ({error})"
    else:
      reason = f"qform and sform place the volume up to {apart:.3g} mm apart"
    if not apart <= max(_sides(source.affine)):  # NaN too
      sentences.append(f"{reason}: sform is used")
  if (distance := np.abs(source.affine[:3, 3]).max()) > FARTHEST_MM:
    sentences.append(
      f"the header puts the volume {distance:.3g} mm from the scanner's centre: its position is not known"
    )
  return sentences


def _sides(affine: np.ndarray) -> np.ndarray:
  return np.linalg.norm(affine[:3, :3], axis=0)


def _times(shape: Sequence[int]) -> str:
  return " x ".join(map(str, shape))


def _mm(spacing_mm: Sequence[float]) -> str:
  return " x ".join(f"{length:.3g}" for length in spacing_mm)
