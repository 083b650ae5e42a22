import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from bt_jax.datasets import store
from bt_jax.datasets.lgg_mri import lgg_source
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import UserError
from bt_jax.pipeline import augment, contrast, feed, preprocess
from tests.helpers.slices import make_slices

ALL = "pre,flair,post"
OFF = {
  "flip": False,
  "rotation_degrees": 0.0,
  "scale": 0.0,
  "shift": 0.0,
  "gain": 0.0,
  "offset": 0.0,
  "gamma": 0.0,
  "noise": 0.0,
  "drop_sequence": 0.0,
}


def batch(rng, count=3):
  image = rng.integers(0, 256, (count, 256, 256, 3)).astype(np.uint8)
  return {
    "image": jnp.asarray(image),
    "mask": jnp.asarray((rng.random((count, 256, 256, 1)) < 0.5).astype(np.uint8)),
    "volume_mean": jnp.asarray(image.mean((1, 2)).astype(np.float32)),
    "volume_std": jnp.asarray(image.std((1, 2)).astype(np.float32)),
  }


def test_volume_normalisation_is_a_z_score():
  data = batch(np.random.default_rng(0))
  image, mask = preprocess.make_preprocess(size=256, normalize="volume", channels=ALL, info=INFO)(data)
  expected = (np.asarray(data["image"], np.float64) - data["volume_mean"][:, None, None]) / data["volume_std"][
    :, None, None
  ]
  np.testing.assert_allclose(image, expected, atol=1e-4)
  np.testing.assert_array_equal(mask, data["mask"])


def test_unit_normalisation_and_a_constant_volume():
  data = batch(np.random.default_rng(0))
  image, _ = preprocess.make_preprocess(size=256, normalize="unit", channels=ALL, info=INFO)(data)
  np.testing.assert_allclose(image, np.asarray(data["image"]) / 255, atol=1e-6)
  constant = data | {
    "image": jnp.full((3, 256, 256, 3), 7, jnp.uint8),
    "volume_mean": jnp.full((3, 3), 7.0),
    "volume_std": jnp.zeros((3, 3)),
  }
  image, _ = preprocess.make_preprocess(size=256, normalize="volume", channels=ALL, info=INFO)(constant)
  np.testing.assert_allclose(image, 0, atol=1e-4)
  with pytest.raises(UserError, match="data.normalize is 'min_max', expected one of volume, percentiles, image"):
    preprocess.make_preprocess(size=256, normalize="min_max", channels=ALL, info=INFO)


def test_halving_is_the_triangle_filter_and_masks_stay_binary():
  data = batch(np.random.default_rng(1), 1)
  image, mask = preprocess.make_preprocess(size=128, normalize="unit", channels=ALL, info=INFO)(data)
  assert image.shape == (1, 128, 128, 3) and set(np.unique(mask)) == {0, 1}
  # Antialiased linear halving weighs the four nearest pixels of each axis 1 : 3 : 3 : 1; away from the border, by hand.
  kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
  source = np.asarray(data["image"], np.float64)[0, :, :, 0] / 255
  for row, column in ((5, 9), (64, 64), (100, 31)):
    window = source[2 * row - 1 : 2 * row + 3, 2 * column - 1 : 2 * column + 3]
    np.testing.assert_allclose(image[0, row, column, 0], (window * kernel).sum(), atol=1e-5)
  np.testing.assert_allclose(preprocess.resize(jnp.full((1, 256, 256, 1), 3.0), 64), 3.0, rtol=1e-6)


def test_everything_off_changes_nothing():
  rng = np.random.default_rng(2)
  image, mask = rng.random((2, 32, 32, 3), np.float32), (rng.random((2, 32, 32, 1)) < 0.5).astype(np.float32)
  new_image, new_mask = augment.make_augment(**OFF, info=INFO).pixels(jax.random.key(0), image, mask)
  np.testing.assert_allclose(new_image, image, atol=1e-5)
  np.testing.assert_allclose(new_mask, mask, atol=1e-5)


@pytest.mark.parametrize("name", ["rotation_degrees", "scale", "shift", "gamma", "noise", "flip"])
def test_each_does_something_and_the_same_to_the_same_key(name):
  rng = np.random.default_rng(3)
  image, mask = rng.random((4, 32, 32, 3), np.float32), (rng.random((4, 32, 32, 1)) < 0.5).astype(np.float32)
  change = augment.make_augment(
    **OFF | {name: True if name == "flip" else 0.3 if name != "rotation_degrees" else 30.0}, info=INFO
  ).pixels
  once, again, other = (change(jax.random.key(key), image, mask) for key in (0, 0, 1))
  assert not np.allclose(once[0], image, atol=1e-3)
  np.testing.assert_array_equal(once[0], again[0])
  assert not np.array_equal(once[0], other[0])
  assert np.array_equal(once[1], mask) == (name in ("gamma", "noise"))  # intensity leaves masks alone


