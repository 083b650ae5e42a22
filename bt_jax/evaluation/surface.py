"""Distances between the surfaces of two masks of one patient volume.

They are MONAI's, which needs PyTorch: it is what a test compares them with.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

EMPTY = "both masks empty: 0; one empty: the diagonal of the volume"


class SurfaceDistances(NamedTuple):
  """Distances in the unit of the spacing, 0 or more.

  Attributes:
    hd95: the 95th percentile of the distances from one surface's voxels to the other surface, the larger of both
      directions.
    assd: the mean distance of all voxels of both surfaces to the other surface.
  """

  hd95: float
  assd: float


def surface_distances(
  prediction: Bool[np.ndarray, "depth height width"],
  truth: Bool[np.ndarray, "depth height width"],
  spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> SurfaceDistances:
  """95th percentile Hausdorff distance and average symmetric surface distance of two masks.

  Both are defined as in MONAI, and recommended by Metrics Reloaded (Maier-Hein et al. 2024,
  doi:10.1038/s41592-023-02151-z). `EMPTY` is the rule for empty masks; the diagonal (as in BraTS) is that of the whole
  volume, shape times spacing.

  Two voxels in one slice, four columns of 0.5 mm apart:

  >>> import numpy as np
  >>> prediction, truth = np.zeros((2, 1, 3, 8), bool)
  >>> prediction[0, 1, 1] = truth[0, 1, 5] = True
  >>> surface_distances(prediction, truth, spacing=(5.0, 0.5, 0.5))
  SurfaceDistances(hd95=2.0, assd=2.0)
  >>> surface_distances(prediction, prediction).assd
  0.0

  Args:
    prediction: predicted mask, with its slices in order.
    truth: true mask of the same shape.
    spacing: distance between voxels along depth, height and width, in any unit.
  """
  if not (prediction.any() and truth.any()):
    diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing))) if prediction.any() or truth.any() else 0.0
    return SurfaceDistances(diagonal, diagonal)
  (box,) = ndimage.find_objects((prediction | truth).astype(np.uint8))
  surfaces = surface(prediction[box]), surface(truth[box])
  forth, back = _distances(*surfaces, spacing), _distances(*surfaces[::-1], spacing)
  return SurfaceDistances(
    hd95=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
    assd=float(np.mean(np.concatenate([forth, back]))),
  )


def surface(mask: Bool[np.ndarray, "depth height width"]) -> Bool[np.ndarray, "depth height width"]:
  """The voxels with one of their six neighbours outside the mask; everything beyond the array is outside."""
  return mask & ~ndimage.binary_erosion(mask)


def _distances(
  start: Bool[np.ndarray, "depth height width"],
  end: Bool[np.ndarray, "depth height width"],
  spacing: tuple[float, float, float],
) -> Float[np.ndarray, " voxels"]:
  """The distance from each voxel of `start` to the nearest voxel of `end`."""
  return ndimage.distance_transform_edt(~end, sampling=spacing)[start]
