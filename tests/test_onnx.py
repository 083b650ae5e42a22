"""An ONNX file says what the run says; where the converter is not installed, what comes before it is tested alone."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bt_jax.datasets.channels import context_of, parse_channels
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import UserError
from bt_jax.inference import loading, onnx
from bt_jax.inference.networks import Network, View
from bt_jax.models import make_model
from bt_jax.pipeline.preprocess import make_preprocess
from bt_jax.tasks import TASKS
from bt_jax.training.step import make_predict_step
from tests.helpers.arithmetic import PROFILE, flair_logits, network, next_flair_logits, statistics_logits, volume

OPTIONS = {"tta": False, "threshold": None, "sensitivity": 0.98}


def made(name, task, seed=0, dtype=jnp.float32, tumors=(0.5,), channels="pre,flair,post", **fields):
  """A network of ours with random weights, small enough that its probabilities are in the middle."""
  model, shown = make_model(TASKS[task].models, name, dtype=dtype, **fields), parse_channels(channels, INFO)
  variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 64, 64, len(shown))))
  preprocess = make_preprocess(size=64, normalize="volume", channels=channels, info=INFO)
  logits = make_predict_step(model=model, task=TASKS[task](INFO), preprocess=preprocess)
  decision = {"threshold": 0.5, "temperature": 1.5, "tumor_probabilities": list(tumors)}
  about = {"path": name, "model": name, "data": "none", "split": "none"}
  view = View(64, "none", context_of(shown, INFO))
  return Network(INFO, jax.device_get(variables), logits, view, False, False, decision, PROFILE, False, about)


def pooled_logits(variables, batch):
  """Over windows that reach beyond the border and overlap, as a ResNet pools, and over those that do not."""
  image = batch["image"] - 127.5
  highest = nn.max_pool(image, (3, 3), (2, 2), ((1, 1), (1, 1)))
  mean = nn.avg_pool(highest, (2, 2), (2, 2))[..., 2]
  return variables["slope"] * jnp.repeat(jnp.repeat(mean, 4, 1), 4, 2)


def ours():
  """Two networks of one architecture and one of another, behind a classifier that stops some slices."""
  unets = [made("unet", "segmentation", seed, width=2, depth=2) for seed in (0, 1)]
  classifier = made("cnn", "classification", width=2, depth=2)
  image = volume(11, 70, 90) * np.linspace(0.1, 1, 11, dtype=np.float32)[:, None, None, None]
  chances = loading.of_networks([network()], [classifier]).predict(image)
  assert np.ptp(chances.slice_probability) > 1e-2
  raw = 1 / (1 + np.exp(-1.5 * np.log(1 / chances.slice_probability - 1)))  # the temperature undone, and turned over
  gate = made("cnn", "classification", width=2, depth=2, tumors=[float(np.median(1 - raw)) + 1e-3])
  return [*unets, network(statistics_logits, 0.1)], [gate], False, [image, image[-1:, :64, :40] * 30 - 1000]


def pools():
  return [network(pooled_logits, 0.01)], [], False, [volume(2)]


def augmented():
  left = lambda variables, batch: flair_logits(variables, {"image": jnp.roll(batch["image"], -9, axis=2)})
  return [network(left, 0.01)], [], True, [volume(2, 300, 200)]


def neighbours():
  return [network(next_flair_logits, 0.01, channels="pre,flair,flair-1,flair+2")], [], False, [volume(4, 64, 80)]


def lite():
  """Depthwise convolutions, which differ by platform."""
  return [made("lite_unet", "segmentation")], [], False, [volume(2, 64, 80)]


def grouped():
  """Group norm, by each slice's own statistics."""
  return [made("unet", "segmentation", width=8, depth=2, norm="group")], [], False, [volume(2, 64, 80)]