def test_image_and_mask_go_under_one_warp():
  rng = np.random.default_rng(4)
  mask = (ndimage.gaussian_filter(rng.standard_normal((8, 64, 64)), (0, 4, 4)) > 0)[..., None].astype(np.float32)
  change = augment.make_augment(
    **OFF | {"flip": True, "rotation_degrees": 40.0, "scale": 0.3, "shift": 0.2}, info=INFO
  ).pixels
  image, moved = change(jax.random.key(5), np.repeat(mask, 3, -1), mask)
  np.testing.assert_allclose(image, np.repeat(np.maximum(moved, 1e-6), 3, -1), atol=1e-5)
  assert not np.allclose(moved, mask)


def test_flip_mirrors_about_half_of_the_slices_left_and_right():
  image = np.random.default_rng(5).random((64, 8, 8, 3), np.float32)
  flipped, _ = augment.make_augment(**OFF | {"flip": True}, info=INFO).pixels(jax.random.key(0), image, image[..., :1])
  mirrored = [np.allclose(new, old[:, ::-1], atol=1e-5) for new, old in zip(flipped, image, strict=True)]
  kept = [np.allclose(new, old, atol=1e-5) for new, old in zip(flipped, image, strict=True)]
  assert sum(mirrored) + sum(kept) == 64 and 16 < sum(mirrored) < 48


def test_warp_agrees_with_scipy():
  rng = np.random.default_rng(6)
  image = rng.random((33, 47, 2)).astype(np.float32)
  matrix = np.array([[0.9, 0.3], [-0.2, 1.1]], np.float32)
  offset = np.array([3.5, -2.25], np.float32)
  centre = (np.array([33, 47]) - 1) / 2
  expected = np.stack(
    [
      ndimage.affine_transform(
        image[..., channel], matrix, centre - matrix @ centre + offset, order=1, mode="grid-constant"
      )
      for channel in range(2)
    ],
    axis=-1,
  )
  np.testing.assert_allclose(
    augment.warp(jnp.asarray(image), jnp.asarray(matrix), jnp.asarray(offset)), expected, atol=1e-4
  )


def test_rotation_by_a_right_angle():
  image = np.random.default_rng(7).random((16, 16, 1), np.float32)
  turned = augment.warp(jnp.asarray(image), augment.rotation_matrix(jnp.float32(np.pi / 2)), jnp.zeros(2))
  assert any(np.allclose(turned, np.rot90(image, times), atol=1e-4) for times in (1, 3))


def test_training_sees_every_slice_once_an_epoch_in_full_batches():
  size, batch_size = 23, 5
  groups = feed.sampling_groups("all", np.zeros(23, np.int32))
  stream = np.concatenate(
    [feed.train_indices(seed=3, step=step, batch_size=batch_size, groups=groups) for step in range(23)]
  )
  for epoch in range(5):
    assert sorted(stream[epoch * size : (epoch + 1) * size]) == list(range(size))
  assert not np.array_equal(stream[:size], stream[size : 2 * size])
  other = np.concatenate(
    [feed.train_indices(seed=4, step=step, batch_size=batch_size, groups=groups) for step in range(5)]
  )
  assert not np.array_equal(stream[:25], other)
  # A batch larger than the data set holds slices more than once, and still in shares as equal as can be.
  assert set(
    collections.Counter(feed.train_indices(seed=0, step=0, batch_size=46, groups=groups).tolist()).values()
  ) == {2}


@pytest.mark.parametrize(("size", "batch_size"), [(10, 5), (11, 5), (3, 8), (1, 1)])
def test_evaluation_sees_every_slice_once_in_order(size, batch_size):
  seen = []
  for indices, valid in feed.eval_batches(size, batch_size):
    assert indices.shape == valid.shape == (batch_size,)
    assert indices.max() < size
    seen += indices[valid].tolist()
  assert seen == list(range(size))


def test_schemes_of_published_weights_by_hand():
  data = batch(np.random.default_rng(8), 2)
  raw = np.asarray(data["image"], np.float64)
  made = {
    name: preprocess.make_preprocess(size=256, normalize=name, channels=ALL, info=INFO)(data)[0]
    for name in ("symmetric", "imagenet", "caffe", "image")
  }
  np.testing.assert_allclose(made["symmetric"], (raw - 127.5) * 2 / 255, atol=1e-5)
  np.testing.assert_allclose(made["imagenet"], (raw / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], atol=1e-4)
  np.testing.assert_allclose(made["caffe"], raw[..., ::-1] - [103.939, 116.779, 123.68], atol=1e-3)
  np.testing.assert_allclose(made["image"].mean((1, 2, 3)), 0, atol=1e-4)
  np.testing.assert_allclose(made["image"].std((1, 2, 3)), 1, atol=1e-4)


