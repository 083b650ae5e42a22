import numpy as np
import pytest

from bt_jax.evaluation import shape, volumes
from tests.helpers.slices import make_slices


def ball(center, radius, size=(12, 48, 48)):
  grid = np.indices(size)
  return sum(((axis - at) / length) ** 2 for axis, at, length in zip(grid, center, radius, strict=True)) <= 1


TRUTH = ball((6, 20, 20), (4, 12, 9))


def columns(masks, order=slice(None), **options):
  slices = make_slices(TRUTH.astype(int), "A" * 12)
  filled = {name: array[order] for name, array in vars(slices).items() if array is not None}
  shuffled = type(slices)(**filled)
  return volumes.volume_columns(
    shuffled, masks[order][..., None], **{"spacing_mm": {}, "classes": ("tumor",)} | options
  )["TCGA_XX_A", None]


def test_distances_and_shapes_of_a_volume_by_patient():
  found = columns(np.roll(TRUTH, 2, axis=2))
  assert found["truth_voxels"] == TRUTH.sum() and found["unit"] == "pixels"
  assert 1 <= found["hd95"] <= 2 and 0 < found["assd"] < 2
  for name, value in shape.shape_features(TRUTH).items():
    assert found[f"truth_{name}"] == pytest.approx(value)
    assert found[f"predicted_{name}"] == pytest.approx(value)  # moved, and else the same


def test_slices_may_come_in_any_order():
  order = np.random.default_rng(0).permutation(12)
  masks = np.roll(TRUTH, 2, axis=2)
  assert columns(masks, order) == pytest.approx(columns(masks), nan_ok=False)


def test_millimetres_where_the_spacing_is_known():
  masks = np.roll(TRUTH, 2, axis=2)
  found = columns(masks, spacing_mm={"TCGA_XX_A_20000101": (10.0, 10.0, 10.0)})
  assert found["unit"] == "mm" and found["hd95"] == pytest.approx(10 * columns(masks)["hd95"])


def test_a_stray_pixel_changes_distances_and_not_the_shape():
  stray = TRUTH.copy()
  stray[1, 46, 46] = True
  found, clean = columns(stray), columns(TRUTH)
  assert found["predicted_ellipsoid_ratio"] == pytest.approx(clean["predicted_ellipsoid_ratio"])
  assert found["assd"] > clean["assd"] == 0


def test_a_classifier_has_shapes_of_the_truth_alone():
  slices = make_slices(TRUTH.astype(int), "A" * 12)
  found = volumes.volume_columns(slices, None, spacing_mm={}, classes=("tumor",))["TCGA_XX_A", None]
  assert set(found) == {"truth_voxels", *(f"truth_{name}" for name in shape.FEATURES)}
