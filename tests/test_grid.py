"""The way to a network's grid and back, against geometry done by hand."""

import jax
import numpy as np
import pytest

from bt_jax.scans import resampling


def random(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.float32)


def blobs(slices, height, width):
  """An ellipse in each slice, somewhere off the middle."""
  rows, columns = np.mgrid[:height, :width]
  return np.stack(
    [
      ((rows - height * 0.4) / height) ** 2 + ((columns - width * (0.35 + 0.1 * at)) / width) ** 2 < 0.02
      for at in range(slices)
    ]
  )


def test_slices_of_the_training_size_stay_as_they_are():
  image = random((2, 256, 256))
  np.testing.assert_array_equal(resampling.to_network(image, 256), image)
  np.testing.assert_array_equal(resampling.to_own(image, 256, 256), image)


def test_an_image_whose_longer_side_fits_is_padded_alone():
  image = random((2, 200, 256))
  there = np.asarray(resampling.to_network(image, 256))
  np.testing.assert_array_equal(there[:, 28:228], image)
  assert not there[:, :28].any() and not there[:, 228:].any()
  np.testing.assert_array_equal(resampling.to_own(there, 200, 256), image)


@pytest.mark.parametrize("shape, aspect", [((128, 128), 1), ((320, 512), 1), ((240, 120), 0.5), ((100, 300), 2.4)])
def test_positions_keep_their_millimetres(shape, aspect):
  height, width = shape
  factor = 256 / max(height * aspect, width)  # training pixels to a mm, where a column is one
  rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
  there = np.asarray(
    resampling.to_network(np.stack([rows, columns, rows], axis=-1)[None].astype(np.float32), 256, aspect)
  )[0]
  top, left = (round((256 - side * factor) / 2) for side in (height * aspect, width))
  inside = slice(top + 4, round(top + height * aspect * factor) - 4), slice(left + 4, round(left + width * factor) - 4)
  for channel, (start, mm) in enumerate(((top, aspect), (left, 1))):
    place = (np.arange(256) + 0.5 - start) / factor / mm
    expected = np.broadcast_to(place[:, None] if channel == 0 else place, (256, 256))
    np.testing.assert_allclose(there[inside][..., channel], expected[inside], atol=0.1)  # of a pixel


@pytest.mark.parametrize("shape, aspect", [((130, 170), 1), ((400, 280), 1), ((60, 240), 3.7), ((512, 512), 1)])
def test_a_mask_comes_back_to_where_it_was(shape, aspect):
  truth = blobs(3, *shape)
  there = resampling.to_network(np.repeat(truth[..., None], 3, axis=-1).astype(np.float32), 256, aspect)[..., :1]
  back = np.asarray(resampling.to_own(there, *shape, aspect))[..., 0] >= 0.5
  assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.97
  np.testing.assert_allclose(np.argwhere(back).mean(0), np.argwhere(truth).mean(0), atol=0.1)


def test_images_of_8_bits_keep_their_scale_and_others_are_scaled_to_it():
  picture = random((4, 20, 20)) * 0.5  # dark, yet a picture
  low, high = resampling.window(picture)
  np.testing.assert_array_equal(resampling.scale(picture, low, high), picture)
  other = picture * np.array([40.0, 1.0, 7.0], np.float32) - 300
  other[0, 0, 0] = 1e6  # a hot pixel
  low, high = resampling.window(other)
  np.testing.assert_allclose(low, other.min((0, 1, 2)))
  np.testing.assert_allclose(high, [np.percentile(other[..., channel], 99.9) for channel in range(3)])
  scaled = np.asarray(resampling.scale(other, low, high))
  assert scaled.min() == 0 and scaled.max() == 255
  inner = other < high
  expected = ((other - low) / (high - low) * 255)[inner]
  np.testing.assert_allclose(scaled[inner], expected, atol=1e-2)


@pytest.mark.parametrize("highest", [0.5, 1.0, 1.5, 3.0, 20.0, 300.0, 4000.0])
def test_the_unit_of_intensity_does_not_matter(highest):
  image = random((3, 20, 20))
  expected = np.asarray(resampling.scale(image * 4, *resampling.window(image * 4)))
  image *= highest / image.max()
  np.testing.assert_allclose(resampling.scale(image, *resampling.window(image)), expected, atol=0.01)


def test_a_volume_of_few_bright_voxels_keeps_them():
  volume = np.zeros((4, 64, 64, 3), np.float32)
  volume[1, 3, 4] = 1000
  scaled = np.asarray(resampling.scale(volume, *resampling.window(volume)))
  assert (scaled[1, 3, 4] == 255).all() and scaled.sum() == 3 * 255


def test_window_is_the_same_where_it_is_traced():
  for volume in (random((3, 9, 11)), random((3, 9, 11)) * 9 - 100):
    np.testing.assert_allclose(jax.jit(resampling.window)(volume), resampling.window(volume), rtol=1e-5, atol=1e-4)


def test_statistics_of_a_large_volume_keep_their_digits():
  volume = random((60, 256, 256)) * 0.1 + np.array([200, 3, 90], np.float32)
  mean, std = resampling.statistics(volume)
  np.testing.assert_allclose(mean, volume.mean((0, 1, 2), dtype=np.float64), rtol=1e-6)
  np.testing.assert_allclose(std, volume.std((0, 1, 2), dtype=np.float64), rtol=1e-5)
