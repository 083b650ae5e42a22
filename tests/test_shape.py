import numpy as np
import pytest
from scipy import ndimage

from bt_jax.evaluation import shape
from bt_jax.evaluation.shape import FEATURES, MIN_PIXELS, TOLERANCE, shape_features

GRID = np.stack(np.meshgrid(np.arange(96), np.arange(96), indexing="ij")) - np.array([45.0, 49.0])[:, None, None]
RADIUS, ANGLE = np.hypot(*GRID), np.arctan2(*GRID)
DISK = RADIUS < 30


def star(depth, waves):
  """An outline whose radius swings by this share of 30 pixels, so many times around."""
  return 30 * (1 + depth * np.cos(waves * ANGLE)) > RADIUS


def blob(seed=0):
  """An irregular volume without any symmetry."""
  noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(9, 96, 96)), (1, 5, 5))
  return (RADIUS + 200 * noise < 28) & (np.abs(np.arange(9) - 4) < 4)[:, None, None]


def ball(*radii):
  """An ellipsoid with these half axes in voxels."""
  axes = np.meshgrid(*(np.arange(-radius - 1, radius + 2) for radius in radii), indexing="ij")
  return sum((axis / radius) ** 2 for axis, radius in zip(axes, radii, strict=True)) <= 1


def test_disk_is_smooth_and_star_is_not():
  disk = shape_features(DISK[None])
  assert disk["angular_std"] < 0.02 and disk["margin_fluctuation"] < 0.02  # half a pixel of 30
  previous = disk
  for depth in (0.1, 0.2, 0.3):
    features = shape_features(star(depth, waves=12)[None])
    assert features["angular_std"] > previous["angular_std"]
    assert features["margin_fluctuation"] > previous["margin_fluctuation"]
    assert features["ellipsoid_ratio"] < previous["ellipsoid_ratio"]
    previous = features


def test_angular_std_of_a_wave():
  # Every bin holds three whole waves of 1 + 0.1 cos, whose standard deviation is 0.1 / sqrt(2).
  angles = np.linspace(0, 2 * np.pi, 6000, endpoint=False)
  assert shape.angular_std(1 + 0.1 * np.cos(30 * angles), angles) == pytest.approx(0.1 / 2**0.5, rel=1e-2)


def test_angular_std_is_within_bins():
  # Each bin has its own radius and no spread; then one bin of the ten has values 1 and 3, of deviation 1.
  angles = (np.arange(40) + 0.5) / 40 * 2 * np.pi - np.pi
  radii = np.repeat(np.arange(10.0), 4)
  assert shape.angular_std(radii, angles) == 0
  radii[:4] = 1, 3, 1, 3
  assert shape.angular_std(radii, angles) == pytest.approx(1 / 10)
  assert shape.angular_std(radii[:8], angles[:8]) == pytest.approx(1 / 2)  # bins without pixels do not count


@pytest.mark.parametrize("seed", [0, 1])
def test_angular_std_of_an_outline(seed):
  # Over again, from the unordered pixels that erosion takes and the eigenvector of the largest spread.
  part = shape.largest_outline(blob(seed))
  rays = np.argwhere(part & ~ndimage.binary_erosion(part)) - ndimage.center_of_mass(part)
  radii = np.linalg.norm(rays, axis=1)
  rows, columns = np.linalg.eigh(np.cov(np.argwhere(part).T))[1][:, -1]
  angles = np.arctan2(rays @ [-columns, rows], rays @ [rows, columns]) % (2 * np.pi)
  bins = np.digitize(angles, np.linspace(0, 2 * np.pi, 11))
  expected = np.mean([np.std(radii[bins == at] / radii.mean()) for at in range(1, 11)])
  assert shape_features(blob(seed))["angular_std"] == pytest.approx(expected)


@pytest.mark.parametrize("waves", [1, 4, 9, 25])
def test_margin_fluctuation_of_a_wave(waves):
  # A moving average over w of n points takes 1 - sin(pi k w / n) / (w sin(pi k / n)) of the k-th Fourier component.
  points, window = 510, 51
  radii = 1 + 0.2 * np.sin(2 * np.pi * waves * np.arange(points) / points)
  kept = np.sin(np.pi * waves * window / points) / (window * np.sin(np.pi * waves / points))
  assert shape.margin_fluctuation(radii) == pytest.approx(abs(1 - kept) * 0.2 / 2**0.5)


