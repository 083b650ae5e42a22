"""Reads a DICOM study: sorts its series, guesses their roles, and resamples them to the grid of FLAIR."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from bt_jax.errors import UserError, needs
from bt_jax.scans import findings
from bt_jax.scans.dicom.geometry import Stack, arrange
from bt_jax.scans.dicom.grouping import collect
from bt_jax.scans.dicom.pixels import decode
from bt_jax.scans.dicom.sequence_choice import choose
from bt_jax.scans.dicom.series import Series
from bt_jax.scans.directions import axial_affine
from bt_jax.scans.scan import Scan, axial_spacing, fill_roles, numbered, same_grid, to_axial

_HEAD = {"HEAD", "BRAIN", "SKULL", "HEADNECK", "NECKHEAD", "WHOLEBRAIN"}
_PLANES = ("sagittally", "coronally", "axially")  # by the patient's axis along which slices follow each other


@needs("dicom", "a DICOM study")
def read(files: Sequence[pathlib.Path], *, name: str, given: Mapping[str, str]) -> Scan:
  """Reads one study.

  Args:
    files: all its files, of any name; those that are not DICOM images are left out.
    name: name of the study.
    given: SeriesInstanceUIDs by role (pre, flair, post); the others are guessed.

  Raises:
    UserError: the files are damaged, belong to several patients or studies, lack slices, or have no FLAIR.
  """
  with findings.kept() as messages:
    scan = _read(files, name, given)
  return dataclasses.replace(scan, warnings=scan.warnings + findings.sentences(name, messages))


def _read(files: Sequence[pathlib.Path], name: str, given: Mapping[str, str]) -> Scan:
  series = collect(files, name)
  chosen, warnings = choose(series, given, name)
  flair = arrange(chosen["flair"])
  arrays, stacks = {"flair": decode(flair)}, {"flair": flair}
  warnings += flair.warnings + _of_flair(flair)
  for role, one in chosen.items():
    if role == "flair":
      continue
    try:
      stack = arrange(one)
      array, notes = _to_grid(stack, decode(stack), flair)
    except UserError as error:
      if role in given:
        raise
      warnings.append(f"{role} is left out: {error}")  # a series that was only guessed does not stop the study
      continue
    warnings += notes
    if array is not None:
      arrays[role], stacks[role] = array, stack
  image, roles, missing = fill_roles(arrays, {role: stack.series.label for role, stack in stacks.items()}, name)
  if flair.affine is not None:
    image = to_axial(image, flair.affine)
  return Scan(
    name=name,
    format="dicom",
    image=np.ascontiguousarray(image),
    spacing_mm=axial_spacing(flair.affine) if flair.spacing_known else None,
    roles=roles,
    slice_names=numbered(len(image)),
    warnings=warnings + missing,
    source=flair,
    ood_warnings=_ood_warnings(chosen["flair"]),
    affine=None if flair.affine is None else axial_affine(flair.affine, arrays["flair"].shape),
  )


def _to_grid(
  stack: Stack, array: Float[np.ndarray, "slices rows columns"], flair: Stack
) -> tuple[Float[np.ndarray, "_ _ _"] | None, list[str]]:
  """Resamples an array to the grid of FLAIR; None where its position relative to FLAIR is unknown, or elsewhere; with warnings."""
  label, shape = stack.series.label, (len(flair.frames), *flair.frames[0].shape)
  if stack.affine is None or flair.affine is None:
    return None, [f"{label} is left out: its position relative to FLAIR is unknown"]
  frames = [one.series.says("FrameOfReferenceUID") for one in (stack, flair)]
  known = bool(frames[0]) and frames[0] == frames[1]
  if array.shape == shape and same_grid(stack.affine, flair.affine, shape):
    other = f"{label} has another frame of reference than FLAIR, but the same grid: it is taken to fit"
    return array, [] if known else [other]
  if not known:
    return None, [f"{label} is left out: it has another frame of reference than FLAIR, register them first"]
  # A voxel reaches beyond its centre: without a margin, the outermost slices of FLAIR would often be empty.
  matrix = np.linalg.inv(stack.affine) @ flair.affine
  matrix[:3, 3] += 1
  moved = ndimage.affine_transform(np.pad(array, 1, mode="edge"), matrix, output_shape=shape, order=1)
  if moved.min() == moved.max():
    return None, [f"{label} is left out: it does not overlap with FLAIR"]
  return moved, [f"{label} was resampled to the grid of FLAIR, linearly"]


def _ood_warnings(series: Series) -> list[str]:
  """What the networks were not trained on, a sentence each."""
  ood_warnings = []
  modality, part = series.says("Modality"), series.says("BodyPartExamined").upper()
  if modality != "MR":
    ood_warnings.append(f"this is {modality or 'of unknown modality'}, the networks know MR only")
  if part and part not in _HEAD:
    ood_warnings.append(f"the body part is {part}, the networks know heads only")
  return ood_warnings


def _of_flair(stack: Stack) -> list[str]:
  """Warnings about slices that are not axial, and about a single slice."""
  warnings = []
  if stack.affine is not None:
    plane = _PLANES[int(abs(stack.affine[:3, 0]).argmax())]
    if plane != "axially":
      warnings.append(f"slices were taken {plane}: the axial plane, which the networks look at, may be coarse")
  if len(stack.frames) == 1:
    warnings.append("one slice stands for its volume: its own mean and standard deviation are used")
  return warnings
