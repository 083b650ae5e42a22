import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import UserError
from bt_jax.losses import cross_entropy
from bt_jax.models.layers import BatchNorm
from bt_jax.pipeline.feed import slice_weights
from bt_jax.pipeline.preprocess import UNCHANGED
from bt_jax.tasks import TASKS
from bt_jax.training import finetune
from bt_jax.training.step import make_train_step
from bt_jax.training.train_state import init_state
from tests.helpers.steps import components, options

PARAMS = {
  "encoder": {"stem": {"conv": {"kernel": jnp.ones((2, 2))}}, "stage1": {"kernel": jnp.ones((2, 2))}},
  "head": {"kernel": jnp.ones((2, 2))},
}


def test_rates_are_read_and_wrong_ones_refused():
  assert finetune.parse_rates("", PARAMS) == {}
  assert finetune.parse_rates("stem=0, stage1=0.1", PARAMS) == {"stem": 0.0, "stage1": 0.1}
  for text, said in (
    ("stage9=1", "names 'stage9', which is no stage of this network: it has stage1, stem, head"),
    ("stem", "has 'stem', expected stage=factor"),
    ("stem=-1", "has 'stem=-1', expected"),
    ("stem=nan", "has 'stem=nan', expected"),
  ):
    with pytest.raises(UserError, match=said):
      finetune.parse_rates(text, PARAMS)


def test_each_stage_steps_by_its_factor_and_a_frozen_one_not_even_by_decay():
  chain = finetune.by_stage(optax.adamw(0.1, weight_decay=0.5), {"stem": 0.0, "stage1": 0.25})
  gradient = jax.tree.map(jnp.ones_like, PARAMS)
  change, _ = chain.update(gradient, chain.init(PARAMS), PARAMS)
  whole = -0.1 * (1 + 0.5)  # Adam's first step, and decay
  np.testing.assert_allclose(change["head"]["kernel"], whole, rtol=1e-5)
  np.testing.assert_allclose(change["encoder"]["stage1"]["kernel"], 0.25 * whole, rtol=1e-5)
  assert not change["encoder"]["stem"]["conv"]["kernel"].any()
  plain = optax.sgd(0.1)
  assert finetune.by_stage(plain, {}) is plain


class Stage(nn.Module):
  unbiased: bool

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(4, (3, 3))(x)
    return nn.relu(BatchNorm(momentum=0.9, unbiased=self.unbiased)(x, use_running_average=not train))


class Encoder(nn.Module):
  unbiased: bool

  @nn.compact
  def __call__(self, x, train):
    for name in ("stem", "stage1", "stage2"):
      x = Stage(self.unbiased, name=name)(x, train)
    return x


class Small(nn.Module):
  """Three stages and a head, with batch norm as each published network keeps it."""

  unbiased: bool

  @nn.compact
  def __call__(self, x, *, train=False):
    x = Encoder(self.unbiased, name="encoder")(x, train)
    return nn.Dense(2, name="head")(x.mean((1, 2)))


@pytest.mark.parametrize("unbiased", [True, False])
def test_frozen_stages_keep_parameters_and_statistics_bit_for_bit(unbiased):
  model = Small(unbiased)
  rates = {"stem": 0.0, "stage1": 0.0}
  optimizer = finetune.by_stage(optax.sgd(0.1), rates)
  state = init_state(model, optimizer, size=32, channels=3, seed=0, average=False)
  made = components(
      model=model, task=TASKS["classification"](INFO),
      preprocess=lambda batch, augment, key: (batch["image"], batch["mask"]), augment=UNCHANGED,
      loss=lambda logits, targets: cross_entropy(logits, targets, label_smoothing=0.0), optimizer=optimizer,
      kept_statistics=set(rates),
  )  # fmt: skip
  step = make_train_step(made, options(mixup=0.3))
  data = {
      "image": jax.random.normal(jax.random.key(0), (4, 32, 32, 3)), "mask": jnp.zeros((4, 32, 32, 1)),
      "label": jnp.array([0, 1, 0, 1], jnp.int32), "weight": jnp.ones(4),
  }  # fmt: skip
  after, loss = jax.jit(step)(state, data, 1.0)
  assert np.isfinite(loss)
  for collection in ("params", "batch_stats"):
    before, now = (tree.variables[collection]["encoder"] for tree in (state, after))
    for stage in ("stem", "stage1"):
      jax.tree.map(np.testing.assert_array_equal, before[stage], now[stage])
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before["stage2"], now["stage2"])))


def test_kept_statistics_are_what_the_network_goes_by():
  model = Small(unbiased=True)
  x = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
  variables = model.init(jax.random.key(0), x)
  with nn.intercept_methods(finetune.keep_statistics(set(finetune.stages_of(variables["batch_stats"])))):
    kept, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(kept, model.apply(variables, x), rtol=1e-5)
  batch, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
  assert not np.allclose(kept, batch, rtol=1e-2)


def test_mixup_by_hand_weighs_each_label_before_mixing():
  """Three slices, of one class two and of the other one, balanced: 3 / (2 x 2) and 3 / (2 x 1)."""
  seen = []

  class Spy(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
      seen.append(x)
      return nn.Dense(2)(x.mean((1, 2)))

  model, optimizer = Spy(), optax.sgd(0.0)
  state = init_state(model, optimizer, size=8, channels=3, seed=0, average=False)
  images = jnp.ones((3, 8, 8, 3)) * jnp.array([0.0, 1.0, 5.0])[:, None, None, None]
  labels = np.array([0, 0, 1])
  weights = slice_weights("balanced", labels)
  data = {"image": images, "mask": images[..., :1], "label": jnp.asarray(labels), "weight": jnp.asarray(weights)}
  for smoothing in (0.0, 0.2):
    made = components(
        model=model, task=TASKS["classification"](INFO),
        preprocess=lambda batch, augment, key: (batch["image"], batch["mask"]), augment=UNCHANGED,
        loss=functools.partial(cross_entropy, label_smoothing=smoothing), optimizer=optimizer,
    )  # fmt: skip
    _, value = make_train_step(made, options(mixup=0.5))(state, data, jnp.float32(1.0))
    mixed = np.asarray(jax.lax.stop_gradient(seen[-1]))[:, 0, 0, 0]
    share = 1 - mixed[0] / 5
    assert 0.01 < share < 0.99 and np.ptp(weights) > 0
    np.testing.assert_allclose(mixed, [5 * (1 - share), 1, 5 * share], atol=1e-5)
    dense = state.variables["params"]["Dense_0"]
    logits = np.outer(mixed, np.asarray(dense["kernel"]).sum(0)) + np.asarray(dense["bias"])
    wrong = np.log(np.exp(logits).sum(1))[:, None] - logits  # cross-entropy of each class
    wrong = (1 - smoothing) * wrong + smoothing * wrong.mean(1, keepdims=True)
    first, second = 0.75, 1.5  # weights of the classes
    expected = [
      share * first * wrong[0, 0] + (1 - share) * second * wrong[0, 1],
      first * wrong[1, 0],
      share * second * wrong[2, 1] + (1 - share) * first * wrong[2, 0],
    ]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)