@pytest.mark.parametrize(("points", "window"), [(32, 3), (39, 3), (41, 5), (101, 11)])
def test_window_is_the_odd_number_nearest_to_a_tenth(points, window):
  # A single spike of height 1: the average takes (1 - 1/w) of it and 1/w from the w - 1 around.
  spike = np.eye(points)[0]
  around = np.zeros(points)
  around[np.arange(-(window // 2), window // 2 + 1)] = 1 / window
  assert shape.margin_fluctuation(spike) == pytest.approx(np.std(spike - around))


def test_boundary_is_closed_and_complete():
  part = shape.largest_outline(blob())
  pixels = shape.boundary(part)
  steps = np.abs(pixels - np.roll(pixels, 1, axis=0)).max(1)
  assert (steps == 1).all()  # from each pixel to one of the eight around it
  found = np.zeros_like(part)
  found[tuple(pixels.T)] = True
  np.testing.assert_array_equal(found, part & ~ndimage.binary_erosion(part))


def test_boundary_at_the_edge_of_the_image():
  pixels = shape.boundary(np.ones((12, 15), bool))
  assert len(pixels) == 2 * (12 + 15) - 4
  assert pixels.min() == 0 and tuple(pixels.max(0)) == (11, 14)


def test_outline_is_of_the_largest_part_without_holes():
  part = star(0.2, waves=5)
  clean = shape_features(part[None])
  messy = part & (RADIUS > 5)
  messy[:4, :4] = True
  features = shape_features(np.stack([np.roll(DISK, 3) & (RADIUS < 20), messy, np.zeros_like(messy)]))
  for name in ("angular_std", "margin_fluctuation"):
    assert features[name] == pytest.approx(clean[name])


@pytest.mark.parametrize("sides", [(1, 12, 12), (4, 20, 30), (9, 11, 13)])
def test_box_fills_as_much_of_its_ellipsoid_for_any_sides(sides):
  # A cube of side 2 has the ball of radius sqrt(3) around it: 8 / (4 / 3 pi 3 sqrt(3)) = 2 / (pi sqrt(3)).
  ratio = shape.ellipsoid_ratio(np.ones(sides, bool))
  assert 2 / (np.pi * 3**0.5) / (1 + TOLERANCE) ** 2 <= ratio <= 2 / (np.pi * 3**0.5) * (1 + 1e-9)


@pytest.mark.parametrize("radii", [(25, 25, 25), (12, 30, 40)])
def test_ellipsoid_fills_itself(radii):
  # Centres of voxels lie inside, so their corners do once every axis is longer by this share.
  wider = 1 + 0.5 * np.sqrt(np.sum(1 / np.square(radii)))
  volume = ball(*radii).sum()
  least = volume / (4 / 3 * np.pi * np.prod(radii) * wider**3)
  assert least / (1 + TOLERANCE) ** 2 <= shape.ellipsoid_ratio(ball(*radii)) < 1
  assert least > 0.8


def test_ellipsoid_of_its_own_axes():
  axes = np.diag([1.0, 2.0, 3.0])
  volume = shape.enclosing_ellipsoid_volume(np.vstack([axes, -axes]) + 7)
  assert volume == pytest.approx(4 / 3 * np.pi * 6)


def test_points_inside_change_nothing():
  rng = np.random.default_rng(0)
  directions = rng.normal(size=(400, 3))
  sphere = directions / np.linalg.norm(directions, axis=1, keepdims=True)
  axes = np.vstack([np.eye(3), -np.eye(3)])
  points = np.vstack([axes, sphere * rng.random((400, 1))])
  volume = shape.enclosing_ellipsoid_volume(points)
  assert 4 / 3 * np.pi * (1 - 1e-9) <= volume <= 4 / 3 * np.pi * (1 + TOLERANCE) ** 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ratio_is_the_same_for_a_stretched_volume(axis):
  ratio = shape.ellipsoid_ratio(blob())
  assert shape.ellipsoid_ratio(np.repeat(blob(), 3, axis=axis)) == pytest.approx(ratio, rel=3 * TOLERANCE)


MOTIONS = {
  "turned by 90": lambda volume: np.rot90(volume, axes=(1, 2)),
  "turned by 180": lambda volume: np.rot90(volume, 2, axes=(1, 2)),
  "turned by 270": lambda volume: np.rot90(volume, 3, axes=(1, 2)),
  "mirrored": lambda volume: volume[:, :, ::-1],
  "upside down": lambda volume: volume[::-1],
  "moved": lambda volume: np.pad(volume, ((2, 1), (0, 7), (5, 0))),
}


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_changes_with_the_position(motion, seed):
  volume = blob(seed)
  moved = np.ascontiguousarray(MOTIONS[motion](volume))
  assert shape_features(moved) == pytest.approx(shape_features(volume), rel=1e-9)


def test_single_slice():
  features = shape_features(DISK[None])
  assert tuple(features) == FEATURES
  # A cylinder: the ellipsoid around it is sqrt(3) as high and sqrt(3/2) as wide, so 2 pi / (4/3 pi sqrt(3) 3/2);
  # the corners stand out by up to 0.7 of 30 pixels, which takes some 5 %.
  assert features["ellipsoid_ratio"] == pytest.approx(1 / 3**0.5, rel=0.06)


def test_no_features_of_a_small_mask():
  side = round(MIN_PIXELS**0.5)
  mask = np.zeros((3, 40, 40), bool)
  assert shape_features(mask) == dict.fromkeys(FEATURES)
  mask[1, 2 : 2 + side, 2 : 2 + side] = True
  assert None not in shape_features(mask).values()
  mask[1, 2, 2] = False
  assert shape_features(mask) == dict.fromkeys(FEATURES)
