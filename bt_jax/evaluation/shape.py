"""The shape of a tumour in three numbers, after Buda et al. 2019 (arXiv:1906.03720), for one patient volume."""

import itertools

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage, spatial
from skimage import measure

from bt_jax.evaluation.postprocess import largest_part
from bt_jax.evaluation.surface import surface

FEATURES = ("angular_std", "ellipsoid_ratio", "margin_fluctuation")
MIN_PIXELS = (
  100  # the boundary of a disk as large is 32 pixels, three to a bin; below, the features are those of the grid
)
BINS = 10  # of equal angle around the centroid
WINDOW = 0.1  # of the boundary's pixels, for the moving average
TOLERANCE = 1e-3  # of the enclosing ellipsoid: its volume is at most (1 + TOLERANCE)^2 times the smallest
_CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))  # of a voxel, from its index


def shape_features(mask: Bool[np.ndarray, "depth height width"]) -> dict[str, float | None]:
  """The three `FEATURES` of a mask whose slices are in order; None for all where its outline is too small to have any.

  The outline is that of the slice with the largest area (of several as large, the first): of its largest 8-connected
  part, with holes filled; the ellipsoid is around the whole mask. Too small is an outline around fewer than
  `MIN_PIXELS`. All features are without a unit, 0 or more, and the same for a mask that is moved, mirrored or turned by
  90 degrees in its slices.
  """
  part = _largest_outline(mask)
  if part.sum() < MIN_PIXELS:
    return dict.fromkeys(FEATURES)
  (region,) = measure.regionprops(part.astype(np.uint8))
  rays = _boundary(part) - np.array(region.centroid)
  radii = np.linalg.norm(rays, axis=1)
  radii /= radii.mean()
  angles = np.arctan2(rays[:, 1], rays[:, 0]) - region.orientation
  return {
    "angular_std": angular_std(radii, angles),
    "ellipsoid_ratio": ellipsoid_ratio(mask),
    "margin_fluctuation": margin_fluctuation(radii),
  }


def _largest_outline(mask: Bool[np.ndarray, "depth height width"]) -> Bool[np.ndarray, "height width"]:
  """The largest part of the slice with the largest area, without holes."""
  index = int(np.argmax(mask.sum((1, 2))))
  return ndimage.binary_fill_holes(largest_part(mask[index : index + 1])[0])


def _boundary(part: Bool[np.ndarray, "height width"]) -> Int[np.ndarray, "boundary 2"]:
  """The pixels with one of their four neighbours outside, as (row, column) in order along the outline.

  Where the part is one pixel wide, a pixel comes once on the way there and once on the way back.
  """
  # At 0.9 the line passes nearer to the pixels inside than to those outside, so that rounding finds them.
  (line,) = measure.find_contours(np.pad(part, 1).astype(float), 0.9, fully_connected="high")
  pixels = np.rint(line).astype(int) - 1
  return pixels[np.any(pixels != np.roll(pixels, 1, axis=0), axis=1)]


def angular_std(radii: Float[np.ndarray, "boundary"], angles: Float[np.ndarray, "boundary"]) -> float:
  """Standard deviation of the radii within each of ten equiangular bins, averaged over the bins that have pixels.

  Buda et al. do not say where the first bin begins; measured from the part's long axis, as in `shape_features`, the
  angles make the feature independent of how the head lies in the image.

  Args:
    radii: of the boundary's pixels from the centroid, of mean 1.
    angles: of the same pixels around the centroid, in radians.
  """
  bins = np.floor(angles / (2 * np.pi) * BINS).astype(int) % BINS
  return float(np.mean([radii[bins == number].std() for number in np.unique(bins)]))


def margin_fluctuation(radii: Float[np.ndarray, "boundary"]) -> float:
  """Standard deviation of what a circular moving average over a tenth of the boundary takes from the radii.

  The window is the odd number of pixels nearest to a tenth, so that it reaches as far forth as back.

  Args:
    radii: of the boundary's pixels from the centroid, of mean 1, in order along the outline.
  """
  window = 2 * int(WINDOW * len(radii) / 2) + 1
  return float(np.std(radii - ndimage.uniform_filter1d(radii, window, mode="wrap")))


def ellipsoid_ratio(mask: Bool[np.ndarray, "depth height width"]) -> float:
  """Volume of a mask that is not empty over that of its smallest enclosing ellipsoid, above 0 and at most 1.

  The ellipsoid encloses the corners of all voxels, so that a single slice has a volume too. An affine map changes both
  volumes by one factor: the ratio needs no spacing.
  """
  voxels = np.argwhere(surface(mask))
  corners = (voxels[:, None] + _CORNERS).reshape(-1, 3).astype(float)
  hull = corners[spatial.ConvexHull(corners).vertices]
  return float(mask.sum() / enclosing_ellipsoid_volume(hull))


def enclosing_ellipsoid_volume(points: Float[np.ndarray, "points 3"]) -> float:
  """Volume of the smallest ellipsoid around points that are not all in a plane, too large by (1 + TOLERANCE)^2 at most.

  Khachiyan's algorithm with steps away from points inside (Todd and Yildirim 2007, doi:10.1016/j.dam.2007.02.013). The
  ellipsoid found is then widened about its centre until it holds every point.
  """
  size = points.shape[1]
  weights = np.full(len(points), 1 / len(points))
  while True:
    rays = points - weights @ points
    spread = (weights[:, None] * rays).T @ rays
    distances = np.sum(rays @ np.linalg.inv(spread) * rays, axis=1)  # Mahalanobis, squared
    far, near = np.argmax(distances), np.argmin(np.where(weights > 0, distances, np.inf))
    if distances[far] + 1 <= (1 + TOLERANCE) * (size + 1):
      return float(4 / 3 * np.pi * np.sqrt(np.linalg.det(distances[far] * spread)))
    chosen = far if distances[far] - size >= size - distances[near] else near
    step = max((distances[chosen] - size) / ((size + 1) * distances[chosen]), -weights[chosen] / (1 - weights[chosen]))
    weights *= 1 - step
    weights[chosen] = max(weights[chosen] + step, 0)
