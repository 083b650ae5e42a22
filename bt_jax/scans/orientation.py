"""How the stored pixels of an image are turned before they are shown: the Orientation of TIFF and EXIF.

Pillow turns images of its own types only; here they are arrays of any depth, and masks are turned back.
"""

import numpy as np
from jaxtyping import Shaped

from bt_jax.errors import UserError

TAG = 274
AS_STORED = 1

# By orientation: whether rows and columns are swapped, then whether rows and columns run backwards (TIFF 6.0, page 36).
_TURNS = {
  1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
  5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip
Slices, Turned = Shaped[np.ndarray, "... height width channels"], Shaped[np.ndarray, "... rows columns channels"]


def check(orientation: object, path: object) -> int:
  """The orientation of a file, 1..8; raises UserError where the tag holds another value.

  Some programs write 0 for unknown, which counts as 1.
  """
  if orientation in (None, 0):
    return AS_STORED
  if orientation not in _TURNS:
    raise UserError(f"{path} has the orientation {orientation!r}, expected 1 to 8: save it again, upright")
  return int(orientation)


def upright(values: Slices, orientation: int) -> Turned:
  """Pixels as they are shown, from pixels as they are stored."""
  swapped, rows, columns = _TURNS[orientation]
  values = np.swapaxes(values, -3, -2) if swapped else values
  return values[..., :: -1 if rows else 1, :: -1 if columns else 1, :]


def as_stored(values: Slices, orientation: int) -> Turned:
  """Undoes `upright`."""
  swapped, rows, columns = _TURNS[orientation]
  values = values[..., :: -1 if rows else 1, :: -1 if columns else 1, :]
  return np.swapaxes(values, -3, -2) if swapped else values
