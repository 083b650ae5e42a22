"""One step, however it is compiled, cut, fed or saved memory on: the same result."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.distributed import global_batch, sharding
from bt_jax.errors import UserError
from bt_jax.losses import make_loss
from bt_jax.models.layers import BatchNorm, Dropout
from bt_jax.models.unet import UNet
from bt_jax.pipeline import feed
from bt_jax.pipeline.augment import make_augment
from bt_jax.pipeline.preprocess import UNCHANGED
from bt_jax.tasks import TASKS
from bt_jax.training.step import ResidentBatches, keep_products, make_predict_step, make_resident_step, make_train_step
from bt_jax.training.train_state import init_state
from tests.helpers.slices import make_slices
from tests.helpers.steps import AUGMENT, LOSS, PREPROCESS, components, options

pytestmark = pytest.mark.slow  # what eight devices run compiles for long

STEPS, BATCH, SLICES = 4, 16, 21  # an epoch ends inside a batch


class Net(nn.Module):
  """Batch norm and dropout on the way to logits, by pixel or by slice."""

  by_slice: bool

  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.Conv(4, (3, 3))(x)
    x = nn.relu(BatchNorm(momentum=0.9, unbiased=True)(x, use_running_average=not train))
    if self.by_slice:
      return nn.Dense(2)(Dropout(0.3)(x.mean((1, 2)), train=train))
    return nn.Conv(1, (3, 3))(Dropout(0.3)(x, train=train))


@pytest.fixture(scope="module")
def examples():
  rng = np.random.default_rng(0)
  mask = np.zeros((SLICES, 64, 64), np.uint8)
  for at, (row, column) in enumerate(rng.integers(0, 40, (SLICES, 2))):
    mask[at, row : row + 20, column : column + 20] = at % 3 > 0
  image = np.clip(rng.normal(60, 10, (SLICES, 64, 64, 3)) + 120 * mask[..., None], 0, 255).astype(np.uint8)
  slices = dataclasses.replace(make_slices(mask, "ABC" * 7), image=image)
  slices.volume_mean[:], slices.volume_std[:] = image.mean((1, 2)), image.std((1, 2))
  return feed.arrays(slices, feed.slice_weights("balanced", slices.label))


def made(task="segmentation", **fields):
  """A step with everything that goes over the batch: batch norm, dropout, warps, a pooled loss or mixup, weights."""
  loss = {"segmentation": LOSS, "classification": LOSS | {"name": "cross_entropy"}}[task]
  parts = {
    "model": Net(task == "classification"), "task": TASKS[task](INFO), "preprocess": PREPROCESS,
    "augment": make_augment(**AUGMENT, info=INFO), "loss": make_loss(**loss), "optimizer": OPTIMIZER,
  }  # fmt: skip
  how = {"ema_decay": 0.9, "mixup": 0.3 * (task == "classification")}
  how |= {name: value for name, value in fields.items() if name not in parts}
  return make_train_step(components(**{name: fields.get(name, part) for name, part in parts.items()}), options(**how))


# Without an optimiser that divides by the gradient's size, where rounding would grow.
OPTIMIZER = optax.sgd(0.5, momentum=0.9)


@functools.cache
def first(task="segmentation"):
  init = functools.partial(
    init_state, Net(task == "classification"), OPTIMIZER, size=32, channels=3, seed=0, average=True
  )
  return jax.device_get(jax.jit(init)())


def indices(step):
  return feed.train_indices(seed=0, step=step, batch_size=BATCH, groups=[np.arange(SLICES)])


def run(step, mesh, examples, how="jit", task="segmentation"):
  compiled = sharding.compile_step(how, step, mesh, cut=(False, True, False), train=True)
  state, losses = jax.device_put(first(task), sharding.replicated(mesh)), []
  for number in range(STEPS):
    batch = {name: array[indices(number)] for name, array in examples.items()}
    state, loss = compiled(state, sharding.lay_out(mesh, batch, BATCH), 0.1)
    losses.append(float(loss))
  return losses, jax.device_get(state)


@pytest.fixture(scope="module")
def alone(examples):
  """The run on one device."""
  return run(made(), mesh_of(1), examples)


def assert_same(one, other, atol=1e-5):
  np.testing.assert_allclose(one[0], other[0], rtol=1e-4)
  for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
    np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4)


@functools.cache
def mesh_of(count):
  return sharding.make_mesh(jax.devices()[:count])


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_jit_and_pmap_on_eight_devices_agree_with_one(examples, alone, task):
  if task == "classification":
    alone = run(made(task), mesh_of(1), examples, task=task)
  assert len(set(alone[0])) == STEPS
  for how in ("jit", "pmap"):
    assert_same(alone, run(made(task), mesh_of(8), examples, how, task))


@pytest.mark.parametrize("how", ["jit", "pmap"])
def test_several_steps_at_once_are_those_steps(examples, alone, how):
  mesh = mesh_of(8)
  data = jax.device_put(examples, sharding.replicated(mesh))
  compiled = sharding.compile_step(
    how,
    make_resident_step(made()),
    mesh,
    cut=(False, ResidentBatches(slices=False, indices=True, count=False), False),
    train=True,
  )
  state, done, losses = jax.device_put(first(), sharding.replicated(mesh)), 0, []
  for count in (1, 3):  # one program for both
    batches = np.stack([indices(done + min(at, count - 1)) for at in range(3)], axis=1)
    state, loss = compiled(state, ResidentBatches(data, batches, np.int32(count)), np.full(3, 0.1, np.float32))
    done += count
    losses.append(float(loss))
  assert_same(([alone[0][0], alone[0][3]], alone[1]), (losses, jax.device_get(state)))


@pytest.mark.parametrize("how", ["jit", "pmap"])
def test_predictions_on_eight_devices_are_those_of_one(examples, how):
  state = first()
  predict = make_predict_step(model=Net(False), task=TASKS["segmentation"](INFO), preprocess=PREPROCESS)
  batch = {name: array[:BATCH] for name, array in examples.items()}
  compiled = sharding.compile_step(how, predict, mesh_of(8), cut=(False, True), cut_out=True)
  logits = compiled(
    jax.device_put(state.variables, sharding.replicated(mesh_of(8))), sharding.lay_out(mesh_of(8), batch, BATCH)
  )
  assert logits.pixels.shape == (BATCH, 64, 64, 1) and logits.slices.shape == (BATCH,)
  alone = jax.jit(predict)(state.variables, batch)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), sharding.fetch(logits), alone)


class Plain(nn.Module):
  @nn.compact
  def __call__(self, x, *, train=False):
    return nn.Conv(1, (3, 3))(nn.relu(nn.Conv(4, (3, 3))(x)))


@pytest.mark.parametrize("devices", [1, 8])
def test_gradients_of_microbatches_add_up_to_that_of_the_batch(examples, devices):
  """Where nothing looks at the batch as a whole: no batch norm, a loss by slice, nothing random."""
  plain = {
      "model": Plain(), "augment": UNCHANGED, "loss": make_loss(**LOSS | {"pooled": False}),
  }  # fmt: skip
  state = init_state(Plain(), OPTIMIZER, size=32, channels=3, seed=0, average=False)
  batch = {name: array[:BATCH] for name, array in examples.items()}
  results = []
  for pieces in (1, 2):
    mesh = mesh_of(devices)
    compiled = sharding.compile_step("jit", made(**plain, accumulate=pieces), mesh, cut=(False, True, False))
    after, loss = compiled(jax.device_put(state, sharding.replicated(mesh)), sharding.lay_out(mesh, batch, BATCH), 0.1)
    results.append(([float(loss)], jax.device_get(after)))
  assert_same(*results)


def test_batch_norm_of_microbatches_moves_its_statistics_by_each_in_turn(examples):
  batch = {name: array[:BATCH] for name, array in examples.items()}
  plain = {"augment": UNCHANGED}
  whole_step, step = (jax.jit(made(**plain, accumulate=pieces)) for pieces in (2, 1))
  together, _ = whole_step(first(), batch, 0.0)  # at a rate of 0 the parameters stay
  state = first()
  for piece in (0, 1):
    state, _ = step(state, {name: array[piece::2] for name, array in batch.items()}, 0.0)
  before, after, expected = (one.variables["batch_stats"] for one in (first(), together, state))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), after, expected)
  assert not any(np.allclose(x, y) for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
  assert_same(run(made(accumulate=2), mesh_of(8), examples), run(made(accumulate=2), mesh_of(8), examples, "pmap"))


def test_computing_again_is_the_same_and_keeps_less(examples, alone):
  assert_same(alone, run(made(remat=True), mesh_of(1), examples))
  net = UNet(width=4, depth=2)
  images = jnp.ones((2, 32, 32, 3))
  variables = jax.jit(net.init)(jax.random.key(0), images)
  forward = lambda variables: net.apply(variables, images, train=True, mutable=["batch_stats"])[0]
  plain, again = (
    sum(kept.size for kept in jax.tree.leaves(jax.vjp(function, variables)[1]))
    for function in (forward, keep_products(forward))
  )
  assert again < 0.7 * plain


@pytest.mark.parametrize("count", [1, 8])
def test_keys_and_order_do_not_depend_on_how_the_batch_is_cut(count):
  key, x = jax.random.key(3), jnp.arange(16.0)
  expected = [jax.random.bits(one) for one in jax.random.split(key, 16)]
  cut = lambda function: jax.pmap(function, axis_name=global_batch.AXIS, devices=jax.devices()[:count])
  got = cut(lambda x: jax.vmap(jax.random.bits)(global_batch.keys(key, len(x))))(x.reshape(count, -1))
  np.testing.assert_array_equal(got.ravel(), expected)
  np.testing.assert_array_equal(cut(global_batch.reverse)(x.reshape(count, -1)).ravel(), x[::-1])
  assert float(cut(lambda x: global_batch.total(x.sum()))(x.reshape(count, -1))[0]) == 120


@pytest.mark.parametrize(
  ("batch_size", "said"), [(0, "8 or more"), (-3, "8 or more"), (12, "8 or 16"), (7, "8 or more")]
)
def test_batch_that_does_not_divide_over_the_devices(batch_size, said):
  with pytest.raises(UserError, match=f"train.batch_size is {batch_size}, .*take {said}"):
    sharding.check_batch_size(mesh_of(8), "train.batch_size", batch_size)
  sharding.check_batch_size(mesh_of(8), "train.batch_size", 16)


def test_microbatches_need_batches_that_divide_by_them_too():
  with pytest.raises(UserError, match=r"number of devices \(8\) times train.accumulate \(2\): take 16 or 32"):
    sharding.check_batch_size(mesh_of(8), "train.batch_size", 24, 2)
