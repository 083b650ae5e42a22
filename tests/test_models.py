import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bt_jax.errors import UserError
from bt_jax.models import MODELS, cnn, encoder_of, layers, resnet, unet
from tests.helpers.launching import ROOT
from tests.helpers.random_weights import random_variables


def init(model, size=16):
  return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))


def parameters(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def by_hand(width, depth):
  """Parameters of a U-Net: 3 x 3 convolutions without bias, scale and shift of batch norm, biased up-convolutions."""
  block = lambda inputs, outputs: 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs
  widths = [width * 2**level for level in range(depth + 1)]
  total = block(3, width) + sum(block(a, b) for a, b in itertools.pairwise(widths))
  total += sum(4 * b * a + a + block(2 * a, a) for a, b in itertools.pairwise(widths))
  return total + width + 1


@pytest.mark.parametrize(("width", "depth"), [(8, 4), (4, 2), (32, 4)])
def test_parameter_count(width, depth):
  model = MODELS["unet"](width=width, depth=depth)
  variables = jax.eval_shape(lambda: init(model))
  assert parameters(variables["params"]) == by_hand(width, depth)


def test_width_32_is_as_large_as_the_public_pytorch_unet():
  assert by_hand(32, 4) == 7_763_041  # mateuszbuda/brain-segmentation-pytorch, 3 channels in, 1 out


def test_logits_have_the_inputs_size_in_float32_whatever_the_computation():
  for dtype in (jnp.float32, jnp.bfloat16):
    model = unet.UNet(width=4, depth=2, dtype=dtype)
    variables = init(model)
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, updates = train(variables, jnp.ones((2, 24, 16, 3)))
    assert logits.shape == (2, 24, 16, 1) and logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves([variables, updates])} == {jnp.dtype("float32")}


