"""What the values of a scan say about it that names and headers do not."""

import numpy as np

from bt_jax.errors import UserError
from bt_jax.scans.scan import Scan
from bt_jax.schema import CHANNELS

_FEW = 16  # values; a map of labels has no more, and an image of 8 bits hundreds
_SHARE = 0.999  # of the voxels, that are alike in a range that is flat: the 99.9th percentile is what becomes white


def check_values(scan: Scan) -> list[str]:
  """A sentence where nearly all voxels of FLAIR are alike, none otherwise.

  Raises:
    UserError: FLAIR holds a few whole numbers alone, and so is a map of labels.
  """
  flair = scan.image[..., CHANNELS.index("flair")]
  start = np.unique(flair.ravel()[:: max(flair.size // 2**16, 1)])
  if start.size > _FEW:  # most scans, without sorting all of their voxels
    return []
  values, counts = np.unique(flair, return_counts=True)
  if values.size <= _FEW and np.array_equal(values, np.rint(values)):
    listed = ", ".join(f"{value:g}" for value in values)
    raise UserError(
      f"{scan.name} holds {values.size} whole numbers alone ({listed}) in {scan.roles['flair']}: a map of labels, expected FLAIR"
    )
  if counts.max() >= _SHARE * flair.size:
    return [f"{counts.max() / flair.size:.2%} of the voxels of FLAIR have one value: its range of intensities is flat"]
  return []
