"""What the values of a scan say about it that names and headers do not."""

import numpy as np

from bt_jax.errors import UserError
from bt_jax.scans.scan import Scan
from bt_jax.schema import CHANNELS

_FEW = 16  # values; a map of labels has no more, and an image of 8 bits hundreds
_SAMPLE = 2**16  # voxels
_SHARE = 0.999  # of the voxels, that are alike in a range that is flat: the 99.9th percentile is what becomes white


def check_values(scan: Scan) -> list[str]:
  """A sentence where nearly all voxels of FLAIR are alike, none otherwise.

  Raises:
    UserError: FLAIR holds a few whole numbers alone, and so is a map of labels.
  """
  flair = scan.image[..., CHANNELS.index("flair")]
  sample = flair.ravel()[:: max(flair.size // _SAMPLE, 1)]  # says of most scans all there is to say
  if np.unique(sample).size <= _FEW:
    values = np.unique(flair)
    if values.size <= _FEW and np.array_equal(values, np.rint(values)):
      listed = ", ".join(f"{value:g}" for value in values)
      raise UserError(
        f"{scan.name} holds {values.size} whole numbers alone ({listed}) in {scan.roles['flair']}: a map of labels, "
        "expected FLAIR"
      )
  usual = np.sort(sample)[len(sample) // 2]
  share = np.mean(flair == usual) if np.mean(sample == usual) > 0.9 * _SHARE else 0.0
  if share >= _SHARE:
    return [f"{share:.2%} of the voxels of FLAIR have one value: its range of intensities is flat"]
  return []
