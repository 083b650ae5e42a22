"""The intensities of a volume: their extremes, and whether they can be those of a scan."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from bt_jax.errors import UserError
from bt_jax.schema import CHANNELS

# A range of intensities below these is only rounding: relative to the values, and absolute. One above the last is an error.
_FLAT, _LEAST_SPAN, _MOST_SPAN = 1e-6, 1e-9, 1e30


def extremes(image: Any) -> tuple[Any, Any]:
  """The lowest and highest value of each channel, [channels] each; axis by axis, as NumPy is slow over all at once."""
  return image.min(0).min(0).min(0), image.max(0).max(0).max(0)


def check_finite(image: Shaped[np.ndarray, "... channels"], where: Any) -> None:
  """Raises UserError where a value is NaN or infinite; `where` is the file, or the name of the study."""
  if image.size and not np.isfinite(extremes(image)).all():
    count = int((~np.isfinite(image)).any(-1).sum())
    raise UserError(f"{where} has {count} voxels that are not finite (NaN or infinite): replace them first")


def check_range(image: Shaped[np.ndarray, "... channels"], where: Any, channels: Sequence[str] | None = None) -> None:
  """Raises UserError where the values of a channel are all or nearly the same, or beyond any range of intensities.

  Args:
    image: values as stored.
    where: the file, or the name of the study.
    channels: what the channels are called; by default three are `CHANNELS`, and one is FLAIR.
  """
  if not image.size:
    raise UserError(f"{where} has no pixel: name another file")
  lowest, highest = np.asarray(extremes(image), np.float64)
  span, flattest = highest - lowest, np.maximum(_FLAT * np.maximum(abs(lowest), abs(highest)), _LEAST_SPAN)
  usual = {len(CHANNELS): CHANNELS, 1: ("flair",)}.get(len(span))
  roles = channels or usual or [f"channel {number + 1}" for number in range(len(span))]
  flat = {role: number for number, role in enumerate(roles) if not flattest[number] < span[number] < _MOST_SPAN}
  if flat:
    role = "flair" if "flair" in flat else next(iter(flat))  # FLAIR may stand for all of them
    low, high = lowest[flat[role]], highest[flat[role]]
    how = f"all {low:g}" if low == high else f"from {low:.9g} to {high:.9g}"
    what = "constant" if low == high else "flat" if span[flat[role]] < _MOST_SPAN else "without bounds"
    raise UserError(f"{where} is {what} in {'FLAIR' if role == 'flair' else role} ({how}): name another file")
