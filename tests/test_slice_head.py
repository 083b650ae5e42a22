import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.inference import loading
from bt_jax.models import make_model
from bt_jax.models.lite_unet import MaskAndSlice
from bt_jax.runs import prediction
from bt_jax.schema import Predicted, Tumor
from bt_jax.tasks import TASKS
from bt_jax.tasks.segmentation import with_slices
from configs import common
from tests.helpers.arithmetic import chance_of, flair_logits, mean_flair_logits, network, sigmoid, volume
from tests.helpers.random_weights import random_variables
from tests.helpers.slices import make_slices


def test_loss_by_hand():
  masks = jnp.zeros((3, 2, 2, 1)).at[0, 0, 0].set(1.0).at[1].set(0.4)  # the second's faint border is not a tumour
  outputs = MaskAndSlice(jnp.full((3, 2, 2, 1), 7.0), jnp.array([2.0, 2.0, -1.0]))
  loss = with_slices(lambda logits, masks: logits.sum((1, 2, 3)) + 10 * masks.sum((1, 2, 3)))
  expected = [38 + np.log1p(np.exp(-2)), 44 + np.log1p(np.exp(2)), 28 + np.log1p(np.exp(-1))]
  np.testing.assert_allclose(loss(outputs, masks), expected, rtol=1e-6)


def test_head_takes_the_mean_and_the_highest_of_the_deepest_features():
  model = make_model(TASKS["segmentation"].models, "lite_unet", slice_head=True)
  images = jax.random.normal(jax.random.key(0), (2, 64, 32, 3))
  variables = random_variables(model, images)
  stage7 = lambda module, _: module.name == "stage7"
  outputs, seen = jax.jit(functools.partial(model.apply, capture_intermediates=stage7))(variables, images)
  (deepest,) = jax.tree.leaves(seen["intermediates"])
  assert deepest.shape == (2, 2, 1, 320)
  dense = variables["params"]["slice_head"]
  pooled = np.concatenate([np.mean(deepest, (1, 2)), np.max(deepest, (1, 2))], axis=1)
  np.testing.assert_allclose(outputs.slice, (pooled @ dense["kernel"] + dense["bias"])[:, 0], rtol=1e-4, atol=1e-5)
  # The masks are those of the same network without it.
  del variables["params"]["slice_head"]
  alone = jax.jit(make_model(TASKS["segmentation"].models, "lite_unet").apply)(variables, images)
  np.testing.assert_allclose(outputs.mask, alone, atol=1e-5)


def test_logits_go_back_to_outputs_with_the_same_probabilities():
  task = TASKS["segmentation"](INFO)
  outputs = MaskAndSlice(jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([1.0, -2.0]))
  for one, back in zip(outputs, task.as_outputs(task.tumor(outputs, 8), True), strict=True):
    np.testing.assert_allclose(one, back, atol=1e-6)
  tumor = task.tumor(outputs.mask, 8)
  np.testing.assert_array_equal(tumor.slices, tumor.pixels.max((1, 2, 3)))  # without a head: the highest pixel
  np.testing.assert_allclose(task.as_outputs(tumor, False), outputs.mask, atol=1e-6)


def test_gate_lets_through_the_asked_share_of_validation_tumours_and_empties_the_rest():
  chances = np.linspace(0, 1, 200, dtype=np.float32)
  label = np.arange(200) % 2  # a hundred with a tumour
  tumor = Tumor(np.ones((200, 2, 2, 1), np.float32), chances)
  slices = make_slices(label[:, None, None] * np.ones((1, 2, 2), int), "A" * 200)
  config = common.get_config()
  config.model.slice_head = True
  gate = prediction.choose_gate(config, [Predicted(slices, tumor)])
  assert (chances[label == 1] >= gate).sum() == 98
  emptied = prediction.gated(tumor, gate)
  np.testing.assert_array_equal(emptied.pixels.any((1, 2, 3)), chances >= gate)
  np.testing.assert_array_equal(emptied.slices, chances)
  config.model.slice_head = False
  gate = prediction.choose_gate(config, [Predicted(slices, tumor)])
  assert gate is None and prediction.gated(tumor, gate) is tumor


def headed(variables, batch):
  return Tumor(flair_logits(variables, batch)[..., None], mean_flair_logits(variables, batch))


def test_a_segmenter_with_a_head_leaves_healthy_slices_empty_by_itself():
  image = volume(4) * np.array([0.2, 0.9, 0.5, 1], np.float32)[:, None, None, None]
  probability = sigmoid((image[..., 1].mean((1, 2)) - 127.5) * 0.05)
  tumors = [0.01, 0.02, 0.03, probability[2] + 1e-3, *np.linspace(0.7, 0.9, 6)]
  alone = network(headed, slice_head=True, tumors=tumors)
  found = loading.of_networks([alone], [], sensitivity=0.7).predict(image)
  np.testing.assert_array_equal(found.gated, probability < probability[2] + 1e-3)
  assert found.gated.any() and not found.gated.all()
  assert not found.probability[found.gated].any()
  np.testing.assert_allclose(found.probability[~found.gated], chance_of(image)[~found.gated], atol=1e-6)
  np.testing.assert_allclose(found.slice_probability, probability, atol=1e-5)
  # Beside a network without a head nothing is stopped; a classifier's probabilities go before a head's.
  assert not loading.of_networks([alone, network()], []).predict(image).gated.any()
  other = lambda variables, batch: -mean_flair_logits(variables, batch)
  gate = network(other, tumors=[1 - probability[2] - 5e-4])
  behind = loading.of_networks([alone], [gate]).predict(image)
  np.testing.assert_array_equal(behind.gated, ~found.gated)
  np.testing.assert_allclose(behind.slice_probability, 1 - probability, atol=1e-5)


@pytest.mark.parametrize("tta", [False, True])
def test_what_a_network_says_of_a_slice_is_averaged_over_networks(tta):
  image = volume(2)
  found = loading.of_networks([network(slope=0.05), network(slope=0.01)], [], tta=tta).predict(image)
  if not tta:
    expected = np.mean([chance_of(image, slope).max((1, 2)) for slope in (0.05, 0.01)], axis=0)
    np.testing.assert_allclose(found.slice_probability, expected, atol=1e-5)
  assert ((found.slice_probability > 0.5) & (found.slice_probability <= 1)).all()