def test_channels_are_chosen_in_order_and_may_repeat():
  data = batch(np.random.default_rng(9), 2)
  whole = preprocess.make_preprocess(size=256, normalize="volume", channels=ALL, info=INFO)(data)[0]
  some = preprocess.make_preprocess(size=256, normalize="volume", channels="post, flair,flair", info=INFO)(data)[0]
  np.testing.assert_array_equal(some, whole[..., [2, 1, 1]])
  five = preprocess.make_preprocess(size=256, normalize="imagenet", channels="pre,flair,post,flair,flair", info=INFO)(
    data
  )[0]
  expected = np.asarray(data["image"])[..., 1] / 255
  np.testing.assert_allclose(five[..., 3], (expected - 0.485) / 0.229, atol=1e-4)  # the fourth is red again
  with pytest.raises(
    UserError, match="data.channels names 't2', expected some of pre, flair, post, separated by commas"
  ):
    preprocess.make_preprocess(size=256, normalize="unit", channels="flair,t2", info=INFO)


def test_balanced_sampling_takes_as_many_of_each_and_all_of_the_rarer_in_turn():
  labels = np.array([0] * 12 + [1] * 3, np.int32)
  groups = feed.sampling_groups("balanced", labels)
  stream = np.concatenate([feed.train_indices(seed=0, step=step, batch_size=5, groups=groups) for step in range(12)])
  assert labels[stream].sum() == 30
  assert set(collections.Counter(stream[labels[stream] == 1].tolist()).values()) == {10}
  assert set(feed.sampling_groups("tumor", labels)[0]) == {12, 13, 14}
  with pytest.raises(UserError, match="train.sampling=tumor needs slices with and without"):
    feed.sampling_groups("tumor", np.zeros(4, np.int32))


def test_balanced_class_weights_make_both_classes_weigh_alike():
  truth = np.zeros((8, 2, 2))
  truth[:2] = 1
  slices = make_slices(truth, "AAAABBBB")
  np.testing.assert_allclose(feed.slice_weights("balanced", slices.label), [2, 2, *[8 / 12] * 6], rtol=1e-6)
  assert (feed.slice_weights("none", slices.label) == 1).all() and (feed.arrays(slices)["weight"] == 1).all()


def test_contrast_raises_the_spread_and_leaves_black():
  rng = np.random.default_rng(10)
  image = np.zeros((64, 64, 3), np.uint8)
  image[8:56, 8:56] = rng.integers(90, 130, (48, 48, 3))
  for name in ("stretch", "clahe"):
    changed = contrast.make_contrast(name)(image)
    inside = lambda image: image[12:52, 12:52].astype(float)
    assert inside(changed).std() > 1.5 * inside(image).std(), name
    assert changed.dtype == np.uint8
  stretched = contrast.make_contrast("stretch")(image)
  assert not stretched[:8].any() and stretched.min() == 0 and stretched.max() == 255
  assert contrast.make_contrast("none")(image) is image


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_gives_the_batches_of_memory_from_any_step_on(builder, workers):
  index = lgg_source.read_index(builder)
  reader, ids = store.Reader.of(builder, INFO, index), [entry.id for entry in index][:30]
  slices = reader.read(ids)
  weights = feed.slice_weights("balanced", slices.label)
  groups = feed.sampling_groups("balanced", slices.label)
  rows = np.array([1, 2, 5])  # of a host that has these examples of each batch
  order = functools.partial(feed.train_indices, seed=3, batch_size=8, groups=groups)
  batches = feed.Batches(reader.read, ids, weights, order, rows)
  memory = feed.arrays(slices, weights)
  steps = list(feed.stream(batches, start=2, stop=9, workers=workers))
  assert len(steps) == 7
  for step, batch in enumerate(steps, start=2):
    indices = feed.train_indices(seed=3, step=step, batch_size=8, groups=groups)[rows]
    assert batch.keys() == memory.keys()
    for name, array in batch.items():
      np.testing.assert_array_equal(array, memory[name][indices])
      assert array.dtype == memory[name].dtype


def test_auto_feed_goes_by_size_and_says_so():
  for slices, memory, kind in ((3929, 16e9, "resident"), (3929, 4e9, "stream")):
    chosen, why = feed.choose_feed("auto", slices, INFO.slice_bytes, int(memory))
    assert chosen == kind and "3929 slices take 1.03 GB" in why  # 256 x 256 x 4 bytes each
  assert feed.choose_feed("stream", 1, INFO.slice_bytes, int(16e9))[0] == "stream"
  with pytest.raises(UserError, match="feed is 'disk', expected one of auto, resident, stream"):
    feed.choose_feed("disk", 1, 1, 1)