@pytest.mark.slow
@pytest.mark.parametrize("case", [ours, pools, augmented, neighbours, lite, grouped])
def test_onnxruntime_says_what_the_run_says(case, tmp_path, capfd):
  pytest.importorskip("jax2onnx", reason="ONNX is written by jax2onnx")
  runtime = pytest.importorskip("onnxruntime", reason="comes with jax2onnx")
  segmenters, classifiers, tta, images = case()
  path, options = tmp_path / "model.onnx", OPTIONS | {"tta": tta}
  onnx.write(path, segmenters, classifiers, **options)
  capfd.readouterr()
  session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
  assert not capfd.readouterr().err  # it warns of every node and constant that nothing uses
  told = session.get_modelmeta().custom_metadata_map
  assert "research only" in told["research_use"] and json.loads(told["decision"])["tta"] == tta
  assert [segmenter["path"] for segmenter in json.loads(told["about"])["segmenters"]] == [
    segmenter.about["path"] for segmenter in segmenters
  ]
  assert session.get_inputs()[0].shape == ["slices", "height", "width", 3]
  predictor = loading.of_networks(segmenters, classifiers, **options)
  for image in images:
    expected = predictor.predict(image)
    found = dict(zip(onnx.OUTPUTS, session.run(onnx.OUTPUTS, {onnx.INPUT: image}), strict=True))
    np.testing.assert_allclose(found["probability"], expected.probability, atol=1e-4)
    np.testing.assert_allclose(found["slice_probability"], expected.slice_probability, atol=1e-4)
    np.testing.assert_array_equal(found["gated"], expected.gated)
    sure = abs(expected.probability - expected.threshold) > 1e-4
    np.testing.assert_array_equal(found["mask"][sure], expected.mask[sure])
    assert np.ptp(expected.probability) > 1e-2
  if classifiers:
    assert 0 < predictor.predict(images[0]).gated.mean() < 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 40, 50)])
@pytest.mark.parametrize("values", ["even", "whole", "hot", "constant"])
def test_percentiles_without_sorting(values, shape):
  rng = np.random.default_rng(3)
  image = {
    "even": rng.normal(-300, 50, (*shape, 3)),
    "whole": rng.integers(-2, 3, (*shape, 3)),  # many are alike
    "hot": rng.gamma(0.05, 1, (*shape, 3)) ** 8 * 1e6,  # over many orders of magnitude
    "constant": np.full((*shape, 3), 7.0),
  }[values].astype(np.float32)
  for q in (0.0, 37.5, 99.9, 100.0):
    found, expected = onnx.percentile(jnp.asarray(image), q, (0, 1, 2)), np.percentile(image, q, axis=(0, 1, 2))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6 * np.ptp(image))


@pytest.mark.parametrize(
  "member, message",
  [
    (lambda: network(contrast="stretch"), "enhances contrast"),
    (lambda: network(largest=True), "largest part"),
    (lambda: made("unet", "segmentation", width=2, depth=2, dtype=jnp.bfloat16), "bfloat16"),
    (network, "jax2onnx"),
  ],
)
def test_what_cannot_be_written(member, message, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "jax2onnx", None)  # as where it is not installed
  with pytest.raises(UserError, match=message) as raised:
    onnx.write(tmp_path / "model.onnx", [member()], [], **OPTIONS)
  assert "\n" not in str(raised.value) and not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_the_same_export_again_was_there_and_a_changed_one_is_noticed(tmp_path, capsys):
  pytest.importorskip("jax2onnx", reason="ONNX is written by jax2onnx")
  paths = tmp_path / "one.onnx", tmp_path / "other.onnx"
  for path in paths:
    onnx.write(path, [network()], [], **OPTIONS)
  content = paths[0].read_bytes()
  assert content == paths[1].read_bytes()
  onnx.write(paths[0], [network()], [], **OPTIONS)
  assert f"already there: {paths[0]}" in capsys.readouterr().out
  rng = np.random.default_rng(0)
  for place in rng.integers(len(content), size=25):
    changed = bytearray(content)
    changed[place] ^= 1 << rng.integers(8)
    paths[0].write_bytes(changed)
    with pytest.raises(UserError, match="is damaged"):
      onnx.read(paths[0])


def test_a_file_is_not_overwritten(tmp_path):
  (tmp_path / "model.onnx").write_text("precious")
  with pytest.raises(UserError, match="exists already"):
    onnx.write(tmp_path / "model.onnx", [network()], [], **OPTIONS)
  assert (tmp_path / "model.onnx").read_text() == "precious"
