"""How the axes of an axial volume run in the patient: its affine, and the letters that viewers show."""

from typing import Any

import numpy as np
from jaxtyping import Float
from nibabel import orientations

from bt_jax.scans.scan import AXIAL, orientation_of

AXES = ("columns", "rows", "slices")
_TOWARDS = (("R", "L"), ("A", "P"), ("S", "I"))  # of RAS: where values grow, and where they fall
_OPPOSITE = {letter: other for pair in _TOWARDS for letter, other in (pair, pair[::-1])}
_SEEN = 0.3  # smallest share of a direction that gets a letter of its own; 17 degrees from a plane


def axial_affine(affine: Float[np.ndarray, "4 4"], shape: tuple[int, ...]) -> Float[np.ndarray, "4 4"]:
  """The affine of a volume once `scan.to_axial` has turned it: from (column, row, slice) to mm in RAS.

  Args:
    affine: from (i, j, k), as stored, to mm in RAS.
    shape: voxels along i, j and k.
  """
  turn = orientations.ornt_transform(orientation_of(affine), AXIAL)
  return affine @ orientations.inv_ornt_aff(turn, (*shape, 1)[:3])


def letters(affine: Float[np.ndarray, "4 4"] | None) -> dict[str, str] | None:
  """The direction of the patient that each axis of a volume runs to, the largest part first; None without an affine.

  >>> letters(np.diag([-1.0, -1.0, 5.0, 1.0]))
  {'columns': 'L', 'rows': 'P', 'slices': 'S'}

  Args:
    affine: from (column, row, slice) to mm in RAS.
  """
  if affine is None:
    return None
  axes: Any = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
  return {name: _letters_of(axis) for name, axis in zip(AXES, axes.T, strict=True)}


def opposite(letters: str) -> str:
  """The other end of an axis.

  >>> opposite("LP")
  'RA'
  """
  return "".join(_OPPOSITE[letter] for letter in letters)


def _letters_of(direction: Float[np.ndarray, "3"]) -> str:
  order = np.argsort(-np.abs(direction), kind="stable")
  kept = [axis for position, axis in enumerate(order) if position == 0 or abs(direction[axis]) > _SEEN]
  return "".join(_TOWARDS[axis][int(direction[axis] < 0)] for axis in kept)