def test_every_skip_connection_is_used():
  model = unet.UNet(width=4, depth=3)
  variables = init(model)
  x = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
  apply = jax.jit(model.apply)
  whole = apply(variables, x)
  for level in (1, 2, 3):
    # The decoder's first convolution reads the skip in its first channels: without those weights the skip is gone.
    kernel = variables["params"][f"decoder{level}"]["conv1"]["kernel"]
    assert kernel.shape[2] == 2 * 4 * 2 ** (level - 1)
    cut = jax.tree.map(lambda leaf: leaf, variables)
    cut["params"][f"decoder{level}"]["conv1"]["kernel"] = kernel.at[:, :, : kernel.shape[2] // 2].set(0)
    assert not np.allclose(apply(cut, x), whole, atol=1e-4), level


def test_translation_by_the_deepest_stride_commutes():
  model = unet.UNet(width=4, depth=2)
  variables = init(model)
  x = jnp.zeros((1, 48, 48, 3)).at[0, 20:24, 20:24].set(1.0)
  apply = jax.jit(model.apply)
  moved = apply(variables, jnp.roll(x, (4, 8), (1, 2)))
  np.testing.assert_allclose(
    moved[0, 16:40, 16:40], jnp.roll(apply(variables, x), (4, 8), (1, 2))[0, 16:40, 16:40], atol=1e-4
  )


def test_up_convolution_is_the_transposed_convolution():
  layer = layers.UpConv2x2(5)
  x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
  variables = layer.init(jax.random.key(1), x)
  kernel = variables["params"]["kernel"]
  expected = jax.lax.conv_transpose(
    x, kernel.transpose(1, 2, 3, 0), (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True
  )
  np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


def test_pooling_is_max_pooling_and_so_is_its_gradient():
  x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
  expected = lambda x: nn.max_pool(x, (2, 2), (2, 2))
  np.testing.assert_array_equal(layers.max_pool_2x2(x), expected(x))
  gradients = [jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (layers.max_pool_2x2, expected)]
  np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_pooling_hands_each_gradient_to_one_pixel_of_its_window_also_where_they_are_equal():
  x = jnp.round(jax.random.normal(jax.random.key(0), (2, 8, 8, 3)))  # many equal pixels
  weight = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
  gradient = jax.grad(lambda x: (layers.max_pool_2x2(x) * weight).sum())(x)
  windows = gradient.reshape(2, 4, 2, 4, 2, 3).transpose(0, 1, 3, 5, 2, 4).reshape(2, 4, 4, 3, 4)
  assert ((windows != 0).sum(-1) == 1).all()
  np.testing.assert_allclose(windows.sum(-1), weight)


@pytest.mark.parametrize(
  ("size", "depth", "said"), [(100, 4, "96 or 112"), (8, 4, "to 16$"), (0, 2, "to 4$"), (34, 2, "32 or 36")]
)
def test_size_that_does_not_divide_names_the_next(size, depth, said):
  with pytest.raises(UserError, match=said):
    layers.check_size(jnp.zeros((1, size, size, 3)), depth)
  with pytest.raises(UserError, match=f"{size} pixels cannot be halved {depth} times"):
    jax.eval_shape(lambda: init(unet.UNet(width=2, depth=depth), size))


@pytest.mark.parametrize(("size", "depth"), [(96, 4), (112, 4), (16, 4), (36, 2)])
def test_sizes_that_divide(size, depth):
  layers.check_size(jnp.zeros((1, size, size, 3)), depth)
  model = unet.UNet(width=2, depth=depth)
  shape = jax.eval_shape(lambda: model.apply(init(model, size), jnp.zeros((1, size, size, 3)))).shape
  assert shape == (1, size, size, 1)


def documented():
  """From the table of docs/models.md: model and options, parameters, statistics."""
  text = (ROOT / "docs/models.md").read_text()
  for name, options, params, statistics in re.findall(r"^\| `(\w+)` \| (.*?) \| ([\d,]+) \| ([\d,]+) \|$", text, re.M):
    fields = dict(field.strip("` ").split("=") for field in options.split(",") if "=" in field)
    yield (
      name,
      {k: int(v) if v.isdigit() else v for k, v in fields.items()},
      *(int(count.replace(",", "")) for count in (params, statistics)),
    )


@pytest.mark.parametrize("row", list(documented()), ids=lambda row: f"{row[0]} {row[1]}")
def test_parameter_counts_are_those_of_the_table(row):
  name, options, params, statistics = row
  variables = jax.eval_shape(lambda: init(MODELS[name](**options), 256))
  assert (parameters(variables["params"]), parameters(variables["batch_stats"])) == (params, statistics)


def test_the_table_has_every_model_and_the_published_counts():
  rows = list(documented())
  assert {name for name, *_ in rows} == set(MODELS)
  counts = {(name, *sorted(map(str, options.values()))): (params, stats) for name, options, params, stats in rows}
  assert counts["resnet50", "1000"] == (25_557_032, 53_120)  # torchvision's own count
  assert sum(counts["resnet50", "1000", "keras"]) == 25_636_712  # keras.applications' own count
  assert counts["lite", "1000", "lite0"] == (4_652_008, 42_016)  # the count of efficientnet_lite_pytorch
  assert sum(counts["resunet_scratch",]) == 1_210_513 and counts["resunet_scratch",][0] == 1_206_129


@pytest.mark.parametrize("name", [pytest.param("resunet", marks=pytest.mark.slow), "resunet_scratch", "lite_unet"])
def test_every_skip_connection_of_the_residual_networks_is_used(name):
  model = MODELS[name](**({"width": 4} if name == "resunet_scratch" else {}))
  x = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))
  variables = random_variables(model, x)
  apply = jax.jit(model.apply)
  whole = apply(variables, x)
  assert whole.shape == (1, 64, 64, 1)
  features = {
    "resunet": {5: 1024, 4: 512, 3: 256, 2: 64},
    "resunet_scratch": {4: 32, 3: 16, 2: 8, 1: 4},
    "lite_unet": {4: 112, 3: 40, 2: 24, 1: 16},
  }[name]
  for level, channels in features.items():
    cut = jax.tree.map(lambda leaf: leaf, variables)
    block = cut["params"][f"decoder{level}"]
    # The skip is read by the decoder's first convolution (of resunet: in its first channels; of the others: in their
    # last, and of resunet_scratch by the shortcut too).
    for layer in ("conv1", "shortcut_conv") if name == "resunet_scratch" else ("conv1",):
      kernel = block[layer]["kernel"]
      place = slice(0, channels) if name == "resunet" else slice(kernel.shape[2] - channels, None)
      assert kernel.shape[2] > channels
      block[layer]["kernel"] = jnp.asarray(kernel).at[:, :, place].set(0)
    assert not np.allclose(apply(cut, x), whole, atol=1e-5), level


