import itertools

import numpy as np
import pytest
from scipy import ndimage

from bt_jax.evaluation.surface import surface, surface_distances

SPACING = (4.0, 0.5, 0.8)


def blobs(seed, shape=(6, 24, 20)):
  """A random mask that reaches the border."""
  return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5) > 0.05


def voxel(*place, shape=(5, 9, 9)):
  mask = np.zeros(shape, bool)
  mask[place] = True
  return mask


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:monai")  # about MONAI's own calls
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_equals_monai(seed, spacing):
  monai = pytest.importorskip("monai.metrics", reason="MONAI comes with the extra `parity`")
  torch = pytest.importorskip("torch", reason="torch comes with the extra `parity`")
  masks = blobs(2 * seed), blobs(2 * seed + 1)
  ours = surface_distances(*masks, spacing)
  tensors = [torch.tensor(mask)[None, None] for mask in masks]
  options = {"include_background": True, "spacing": spacing}
  hd95 = monai.compute_hausdorff_distance(*tensors, percentile=95, **options).item()
  assd = monai.compute_average_surface_distance(*tensors, symmetric=True, **options).item()
  np.testing.assert_allclose(ours, (hd95, assd), rtol=1e-5)


def test_surface_has_a_neighbour_outside():
  mask = blobs(11)
  padded = np.pad(mask, 1)
  for place in itertools.product(*map(range, mask.shape)):
    centre = np.array(place) + 1
    sides = [padded[tuple(centre + side)] for side in np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])]
    assert surface(mask)[place] == (mask[place] and not all(sides))


def test_two_voxels():
  # 2 steps of 4, 4 of 0.5 and 5 of 0.8: the root of 64 + 4 + 16.
  distances = surface_distances(voxel(1, 2, 1), voxel(3, 6, 6), SPACING)
  np.testing.assert_allclose(distances, [84**0.5] * 2)


def test_one_voxel_and_two():
  # From the two: 0 and 3, of which the 95th percentile is 2.85; from the one: 0. The mean of the three is 1.
  distances = surface_distances(voxel(2, 4, 2), voxel(2, 4, 2) | voxel(2, 4, 5))
  np.testing.assert_allclose(distances, [2.85, 1.0])


def test_shifted_cube():
  # Cubes of side 3, moved by 1 along the width: 26 surface voxels each. The 9 of the face that sticks out are 1 away,
  # and so is the middle of the opposite face, which lies where the other cube has its inside; the other 16 are shared.
  first, second = np.zeros((2, 9, 9, 9), bool)
  first[3:6, 3:6, 3:6] = second[3:6, 3:6, 4:7] = True
  np.testing.assert_allclose(surface_distances(first, second), [1.0, 10 / 26])


def test_equal_masks_are_at_0():
  assert surface_distances(blobs(3), blobs(3), SPACING) == (0, 0)


def test_symmetric_and_moved():
  prediction, truth = blobs(4), blobs(5)
  distances = surface_distances(prediction, truth, SPACING)
  assert distances.assd > 0
  np.testing.assert_allclose(surface_distances(truth, prediction, SPACING), distances)
  room = ((3, 0), (1, 7), (0, 2))
  np.testing.assert_allclose(surface_distances(np.pad(prediction, room), np.pad(truth, room), SPACING), distances)
  twice = tuple(2 * step for step in SPACING)
  np.testing.assert_allclose(surface_distances(prediction, truth, twice), 2 * np.array(distances))


def test_empty_masks():
  empty, one = np.zeros((3, 4, 12), bool), voxel(1, 1, 1, shape=(3, 4, 12))
  assert surface_distances(empty, empty) == (0, 0)
  assert surface_distances(empty, one) == surface_distances(one, empty) == (13, 13)  # 9 + 16 + 144 = 169
  assert surface_distances(one, empty, (2.0, 2.0, 2.0)) == (26, 26)
