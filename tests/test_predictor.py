"""Predictions of networks that are plain arithmetic, so that what comes out can be worked out by hand."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import ndimage

import bt_jax
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import UserError
from bt_jax.evaluation.calibration import calibrate
from bt_jax.inference import jax_export, loading, ood
from bt_jax.inference.ensemble import views
from bt_jax.inference.networks import View
from bt_jax.inference.predictor import of_array
from bt_jax.pipeline.contrast import stretch
from bt_jax.pipeline.preprocess import make_preprocess
from bt_jax.scans import resampling
from bt_jax.tasks import TASKS
from bt_jax.training.step import make_predict_step
from tests.helpers.arithmetic import (
  chance_of,
  flair_logits,
  mean_flair_logits,
  network,
  next_flair_logits,
  sigmoid,
  statistics_logits,
  volume,
)


def test_a_network_says_of_each_slice_what_it_says_of_it_alone():
  image = volume(43)  # a batch of 32 and smaller ones, on eight devices
  found = loading.of_networks([network()], []).predict(image)
  np.testing.assert_allclose(found.probability, chance_of(image), atol=1e-6)
  np.testing.assert_array_equal(found.mask, found.probability >= 0.5)
  np.testing.assert_allclose(found.slice_probability, chance_of(image).max((1, 2)), atol=1e-6)
  assert found.disagreement is None and found.members.shape == (1, 43, 256, 256) and not found.gated.any()


@pytest.mark.parametrize("contrast", ["none", "stretch"])
def test_a_scan_is_resampled_once_to_the_grid_and_once_back(monkeypatch, contrast):
  """Where contrast is enhanced, as in training, on the grid of the stored slices, it is resampled from there once more."""
  resampled = []

  def counted(function):
    def call(image, shape, *arguments):
      resampled.append((image.shape[1:3], tuple(shape[1:3])))
      return function(image, shape, *arguments)

    return call

  for name in ("resize", "scale_and_translate"):
    monkeypatch.setattr(jax.image, name, counted(getattr(jax.image, name)))
  preprocess = make_preprocess(size=40, normalize="unit", channels="flair", info=INFO)
  logits = make_predict_step(model=Plain(), task=TASKS["segmentation"](INFO), preprocess=preprocess)
  size = 40 if contrast == "none" else INFO.size
  of_40 = dataclasses.replace(
    network(), view=View(size, contrast), logits=logits, variables={"params": {"none": jnp.zeros(())}}
  )
  mask = loading.of_networks([of_40], []).predict(volume(2)[:, :50, :60]).mask
  assert mask.shape == (2, 50, 60)
  own, stored = (50, 60), (INFO.size, INFO.size)
  once = [(own, (40, 40)), ((40, 40), own)]
  assert resampled == (
    once if contrast == "none" else [(own, stored), (stored, (40, 40)), ((40, 40), stored), (stored, own)]
  )


class Plain(nn.Module):
  """Intensities as logits."""

  def __call__(self, x, *, train=False):
    return x


NEIGHBOURS = "flair,flair-1,flair+1"


def test_neighbours_are_those_of_the_volume_whatever_batch_they_are_in():
  image = volume(43)  # in batches of 32, 8 and 1
  found = loading.of_networks([network(next_flair_logits, channels=NEIGHBOURS), network()], []).predict(image)
  after = np.concatenate([image[1:], image[-1:]])  # the last slice repeats
  np.testing.assert_allclose(found.probability, (chance_of(after) + chance_of(image)) / 2, atol=1e-6)
  single = loading.of_networks([network(next_flair_logits, channels=NEIGHBOURS)], [])
  with pytest.raises(UserError, match="has 1 slice, and these networks look at neighbours 1 away"):
    single.predict(image[:1])


def test_flair_alone_is_reliable_only_for_networks_that_were_trained_on_it():
  flair = volume()[..., 1]
  for drops, expected in ((True, []), (False, ["FLAIR alone, on which these networks were not trained"])):
    found = loading.of_networks([network(drops=drops)], []).predict(flair)
    alone = [warning for warning in found.warnings if "FLAIR alone" in warning]
    assert [warning.split(":")[0] for warning in alone] == expected
    assert found.looks_wrong or drops
  whole = loading.of_networks([network(drops=False)], []).predict(volume())
  assert not [warning for warning in whole.warnings if "FLAIR alone" in warning]


def test_statistics_are_those_of_the_whole_volume():
  image = volume(37) * np.linspace(0.2, 1, 37, dtype=np.float32)[:, None, None, None]
  found = loading.of_networks([network(statistics_logits)], []).predict(image)
  expected = sigmoid(0.05 * image[..., 1].mean(dtype=np.float64) / image[..., 1].std(dtype=np.float64))
  np.testing.assert_allclose(found.probability, expected, rtol=1e-5)


def test_an_ensemble_averages_probabilities_and_keeps_each_mask():
  image = volume()
  members = [
    network(threshold=0.4),
    network(slope=-0.02, threshold=0.6),
    network(statistics_logits, 0.1, threshold=0.8),
  ]
  found = loading.of_networks(members, []).predict(image)
  chances = {slope: chance_of(image, slope) for slope in (0.05, -0.02)}
  third = sigmoid(0.1 * image[..., 1].mean(dtype=np.float64) / image[..., 1].std(dtype=np.float64))
  np.testing.assert_allclose(found.probability, (chances[0.05] + chances[-0.02] + third) / 3, atol=1e-6)
  each = np.stack([*chances.values(), np.full(image.shape[:3], third)])
  np.testing.assert_allclose(found.disagreement, each.std(0), atol=1e-6)
  assert found.threshold == pytest.approx(0.6)  # the mean of theirs
  for member, probability in zip(found.members, (*chances.values(), np.full(image.shape[:3], third)), strict=True):
    sure = abs(probability - 0.6) > 1e-6
    np.testing.assert_array_equal(member[sure], (probability >= 0.6)[sure])


def test_the_classifier_leaves_healthy_slices_empty():
  image = volume(4) * np.array([0.2, 0.9, 0.5, 1], np.float32)[:, None, None, None]
  probability = sigmoid((image[..., 1].mean((1, 2)) - 127.5) * 0.05)
  # Of the ten tumours of validation, a sensitivity of 0.7 lets the seven highest through.
  tumors = [0.01, 0.02, 0.03, probability[2] + 1e-3, *np.linspace(0.7, 0.9, 6)]
  gate = network(mean_flair_logits, tumors=tumors, temperature=2.0)
  found = loading.of_networks([network()], [gate], sensitivity=0.7).predict(image)
  np.testing.assert_array_equal(found.gated, probability < probability[2] + 1e-3)
  assert found.gated.any() and not found.gated.all()
  assert not found.probability[found.gated].any() and not found.members[:, found.gated].any()
  np.testing.assert_allclose(found.probability[~found.gated], chance_of(image)[~found.gated], atol=1e-6)
  np.testing.assert_allclose(found.slice_probability, calibrate(probability, 2.0), atol=1e-5)


def test_augmentation_averages_what_is_seen_from_each_side():
  """The network marks what lies left of what is bright, so that sides matter."""
  left = lambda variables, batch: flair_logits(variables, {"image": jnp.roll(batch["image"], -9, axis=2)})
  image = ndimage.gaussian_filter(volume(2), (0, 5, 5, 0))
  image = (image - image.min()) / np.ptp(image) * 255
  found = loading.of_networks([network(left)], [], tta=True).predict(image)
  middle, expected = np.array([127.5, 127.5]), []
  turn = lambda slices, matrix: np.stack(
    [ndimage.affine_transform(one, matrix, middle - matrix @ middle, order=1, mode="constant") for one in slices]
  )
  for view in views():
    seen = turn(image[..., 1], view)
    expected.append(sigmoid(turn((np.roll(seen, -9, axis=2) - 127.5) * 0.05, view.T)))
  inside = (slice(None), slice(60, 196), slice(60, 196))
  np.testing.assert_allclose(found.probability[inside], np.mean(expected, axis=0)[inside], atol=2e-3)
  np.testing.assert_allclose(found.disagreement[inside], np.std(expected, axis=0)[inside], atol=2e-3)
  plain = loading.of_networks([network(left)], []).predict(image)
  assert plain.disagreement is None
  assert abs(plain.probability[inside] - found.probability[inside]).max() > 0.02


def test_contrast_is_raised_for_those_that_learned_so():
  image = np.round(volume() * 0.3 + 20)
  found = loading.of_networks([network(contrast="stretch", slope=0.01), network()], []).predict(image)
  raised = np.stack([stretch(one) for one in image.astype(np.uint8)])
  np.testing.assert_allclose(found.probability, (chance_of(raised, 0.01) + chance_of(image)) / 2, atol=1e-6)


def test_only_the_largest_part_is_kept_where_all_networks_do():
  image = np.zeros((3, 256, 256, 3), np.float32)
  image[:, 10:20, 10:20] = image[1, 100:110, 100:110] = 255
  image[0, 0, 0] = 1
  large = np.zeros((3, 256, 256), bool)
  large[:, 10:20, 10:20] = True
  alone = loading.of_networks([network(largest=True)], []).predict(image)
  np.testing.assert_array_equal(alone.mask, large)
  mixed = loading.of_networks([network(largest=True), network()], []).predict(image)
  assert mixed.mask.sum() == large.sum() + 100


def test_a_scan_of_the_size_of_the_network_is_not_resampled():
  """Noise, of which any interpolation would take away."""
  image, small = volume(3, 64, 64), dataclasses.replace(network(), view=View(64))
  found = loading.of_networks([small], []).predict(image)
  np.testing.assert_allclose(found.probability, chance_of(image), atol=1e-6)
  export = jax_export.make_function([small], [], loading.of_networks([small], []).decision)(jnp.asarray(image))
  np.testing.assert_allclose(export["probability"], chance_of(image), atol=1e-5)
  other = volume(3, 64, 64, seed=1)
  both = loading.of_networks([small, network()], []).predict(other)  # each on the grid of its own
  alone = [loading.of_networks([one], []).predict(other).probability for one in (small, network())]
  assert abs(alone[0] - alone[1]).max() > 0.02
  np.testing.assert_allclose(both.probability, np.mean(alone, axis=0), atol=1e-6)


def test_statistics_count_the_black_that_makes_a_scan_square():
  """As those of the data set, whose slices are square."""
  image = volume(4, 60, 200)
  padded = np.zeros((4, 200, 200, 3), np.float32)
  padded[:, 70:130] = image
  for measured, expected in zip(resampling.statistics(image), resampling.statistics(padded), strict=True):
    np.testing.assert_allclose(measured, expected, rtol=1e-5)
  taller = np.repeat(image, 2, axis=1)  # the same, its rows half as high
  for measured, expected in zip(resampling.statistics(taller, 0.5), resampling.statistics(image), strict=True):
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


@pytest.mark.parametrize(
  "shape, spacing", [((5, 128, 128), None), ((2, 300, 200), (5.0, 1.0, 1.0)), ((4, 60, 240), (1.0, 4.0, 1.0))]
)
def test_the_mask_lies_on_the_scans_own_grid(shape, spacing):
  _, height, width = shape
  truth = np.zeros(shape, bool)
  truth[1, height // 4 : height // 2, width // 3 : width // 2] = True
  flair = truth * 900.0 - 1000  # in a scale of its own
  flair[:, -1, -1] = -1090
  found = loading.of_networks([network()], []).predict(flair, spacing_mm=spacing)
  assert found.mask.shape == shape
  assert 2 * (found.mask & truth).sum() / (found.mask.sum() + truth.sum()) > 0.95
  np.testing.assert_allclose(np.argwhere(found.mask).mean(0), np.argwhere(truth).mean(0), atol=0.3)


def test_flair_stands_in_and_the_output_says_so():
  found = loading.of_networks([network()], []).predict(volume()[..., 1])
  assert any("FLAIR stands in" in warning for warning in found.warnings)


def test_members_are_cleaned_as_the_mask_is():
  image = np.zeros((2, 256, 256, 3), np.float32)
  image[:, 10:20, 10:20] = image[1, 100:110, 100:110] = 255
  found = loading.of_networks([network(largest=True), network(slope=0.04, largest=True)], []).predict(image)
  assert found.mask.sum() == 200 and [member.sum() for member in found.members] == [200, 200]


def test_the_checks_beside_the_networks_are_those_of_the_scan_alone():
  net = network(drops=False)
  for image in (volume(5), np.repeat(volume(5)[..., :1], 3, axis=-1), volume(5) - 1000):
    found = loading.of_networks([net], []).predict(image)
    alone = ood.warnings(image[..., INFO.reference_index], net.profile)
    expected = alone + ["FLAIR alone"] * ood.is_reference_alone(image, INFO.reference_index)
    assert len(found.warnings) == len(expected) and found.warnings[: len(alone)] == alone
    assert found.looks_wrong == bool(expected)


def test_a_scan_unlike_training_is_reported():
  odd = loading.of_networks([network()], []).predict(volume(6) * 8 - 1024)
  assert odd.looks_wrong and any("CT" in warning for warning in odd.warnings)
  scan = dataclasses.replace(of_array(volume(6), INFO), ood_warnings=["this is a knee"])
  found = loading.of_networks([network()], []).predict(scan)
  assert found.looks_wrong and "this is a knee" in found.warnings


def test_memory_that_does_not_suffice_is_one_line():
  def fails(image, aspect):
    raise MemoryError
    yield

  predictor = dataclasses.replace(loading.of_networks([network()], []), segment=fails)
  with pytest.raises(UserError, match=r"memory does not suffice for the array \(3 x 256 x 256 voxels\)"):
    predictor.predict(volume())


@pytest.mark.parametrize(
  "given, options, message",
  [
    (np.zeros((2, 8, 8, 3)), {}, "constant"),
    (np.full((2, 8, 8), np.nan), {}, "not finite"),
    (np.zeros((8, 8)), {}, r"shape \(8, 8\)"),
    (np.zeros((0, 8, 8)), {}, "no pixel"),
    (np.zeros((1, 2, 9000)), {}, "larger than any MRI"),
    (np.zeros((3000, 2, 2)), {}, "3000 axial slices"),
    (np.array([["a"]]), {}, "expected real numbers"),
    (volume(), {"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm"),
  ],
)
def test_arrays_that_are_no_volume(given, options, message):
  with pytest.raises(UserError, match=message):
    loading.of_networks([network()], []).predict(given, **options)


@pytest.mark.parametrize(
  "channels, count, message",
  [
    (("t1", "t2", "adc"), 3, "was read as pre, flair, post, and these networks were trained on t1, t2, adc"),
    (("t1", "t2", "adc", "swi"), 4, "constant in swi"),
  ],
)
def test_networks_of_other_channels_take_neither_lggs_nor_one_of_a_single_value(channels, count, message):
  other = dataclasses.replace(INFO, name="other", channels=channels, reference=channels[0])
  predictor = loading.of_networks([network(info=other, channels="all")], [])
  scan = of_array(volume(), INFO)
  flat = np.stack([volume()[..., 1]] * (count - 1) + [np.full(volume().shape[:3], 7)], axis=-1)
  refused = []
  for given in (scan, flat):
    with pytest.raises(UserError) as error:
      predictor.predict(given)
    refused.append(str(error.value))
  assert re.search(message, "; ".join(refused)) and f"constant in {channels[-1]}" in refused[1].lower()


def test_an_array_of_one_channel_is_that_of_networks_of_one():
  other = dataclasses.replace(INFO, name="other", channels=("t1",), reference="t1")
  image = volume()[..., 1]
  assert of_array(image, other).image.shape == (*image.shape, 1)
  with pytest.raises(UserError, match=r"expected \[slices, height, width, 2\]$"):
    of_array(image, dataclasses.replace(other, channels=("t1", "t2")))


def test_a_sensitivity_without_a_classifier_is_refused():
  with pytest.raises(UserError, match=r"sensitivity is 0.5, and has no effect.*name a classifier"):
    loading.of_networks([network()], [], sensitivity=0.5)
  assert loading.of_networks([network()], [network()], sensitivity=0.5).decision.gate is not None


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.5}, {"sensitivity": -1.0}])
def test_options_that_are_no_share(options):
  with pytest.raises(UserError, match="expected more than 0 and at most 1"):
    loading.of_networks([network()], [], **options)


def test_a_run_from_python(run, tmp_path):
  folder, _ = run
  predictor = bt_jax.load(folder, tta=True)
  image = volume(2)
  found = predictor.predict(image)
  assert found.mask.shape == (2, 256, 256) and found.about["tta"] and found.about["segmenters"][0]["model"] == "unet"
  with pytest.raises(UserError, match="no sequence 't1'"):
    bt_jax.read(flair="x.nii", t1="y.nii")
  with pytest.raises(UserError, match="numpy.save"):
    bt_jax.save(found, tmp_path / "out")
  assert not (tmp_path / "out").exists()
  again = bt_jax.load([folder / "checkpoints" / "best"], tta=True).predict(image)
  np.testing.assert_array_equal(again.probability, found.probability)
