import math

import numpy as np
import pytest
from PIL import Image

from bt_jax.inference import overlays
from bt_jax.scans.scan import NOTICE
from tests.helpers.predictions import empty, make_prediction

ORANGE = np.array([230, 159, 0])


def pixels_of(path):
  return np.asarray(Image.open(path)).astype(int)


def orange(path):
  return (pixels_of(path) == ORANGE).all(-1)


def test_the_tumour_is_filled_outlined_and_all_else_grey(tmp_path):
  size = 256  # shown pixel by pixel
  image = np.random.default_rng(0).normal(100, 30, (2, size, size))
  mask = empty(2, size, size)
  mask[1, 60:90, 100:140] = True
  clean, marked, _ = overlays.save(tmp_path, make_prediction(mask, image=image))
  low, high = np.percentile(image, (0.5, 99.5))
  grey = 255 * np.clip((image - low) / (high - low), 0, 1)[..., None].repeat(3, axis=-1)
  around = empty(size, size)
  around[59:91, 99:141] = True
  expected = grey[1].copy()
  expected[around] = ORANGE
  expected[mask[1]] = 0.8 * grey[1][mask[1]] + 0.2 * ORANGE
  for path, wanted in ((clean, grey[0]), (marked, expected)):
    left = (Image.open(path).width - size) // 2
    assert np.abs(pixels_of(path)[:size, left : left + size] - wanted).max() <= 1
  assert not orange(clean).any()


@pytest.mark.parametrize(
  ("shape", "spacing", "shown"),
  [
    ((1, 1), None, (200, 200)),
    ((1, 300), None, (1, 300)),  # longer than 200 and shorter than 512 pixels: as it is
    ((2000, 3), None, (512, 1)),
    ((70, 100), (1.0, 1.0, 1.0), (140, 200)),
    ((10, 20), (9.0, 2.0, 1.0), (200, 200)),
    ((64, 64), (1.0, 0.5, 1.0), (128, 256)),
  ],
)
def test_images_of_any_shape_keep_proportions(tmp_path, shape, spacing, shown):
  prediction = make_prediction(~empty(2, *shape), spacing=spacing)
  paths = overlays.save(tmp_path, prediction)
  assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
    "overlays/0001.png", "overlays/0002.png", "contact_sheet.png"
  ]  # fmt: skip
  for path in paths:
    with Image.open(path) as picture:
      assert picture.text["Disclaimer"] == NOTICE
  # An orange fill sets the slice apart from the paper and the text: nothing grey is left in it.
  filled = np.ptp(pixels_of(paths[1]), axis=-1) > 20
  assert (filled.any(1).sum(), filled.any(0).sum()) == shown


def test_one_voxel_is_seen_however_small_the_image(tmp_path):
  mask = empty(1, 4096, 4096)
  mask[0, 1003, 2001] = True
  image = np.broadcast_to(np.arange(4096, dtype=np.float32), mask.shape)
  for path in overlays.save(tmp_path, make_prediction(mask, image=image)):
    assert orange(path).sum() >= 8  # the ring around one pixel


def test_a_slice_that_is_all_but_black_shows_what_it_has(tmp_path):
  image = np.zeros((1, 256, 256))
  image[0, 30, 40:42] = 7  # beyond the 99.5th percentile
  picture, _ = overlays.save(tmp_path, make_prediction(empty(1, 256, 256), image=image))
  shown = pixels_of(picture)[:256]
  assert shown[30].max() == 255 and shown[:30].max() < 30  # the paper's


@pytest.mark.parametrize("count", [1, 12, 61])
def test_the_sheet_shows_each_chosen_slice(tmp_path, count):
  levels = np.arange(10, count + 10) / 10  # a grey of its own for each slice
  image = np.broadcast_to(levels[:, None, None], (count, 40, 40)).copy()
  image[:, :4] = 0
  image[:, -4:] = 10
  mask = empty(count, 40, 40)
  mask[-2:, 18:22, 18:22] = True
  *_, sheet = overlays.save(tmp_path, make_prediction(mask, image=image))
  chosen, _ = overlays.choose_tiles(mask.sum((1, 2)))
  greys, counts = np.unique(pixels_of(sheet).reshape(-1, 3), axis=0, return_counts=True)
  common = {int(grey[0]) for grey in greys[(np.ptp(greys, axis=1) == 0) & (counts > 60 * 128)]}
  assert {round(level * 25.5) for level in levels[chosen]} <= common
  assert len(common) <= len(chosen) + 3  # with black and white of the bands, and paper


@pytest.mark.parametrize("count", [1, 59, 60, 61, 200])
def test_tiles_are_spread_and_hold_the_largest_area(count):
  areas = np.zeros(count, int)
  assert overlays.choose_tiles(areas) == (list(range(0, count, math.ceil(count / 60))), math.ceil(count / 60))
  areas[count // 2 :] = 3
  areas[-1] = 5
  chosen, _ = overlays.choose_tiles(areas)
  assert chosen[0] == 0 and chosen[-1] == count - 1 and len(chosen) <= 61


@pytest.mark.parametrize(
  "names",
  [["../up", "a/b", "c\\d", "\n\x00", "lone \udc80", "", ".", "e" * 300], ["same", "same", "other"], ["a", "A"]],
  ids=["harmful", "twins", "twins where case does not count"],
)
def test_each_slice_has_a_file_of_its_own_in_the_folder(tmp_path, names):
  *slices, sheet = overlays.save(tmp_path, make_prediction(empty(len(names), 2, 2), names=names))
  assert len({path.name.casefold() for path in slices}) == len(names) and sheet.is_file()
  assert {path.resolve() for path in (tmp_path / "overlays").iterdir()} == {path.resolve() for path in slices}
