"""Checks of a scan's values, for faults that names and headers do not show."""

import numpy as np

from bt_jax.errors import UserError
from bt_jax.scans.scan import Scan
from bt_jax.schema import CHANNELS

_FEW = 16  # distinct values; a label map has no more, and an 8-bit image hundreds
_SAMPLE = 2**16  # voxels
_SHARE = 0.999  # of voxels with one value, from which a range is flat: the 99.9th percentile becomes white


def check_values(scan: Scan) -> list[str]:
  """A warning where nearly all voxels of FLAIR have the same value, none otherwise.

  Raises:
    UserError: FLAIR holds only a few whole numbers, as a label map does.
  """
  flair = scan.image[..., CHANNELS.index("flair")]
  sample = flair.ravel()[:: max(flair.size // _SAMPLE, 1)]  # enough to decide for most scans
  if np.unique(sample).size <= _FEW:
    values = np.unique(flair)
    if values.size <= _FEW and np.array_equal(values, np.rint(values)):
      listed = ", ".join(f"{value:g}" for value in values)
      raise UserError(
        f"{scan.name} holds only {values.size} whole numbers ({listed}) in {scan.roles['flair']}: a map of labels, "
        "expected FLAIR"
      )
  usual = np.sort(sample)[len(sample) // 2]
  share = np.mean(flair == usual) if np.mean(sample == usual) > 0.9 * _SHARE else 0.0
  if share >= _SHARE:
    return [f"{share:.2%} of the voxels of FLAIR have one value: its range of intensities is flat"]
  return []
