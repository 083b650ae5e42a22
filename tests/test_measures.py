import json
import math

import numpy as np
import pytest
from skimage import measure

from bt_jax.inference import measurements
from bt_jax.inference.description import describe
from bt_jax.scans.scan import NOTICE
from tests.helpers.predictions import empty, make_prediction

SPACING = (5.0, 0.5, 2.0)


def make_box():
  mask = empty(7, 12, 15)
  mask[2:5, 5:9, 10:13] = True
  return mask


def test_numbers_of_a_box():
  found = describe(make_prediction(make_box(), spacing=SPACING))
  assert found["tumor"] is True and found["voxels"] == 3 * 4 * 3 and found["components"] == 1
  assert found["volume_mm3"] == pytest.approx(15 * 2 * 6) and found["volume_ml"] == pytest.approx(0.18)
  assert found["largest_diameter_mm"] == pytest.approx(math.hypot(4 * 0.5, 3 * 2))
  assert found["largest_diameter_pixels"] == 5 and found["largest_diameter_slice"] == 2
  assert found["slice_range"] == [2, 4] and found["centroid"] == [3, 6.5, 11]
  assert found["slice_number_range"] == [3, 5] and found["largest_diameter_slice_number"] == 3
  assert found["bounding_box"] == {"slices": [2, 4], "rows": [5, 8], "columns": [10, 12]}
  assert [one["area_pixels"] for one in found["slices"]] == [0, 0, 12, 12, 12, 0, 0]
  assert [one["area_mm2"] for one in found["slices"]] == [0, 0, 12, 12, 12, 0, 0]  # 0.5 x 2 mm a pixel
  assert [one["tumor"] for one in found["slices"]] == [False, False, True, True, True, False, False]


def test_without_spacing_no_number_is_in_mm():
  found = describe(make_prediction(make_box()))
  told = {name: value for name, value in [*found.items(), *found["slices"][3].items()] if "_m" in name}
  assert set(told) == {"volume_mm3", "volume_ml", "largest_diameter_mm", "spacing_mm", "area_mm2"}
  assert not any(told.values()) and None in told.values() and 0 not in told.values()
  assert found["largest_diameter_pixels"] == 5 and found["largest_diameter_slice"] == 2


def test_what_is_said_of_the_scan_and_of_the_networks():
  gated = np.array([True, False])
  prediction = make_prediction(
    empty(2, 3, 3), names=["top", "next"], gated=gated, warnings=["odd"], looks_wrong=True, about={"bt_jax": "1.2"}
  )
  found = describe(prediction)
  assert found["research_use"] == NOTICE and found["model"] == {"bt_jax": "1.2"}
  assert found["warnings"] == ["odd"] and found["looks_wrong"] is True
  assert found["input"] == {"format": "array", "sha256": "ab12"} and found["shape"] == [2, 3, 3]
  assert found["probability"] == pytest.approx(0.9)  # of the likeliest slice
  assert [(one["index"], one["name"], one["gated"]) for one in found["slices"]] == [
    (0, "top", True),
    (1, "next", False),
  ]
  assert [one["probability"] for one in found["slices"]] == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize("spacing", [None, SPACING])
@pytest.mark.parametrize(
  "mask", [empty(3, 4, 5), empty(1, 1, 2), ~empty(1, 1, 2), make_box()], ids=lambda mask: mask.shape
)
def test_json_holds_all_of_it_and_no_nan(mask, spacing):
  members = np.stack([mask, empty(*mask.shape)])
  found = describe(make_prediction(mask, spacing=spacing, members=members))
  assert json.loads(json.dumps(found, allow_nan=False)) == found
  of_the_tumor = ("slice_range", "bounding_box", "centroid", "largest_diameter_pixels", "largest_diameter_slice")
  assert {found[name] is None for name in of_the_tumor} == {not mask.any()}


def corners_apart(mask, scale):
  """The longest way between any two corners of pixels in one part of one slice."""
  longest = []
  for picture in mask:
    labels = measure.label(picture, connectivity=2)
    for part in range(1, labels.max() + 1):
      corners = [
        (row + down, column + right)
        for row, column in np.argwhere(labels == part)
        for down in (0, 1)
        for right in (0, 1)
      ]
      longest.append(
        max(math.dist(np.multiply(one, scale), np.multiply(other, scale)) for one in corners for other in corners)
      )
  return max(longest)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.4])
def test_largest_diameter_is_that_over_all_pairs_of_corners(density):
  mask = np.random.default_rng(3).random((3, 12, 9)) < density
  found = measurements.largest_diameter(mask, (9.0, 0.7, 1.9))
  assert found["largest_diameter_pixels"] == pytest.approx(corners_apart(mask, (1, 1)))
  assert found["largest_diameter_mm"] == pytest.approx(corners_apart(mask, (0.7, 1.9)))
  assert corners_apart(mask[[found["largest_diameter_slice"]]], (0.7, 1.9)) == pytest.approx(
    found["largest_diameter_mm"]
  )


def test_the_diameter_in_mm_names_the_slice():
  mask = empty(4, 8, 8)
  mask[1, 1:7, 0] = True  # 6 pixels of 1 mm
  mask[2, 0, 1:6] = mask[3, 0, 1:6] = True  # 5 pixels of 2 mm
  found = measurements.largest_diameter(mask, (1.0, 1.0, 2.0))
  assert found["largest_diameter_pixels"] == pytest.approx(math.hypot(6, 1))
  assert found["largest_diameter_mm"] == pytest.approx(math.hypot(1, 10)) and found["largest_diameter_slice"] == 2
  assert measurements.largest_diameter(mask, None)["largest_diameter_slice"] == 1


def test_components_join_across_slices_at_corners():
  mask = empty(5, 6, 6)
  mask[0, 1, 1] = mask[1, 2, 2] = True  # they touch at a corner
  mask[3, 2, 2] = True  # a slice between
  assert describe(make_prediction(mask))["components"] == 2


def test_disagreement_of_masks_by_hand():
  members = empty(3, 1, 2, 2)
  members[0], members[1, 0, 0] = True, True  # 4 pixels, 2 of them, none
  found = measurements.disagreement(members, (3.0, 1.0, 2.0))
  assert found["members"] == 3 and found["pairwise_dice_mean"] == pytest.approx((2 * 2 / (4 + 2) + 0 + 0) / 3)
  assert (found["voxels_min"], found["voxels_max"]) == (0, 4)
  assert (found["volume_mm3_min"], found["volume_mm3_max"]) == (0, 24)
  assert measurements.disagreement(members, None)["volume_mm3_max"] is None


def test_disagreement_of_empty_masks_is_none_at_all_and_of_one_network_unknown():
  assert measurements.disagreement(empty(2, 1, 2, 2), None)["pairwise_dice_mean"] == 1
  assert measurements.disagreement(empty(1, 1, 2, 2), None) is None


def test_a_prediction_has_its_size_at_hand():
  prediction = make_prediction(make_box(), spacing=SPACING)
  described = describe(prediction)
  assert prediction.volume_ml == described["volume_ml"] and prediction.diameter_mm == described["largest_diameter_mm"]
  assert f"{described['voxels']} voxels segmented, {prediction.volume_ml:.2f} ml" in repr(prediction)
  assert make_prediction(make_box()).volume_ml is None and " ml" not in repr(make_prediction(make_box()))