@pytest.mark.parametrize("size", [64, 95])
@pytest.mark.parametrize("variant", resnet.VARIANTS)
def test_stages_of_resnet50_have_the_published_strides_and_channels(variant, size):
  model = resnet.ResNet50(variant=variant)
  shapes = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, size, size, 3)))[0])
  halved = size
  for name, channels in zip(resnet.STAGES, (64, 256, 512, 1024, 2048), strict=True):
    halved = -(-halved // 2)  # the stem's picture is pooled before stage 1
    assert shapes[name].shape == (1, halved, halved, channels), name


def test_unbiased_running_variance_by_hand():
  x = jax.random.normal(jax.random.key(0), (3, 2, 2, 5)) * 3 + 1
  for unbiased in (False, True):
    layer = layers.BatchNorm(momentum=0.9, unbiased=unbiased)
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    _, after = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    expected = 0.9 + 0.1 * np.asarray(x).reshape(-1, 5).var(0, ddof=int(unbiased))
    np.testing.assert_allclose(after["batch_stats"]["var"], expected, rtol=1e-5)


def test_head_of_the_paper_by_hand():
  x = jax.random.normal(jax.random.key(0), (2, 8, 9, 6))
  head = resnet.PaperHead(classes=2)
  variables = head.init(jax.random.key(1), x)
  dense = variables["params"]
  pooled = np.asarray(x)[:, :, :8].reshape(2, 2, 4, 2, 4, 6).mean((2, 4)).reshape(2, -1)
  for name in ("dense1", "dense2"):
    pooled = np.maximum(pooled @ dense[name]["kernel"] + dense[name]["bias"], 0)
  expected = pooled @ dense["dense3"]["kernel"] + dense["dense3"]["bias"]
  np.testing.assert_allclose(head.apply(variables, x), expected, atol=1e-4)
  dropped = head.apply(variables, x, train=True, rngs={"dropout": jax.random.key(2)})
  assert not np.allclose(dropped, expected, atol=1e-4)
  with pytest.raises(UserError, match="means of 4 x 4 pixels and gets 3 x 3: set data.size to 128"):
    head.init(jax.random.key(1), jnp.zeros((1, 3, 3, 6)))


def test_pooling_of_the_cnn_by_hand():
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  windows = np.arange(16.0).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(2, 2, 4)
  for name, function in (("max", np.max), ("average", np.mean), ("min", np.min)):
    np.testing.assert_allclose(cnn.POOLS[name](x)[0, :, :, 0], function(windows, -1))
    # Equations 2 and 4 of the paper, the latter with its + 1: (4 - 2) / 2 + 1 = 2.
    assert cnn.POOLS[name](x).shape[1] == (4 - 2) // 2 + 1
  with pytest.raises(UserError, match="model.pool is 'median', expected one of max, average, min"):
    init(cnn.CNN(pool="median", depth=2))


def test_batch_norm_keeps_its_digits_where_the_mean_is_large():
  """A thousand deviations from 0, and close to what earlier batches were; against float64."""
  x = jnp.asarray(1000 + np.random.default_rng(0).normal(size=(8, 32, 32, 2)), jnp.float32)
  norm = layers.BatchNorm(momentum=0.9)
  variables = norm.init(jax.random.key(0), x, use_running_average=False)
  statistics = {"mean": jnp.array([1001.0, 998.0]), "var": jnp.ones(2)}
  out, updates = norm.apply(
    variables | {"batch_stats": statistics}, x, use_running_average=False, mutable=["batch_stats"]
  )
  exact = np.asarray(x, np.float64)
  mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
  kept = updates["batch_stats"]
  np.testing.assert_allclose((kept["var"] - 0.9) / 0.1, var, rtol=1e-4)
  np.testing.assert_allclose(kept["mean"], 0.9 * np.asarray(statistics["mean"]) + 0.1 * mean, rtol=1e-6)
  np.testing.assert_allclose(out, (exact - mean) / np.sqrt(var + 1e-5), atol=1e-3)


def test_gradient_of_batch_norm_is_that_of_its_formula():
  keys = jax.random.split(jax.random.key(0), 4)
  x = 3 * jax.random.normal(keys[0], (4, 5, 6, 3)) + 2
  scale, bias, weight = (
    jax.random.normal(key, shape) for key, shape in zip(keys[1:], ((3,), (3,), x.shape), strict=True)
  )

  def by_formula(x, scale, bias):
    return (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-3) * scale + bias

  def ours(x, scale, bias):
    return layers.normalize(x, scale, bias, jnp.ones(3), 1e-3)[0]

  wanted, got = (
    jax.grad(lambda *inputs, f=f: (weight * jnp.sin(f(*inputs))).sum(), (0, 1, 2))(x, scale, bias)
    for f in (by_formula, ours)
  )
  for one, other in zip(wanted, got, strict=True):
    np.testing.assert_allclose(other, one, atol=2e-5 * float(jnp.abs(one).max()))


@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (32, 4), (12, 3), (6, 3), (3, 3)])
def test_group_norm_by_hand(channels, groups):
  """Groups of eight channels, or of what divides both; far from 0, and against float64."""
  x = jnp.asarray(1000 + np.random.default_rng(0).normal(size=(2, 16, 8, channels)), jnp.float32)

  class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
      return layers.norm(x, "group", name="norm", train=True, dtype=jnp.float32)

  scale, bias = np.random.default_rng(1).normal(size=(2, channels)).astype(np.float32)
  variables = {"params": {"norm": {"scale": scale, "bias": bias}}}
  exact = np.asarray(x, np.float64).reshape(2, 16 * 8, groups, -1)
  mean, std = exact.mean((1, 3), keepdims=True), np.sqrt(exact.var((1, 3), keepdims=True) + 1e-5)
  expected = ((exact - mean) / std).reshape(x.shape)
  np.testing.assert_allclose(Layer().apply(variables, x), expected * scale + bias, atol=2e-3)


@pytest.mark.parametrize("name", ["unet", "cnn", "resunet_scratch"])
def test_with_group_norm_no_slice_depends_on_another(name):
  model = MODELS[name](width=4, depth=2, norm="group")
  variables = init(model)
  assert set(variables) == {"params"}  # no statistics
  x = jax.random.normal(jax.random.key(1), (3, 16, 16, 3)) * jnp.array([1.0, 5.0, 0.2])[:, None, None, None]
  apply = jax.jit(functools.partial(model.apply, variables), static_argnames="train")
  together = apply(x, train=True)
  np.testing.assert_array_equal(together, apply(x, train=False))
  np.testing.assert_allclose(together[1:2], apply(x[1:2], train=False), atol=1e-5)
  batch = MODELS[name](width=4, depth=2)
  assert parameters(init(batch)["params"]) == parameters(variables["params"])  # as many scales and biases


def test_norms_by_name():
  with pytest.raises(UserError, match="model.norm is 'layer', expected one of batch, group"):
    init(unet.UNet(width=2, depth=1, norm="layer"))
  assert encoder_of(unet.UNet()) == "unet" and not encoder_of(unet.UNet(norm="group"))  # none is published
