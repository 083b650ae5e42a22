"""Equality with the published networks: against the libraries where they are installed, else against golden files."""

import functools

import jax
import numpy as np
import pytest

from bt_jax.models.resnet import ResNet50, ResNet50Classifier
from bt_jax.pretrained import conversion
from tests.golden import peers, weights
from tests.helpers.launching import ROOT

pytestmark = pytest.mark.slow

LIBRARIES = {"torch": ("torch", "transformers"), "keras": ("keras",)}


@functools.cache
def ours(name):
  """The variables, and functions from images to all activations and to the batch statistics of one training step."""
  naming = peers.PEERS[name].naming
  variables = conversion.convert(weights.random_arrays(naming), naming, ROOT / "made up")
  classifier = ResNet50Classifier(variant=naming.variant, classes=1000)
  encoder = ResNet50(variant=naming.variant)

  @jax.jit
  def activations(variables, images):
    features = encoder.apply({collection: tree["encoder"] for collection, tree in variables.items()}, images)
    return {**features, "logits": classifier.apply(variables, images)}

  step = jax.jit(functools.partial(classifier.apply, train=True, mutable=["batch_stats"]))
  # Weights that are constants of a program would be compiled with it.
  return variables, functools.partial(activations, variables), lambda images: step(variables, images)[1]


def flat(tree):
  return {"/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("name", peers.PEERS)
def test_activations_and_statistics_are_those_of_the_golden_file(name):
  _, activations, step = ours(name)
  with np.load(ROOT / f"tests/golden/{name}.npz") as golden:
    for key, value in activations(weights.images()).items():
      np.testing.assert_allclose(weights.sample(value), golden[key], atol=1e-4, err_msg=key)
    statistics = flat(step(weights.images(count=4)))
    assert len(statistics) == 106
    for key, value in statistics.items():
      np.testing.assert_allclose(weights.sample(value)[:8], golden[key], atol=1e-4, rtol=1e-3, err_msg=key)


@pytest.fixture(scope="module")
def peer():
  @functools.cache
  def make(name):
    for library in LIBRARIES[name]:
      pytest.importorskip(library, reason="needs the extra: pip install .[parity]")
    return peers.PEERS[name](weights.random_arrays(peers.PEERS[name].naming))

  return make


@pytest.mark.parametrize("size", [224, 256, 95])
@pytest.mark.parametrize("name", peers.PEERS)
def test_activations_agree_with_the_library(name, size, peer):
  expected = peer(name)(weights.images(size, count=1))
  differences = {
    key: float(np.abs(np.asarray(value) - expected[key]).max())
    for key, value in ours(name)[1](weights.images(size, count=1)).items()
  }
  print(f"\n{name}, {size} x {size}: " + ", ".join(f"{key} {value:.1e}" for key, value in differences.items()))
  assert max(differences.values()) < 1e-4


@pytest.mark.parametrize("name", peers.PEERS)
def test_batch_statistics_of_a_training_step_agree_with_the_library(name, peer):
  library = peer(name)
  before = library.arrays()
  library(weights.images(count=4), train=True)
  after = {key: value for key, value in library.arrays().items() if "num_batches" not in key}
  assert any(np.abs(after[key] - before[key]).max() > 1e-3 for key in after)
  expected = flat(conversion.convert(after, library.naming, ROOT / "made up")["batch_stats"])
  for key, value in flat(ours(name)[2](weights.images(count=4))["batch_stats"]).items():
    np.testing.assert_allclose(value, expected[key], atol=1e-4, rtol=1e-3, err_msg=key)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
def test_files_that_keras_wrote_are_read(suffix, peer, tmp_path):
  library = peer("keras")
  library.given = weights.random_arrays(library.naming)
  path = tmp_path / f"resnet50{suffix}"
  library.save(path)
  read = conversion.load_weights(str(path))
  assert (read.variant, read.normalize) == ("keras", "caffe")
  jax.tree.map(np.testing.assert_array_equal, read.variables, ours("keras")[0])


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_pytorch_wrote_are_read(zipped, peer, tmp_path):
  import torch

  arrays = peer("torch").naming and weights.random_arrays(weights.naming("torchvision"))
  tensors = {f"module.{name}": torch.from_numpy(array) for name, array in arrays.items()}
  tensors["module.bn1.num_batches_tracked"] = torch.tensor(7)
  torch.save({"state_dict": tensors}, tmp_path / "resnet50.pth", _use_new_zipfile_serialization=zipped)
  read = conversion.load_weights(str(tmp_path / "resnet50.pth"))
  jax.tree.map(
    np.testing.assert_array_equal, read.variables, conversion.convert(arrays, weights.naming("torchvision"), tmp_path)
  )
