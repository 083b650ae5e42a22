"""Three features of the shape of a tumour in one patient volume, after Buda et al. 2019 (arXiv:1906.03720)."""

import itertools

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage, spatial
from skimage import measure

from bt_jax.evaluation.postprocess import largest_part
from bt_jax.evaluation.surface import surface

FEATURES = ("angular_std", "ellipsoid_ratio", "margin_fluctuation")
MIN_PIXELS = (
  100  # a disk of this area has a boundary of 32 pixels, about three per bin; smaller features reflect only the grid
)
BINS = 10  # of equal angle around the centroid
WINDOW = 0.1  # of the boundary's pixels, for the moving average
TOLERANCE = 1e-3  # of the enclosing ellipsoid: its volume is at most (1 + TOLERANCE)^2 times the smallest
_CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))  # of a voxel, from its index


def shape_features(mask: Bool[np.ndarray, "depth height width"]) -> dict[str, float | None]:
  """The three `FEATURES` of a mask with its slices in order; all None if the outline encloses fewer than `MIN_PIXELS`.

  The outline is that of the largest 8-connected component, with holes filled, in the slice with the largest area (the
  first of ties). The ellipsoid encloses the whole mask. All features are dimensionless, non-negative, and invariant
  under in-plane shifts, mirroring and rotations by 90 degrees.
  """
  part = largest_outline(mask)
  if part.sum() < MIN_PIXELS:
    return dict.fromkeys(FEATURES)
  (region,) = measure.regionprops(part.astype(np.uint8))
  rays = boundary(part) - np.array(region.centroid)
  radii = np.linalg.norm(rays, axis=1)
  radii /= radii.mean()
  angles = np.arctan2(rays[:, 1], rays[:, 0]) - region.orientation
  return {
    "angular_std": angular_std(radii, angles),
    "ellipsoid_ratio": ellipsoid_ratio(mask),
    "margin_fluctuation": margin_fluctuation(radii),
  }


def largest_outline(mask: Bool[np.ndarray, "depth height width"]) -> Bool[np.ndarray, "height width"]:
  """The largest component of the slice with the largest area, with holes filled."""
  index = int(np.argmax(mask.sum((1, 2))))
  return ndimage.binary_fill_holes(largest_part(mask[index : index + 1])[0])


def boundary(part: Bool[np.ndarray, "height width"]) -> Int[np.ndarray, "boundary 2"]:
  """The pixels with one of their four neighbours outside, as (row, column) in order along the outline.

  Where the component is one pixel wide, the outline passes each pixel twice.
  """
  # At a level of 0.9 the line is closer to the pixels inside than to those outside, so rounding finds the former.
  (line,) = measure.find_contours(np.pad(part, 1).astype(float), 0.9, fully_connected="high")
  pixels = np.rint(line).astype(int) - 1
  return pixels[np.any(pixels != np.roll(pixels, 1, axis=0), axis=1)]


def angular_std(radii: Float[np.ndarray, "boundary"], angles: Float[np.ndarray, "boundary"]) -> float:
  """Standard deviation of the radii within each of ten equiangular bins, averaged over the bins that have pixels.

  Buda et al. do not say where the first bin begins. `shape_features` measures angles from the component's long axis, so
  the feature does not depend on the orientation of the head in the image.

  Args:
    radii: distances of the boundary pixels from the centroid, scaled to a mean of 1.
    angles: angles of the same pixels around the centroid, in radians.
  """
  bins = np.floor(angles / (2 * np.pi) * BINS).astype(int) % BINS
  return float(np.mean([radii[bins == number].std() for number in np.unique(bins)]))


def margin_fluctuation(radii: Float[np.ndarray, "boundary"]) -> float:
  """Standard deviation of the radii minus their circular moving average over a tenth of the boundary.

  The window is the odd number of pixels nearest to a tenth, so that it is symmetric.

  Args:
    radii: distances of the boundary pixels from the centroid, scaled to a mean of 1, in order along the outline.
  """
  window = 2 * int(WINDOW * len(radii) / 2) + 1
  return float(np.std(radii - ndimage.uniform_filter1d(radii, window, mode="wrap")))


def ellipsoid_ratio(mask: Bool[np.ndarray, "depth height width"]) -> float:
  """Volume of a non-empty mask divided by that of its smallest enclosing ellipsoid, in (0, 1].

  The ellipsoid encloses the corners of all voxels, so that even a single slice has a volume. An affine map changes both
  volumes by the same factor, so the ratio does not depend on the spacing.
  """
  voxels = np.argwhere(surface(mask))
  corners = (voxels[:, None] + _CORNERS).reshape(-1, 3).astype(float)
  hull = corners[spatial.ConvexHull(corners).vertices]
  return float(mask.sum() / enclosing_ellipsoid_volume(hull))


def enclosing_ellipsoid_volume(points: Float[np.ndarray, "points 3"]) -> float:
  """Volume of the smallest ellipsoid around points that are not coplanar, too large by at most (1 + TOLERANCE)^2.

  Khachiyan's algorithm with away steps (Todd and Yildirim 2007, doi:10.1016/j.dam.2007.02.013). The ellipsoid is then
  scaled about its centre until it contains every point.
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
