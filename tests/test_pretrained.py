import dataclasses
import functools
import http.server
import json
import pathlib
import pickle
import threading
import tracemalloc
import zipfile

import flax.traverse_util
import h5py
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from bt_jax.errors import UserError
from bt_jax.models import encoder_of
from bt_jax.models.efficientnet_lite import LiteClassifier
from bt_jax.models.lite_unet import LiteUNet
from bt_jax.models.resnet import ResNet50Classifier
from bt_jax.models.resunet import ResUNet
from bt_jax.models.unet import UNet
from bt_jax.pretrained import conversion, filling, names, sources
from tests.golden import weights

TORCH = weights.naming("torchvision")


@pytest.fixture(scope="module")
def arrays():
  return weights.random_arrays(TORCH)


@pytest.fixture(scope="module")
def file(arrays, tmp_path_factory):
  """The arrays as a file, which is read and never written to."""
  return save(tmp_path_factory.mktemp("weights") / "a.safetensors", arrays)


@pytest.fixture(scope="module")
def loaded(file):
  """What the file holds; its arrays are not to be changed."""
  return conversion.load_weights(file)


def save(path, arrays):
  safetensors.numpy.save_file(arrays, path)
  return str(path)


def fails(name):
  with pytest.raises(UserError) as error:
    conversion.load_weights(name)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("naming", names.NAMINGS, ids=lambda naming: naming.title)
def test_every_naming_fills_every_target_once(naming):
  shapes = conversion.expected_shapes(naming.variant, 1000)
  targets = [target.path for target in naming.targets().values()]
  assert len(targets) == len(set(targets))
  assert set(targets) == set(shapes)
  counted = {
    "torchvision": 25_610_152,
    "keras": 25_636_712,
    "lite0": 4_694_024,
    "lite1": 5_470_344,
    "lite2": 6_150_168,
    "unet": 7_763_041 + 5_888 + 999 * 33,  # a thousand classes, each with 32 weights and a bias
  }
  assert sum(int(np.prod(shapes[path])) for path in targets) == counted[naming.variant]


def test_every_naming_of_the_same_weights_gives_the_same_tree(arrays, loaded, tmp_path):
  for title in ("Hugging Face", "RadImageNet"):
    naming = weights.naming(title)
    back = {target.path: name for name, target in naming.targets().items()}
    renamed = {back[target.path]: arrays[name] for name, target in TORCH.targets().items()}
    if title == "RadImageNet":  # as published, without a classifier
      renamed = {name: array for name, array in renamed.items() if name not in naming.head}
    read = conversion.load_weights(save(tmp_path / "b.safetensors", renamed))
    assert read.normalize == {"Hugging Face": "imagenet", "RadImageNet": "symmetric"}[title]
    assert ("head" in read.variables["params"]) == (title == "Hugging Face")
    jax.tree.map(
      np.testing.assert_array_equal, read.variables["params"]["encoder"], loaded.variables["params"]["encoder"]
    )


@pytest.mark.parametrize(
  ("title", "prefix"),
  [
    ("torchvision", "module."),
    ("torchvision", "model.net.backbone."),
    ("RadImageNet", "_orig_mod.module."),
    ("Hugging Face", "encoder."),
    ("efficientnet-lite0", "0."),
  ],
)
def test_one_prefix_of_all_names_is_left_out(title, prefix, tmp_path):
  naming = weights.naming(title)
  arrays = {name: array for name, array in weights.random_arrays(naming).items() if name not in naming.head}
  expected = conversion.load_weights(save(tmp_path / "a.safetensors", arrays))
  prefixed = {prefix + name: array for name, array in arrays.items()} | {"n_averaged": np.zeros(1, np.int64)}
  read = conversion.load_weights(save(tmp_path / "B.SafeTensors", prefixed))
  assert (read.variant, read.normalize) == (naming.variant, naming.normalize)
  jax.tree.map(np.testing.assert_array_equal, read.variables, expected.variables)
  said = fails(save(tmp_path / "c.safetensors", prefixed | {"decoder.weight": np.zeros(3, np.float32)}))
  assert "its arrays are" in said


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_arrays_that_are_not_finite_are_refused(arrays, value, tmp_path):
  wrong = arrays["layer2.0.bn1.weight"].astype(np.float64)
  wrong[3] = value
  said = fails(save(tmp_path / "a.safetensors", arrays | {"layer2.0.bn1.weight": wrong}))
  assert "not finite, in encoder/stage2/block1/norm1/scale" in said


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "net", "what.ever"])
@pytest.mark.parametrize("suffix", [".pth.tar", ".ckpt", ".PTH"])
def test_the_mapping_that_holds_the_network_is_read_whatever_its_key(key, suffix, tmp_path):
  torch = pytest.importorskip("torch", reason="writes .pth files; pip install torch")
  network = {f"module.{name}": torch.full((2,), float(at)) for at, name in enumerate("abcde")}
  moments = {"exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2), "step": torch.tensor(9.0)}
  optimizer = {"state": {at: moments for at in range(5)} | {"named": moments}, "param_groups": [{"lr": 0.1}]}
  content = {"epoch": 3, "best_acc1": torch.tensor(76.1), key: network, "optimizer": optimizer, "args": None}
  path = tmp_path / f"a{suffix}"
  for nested in (content, {"checkpoint": content}):
    torch.save(nested, path)
    read = sources.read_arrays(path)
    assert {name: list(array) for name, array in read.items()} == {
      name: tensor.tolist() for name, tensor in network.items()
    }
  torch.save(content | {"ema": network}, path)
  assert f"holds 2 networks of 5 tensors ({key}, ema)" in fails(str(path))


def test_files_that_would_take_more_memory_than_they_have_bytes_are_refused(tmp_path):
  huge = (2**29, 2)  # 4 GB, of which nothing is stored
  with h5py.File(tmp_path / "a.h5", "w") as file:
    file.create_dataset("conv1_conv/kernel:0", huge, np.float32, chunks=(2**20, 2))
  with h5py.File(tmp_path / "b.h5", "w") as file:
    file.create_dataset("conv1_conv/kernel:0", (2**27 + 2**24,), np.float32, chunks=(2**20,))
  with zipfile.ZipFile(tmp_path / "stored.keras", "w") as archive:
    archive.write(tmp_path / "a.h5", "model.weights.h5")
  with zipfile.ZipFile(tmp_path / "deflated.keras", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("model.weights.h5", bytes(2**24))
  with zipfile.ZipFile(tmp_path / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("a/data.pkl", bytes(2**24))
  tracemalloc.start()
  try:
    for name, said in (
      ("a.h5", "holds 4.3 GB of arrays"),
      ("b.h5", "holds 0.6 GB of arrays"),
      ("stored.keras", "holds 4.3 GB of arrays"),
      ("deflated.keras", "model.weights.h5 is compressed"),
      ("deflated.pth", "a/data.pkl is compressed"),
    ):
      assert said in fails(str(tmp_path / name))
    assert tracemalloc.get_traced_memory()[1] < 2**23
  finally:
    tracemalloc.stop()


def test_a_tensor_that_repeats_its_numbers_is_refused(tmp_path):
  torch = pytest.importorskip("torch", reason="writes .pth files; pip install torch")
  torch.save({"conv1.weight": torch.zeros(1).expand(2**30)}, tmp_path / "a.pth")
  assert "a tensor is larger than its numbers" in fails(str(tmp_path / "a.pth"))


def test_missing_extra_and_misshapen_arrays_are_named(arrays, tmp_path):
  path = tmp_path / "a.safetensors"
  without = {name: array for name, array in arrays.items() if name != "layer2.0.bn1.weight"}
  said = fails(save(path, without | {"layer9.weight": np.zeros(3, np.float32)}))
  assert "missing are layer2.0.bn1.weight; unknown are layer9.weight" in said
  said = fails(save(path, arrays | {"layer1.0.conv2.weight": np.zeros((64, 64, 1, 1), np.float32)}))
  assert (
    "layer1.0.conv2.weight (encoder/stage1/block1/conv2/kernel) has the shape (1, 1, 64, 64), expected (3, 3, 64, 64)"
    in said
  )
  said = fails(save(path, {"w": np.zeros(3, np.float32)}))
  assert "holds none of ResNet-50 (torchvision or timm)" in said and "its arrays are w" in said
  larger = {f"layer3.{block}.conv1.weight": np.zeros((256, 1024, 1, 1), np.float32) for block in range(6, 23)}
  said = fails(save(path, arrays | larger))
  assert "it is a larger one" in said and "layer3.10.conv1.weight" in said and "and 14 more" in said


def test_damaged_files_are_refused_in_one_line(file, tmp_path):
  whole = pathlib.Path(file).read_bytes()
  for suffix in (".safetensors", ".h5", ".keras"):
    path = tmp_path / f"cut{suffix}"
    for content in (whole[: len(whole) // 2], b""):
      path.write_bytes(content)
      assert f"cut{suffix} cannot be read" in fails(str(path))
  (tmp_path / "a.onnx").write_bytes(b"x")
  assert "is not a weight file: expected one of .safetensors, .pth" in fails(str(tmp_path / "a.onnx"))
  assert "there is no file" in fails(str(tmp_path / "missing.pth"))


class Evil:
  """Writes a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (open, (self.path, "w"))


def test_code_in_a_pickle_is_never_run(tmp_path):
  torch = pytest.importorskip("torch", reason="writes .pth files; pip install torch")
  path = tmp_path / "evil.pth"
  for save_it in (
    lambda: path.write_bytes(pickle.dumps({"conv1.weight": Evil(str(tmp_path / "ran"))})),
    lambda: torch.save({"conv1.weight": Evil(str(tmp_path / "ran"))}, path),
  ):
    save_it()
    assert "holds code, which is never run" in fails(str(path))
    assert not (tmp_path / "ran").exists()
  torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
  path.write_bytes(path.read_bytes()[:-3000])
  assert "evil.pth" in fails(str(path))
  torch.save([torch.zeros(3)], path)
  assert "is not a state dict" in fails(str(path))


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_files_are_read_as_pytorch_reads_them(legacy, tmp_path):
  torch = pytest.importorskip("torch", reason="writes .pth files; pip install torch")
  made = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
  content = {
    "whole": made,
    "turned": made.permute(2, 0, 1),
    "part": made[1, 1:, ::2],
    "half": torch.linspace(-1, 1, 5).bfloat16(),
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.ones(2)),
  }
  torch.save({"epoch": 3, "state_dict": content}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
  read = sources.read_arrays(tmp_path / "a.pth")
  assert read.keys() == content.keys()
  for name, tensor in content.items():
    expected = tensor.detach()
    np.testing.assert_array_equal(read[name], (expected.float() if name == "half" else expected).numpy(), err_msg=name)


@pytest.mark.parametrize("legacy", [False, True])
def test_cut_pytorch_files_are_refused(legacy, tmp_path):
  torch = pytest.importorskip("torch", reason="writes .pth files; pip install torch")
  path = tmp_path / "cut.pth"
  torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path, _use_new_zipfile_serialization=not legacy)
  whole = path.read_bytes()
  for share in (0.1, 0.5, 0.9, 0.99):
    path.write_bytes(whole[: int(share * len(whole))])
    assert "cut.pth" in fails(str(path))


def test_converted_weights_come_back_and_are_not_overwritten(loaded, tmp_path):
  for _ in range(2):
    conversion.save_converted(loaded, tmp_path / "converted")
  again = conversion.load_weights(str(tmp_path / "converted"))
  jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)
  assert again.about == loaded.about
  assert json.loads((tmp_path / "converted/weights.json").read_text())["normalize"] == "imagenet"
  stored = tmp_path / "converted/weights.safetensors"
  content = stored.read_bytes()
  stored.write_bytes(content[:-4] + b"bits")
  assert "converted is damaged" in fails(str(tmp_path / "converted"))
  stored.write_bytes(content)
  other = conversion.load_weights(save(tmp_path / "b.safetensors", weights.random_arrays(TORCH, seed=9)))
  with pytest.raises(UserError, match="holds weights converted from another file"):
    conversion.save_converted(other, tmp_path / "converted")
  assert "holds neither a run nor converted weights" in fails(str(tmp_path))


@functools.cache
def shapes(model, channels):
  return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, channels))))


def filled(model, read, channels=3):
  variables = jax.tree.map(lambda leaf: np.full(leaf.shape, -1, np.float32), shapes(model, channels))
  filling.check_fits(variables, read, encoder=encoder_of(model))
  return filling.fill(variables, read)


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_encoder_is_filled_and_nothing_else(loaded, channels):
  variables, adapted = filled(ResUNet(), loaded, channels)
  source = flax.traverse_util.flatten_dict(loaded.variables)
  for path, leaf in flax.traverse_util.flatten_dict(variables).items():
    if path[1] != "encoder":
      assert (np.asarray(leaf) == -1).all(), path
    elif path[2:4] != ("stem", "conv"):
      np.testing.assert_array_equal(leaf, source[path])
  kernel = variables["params"]["encoder"]["stem"]["conv"]["kernel"]
  before = loaded.variables["params"]["encoder"]["stem"]["conv"]["kernel"]
  for channel in range(channels):
    np.testing.assert_allclose(kernel[:, :, channel], before[:, :, channel % 3] * 3 / channels, rtol=1e-6)
  assert any(f"adapted to {channels}: repeated" in line for line in adapted) == (channels != 3)
  assert any("beyond the encoder is left out" in line for line in adapted)


def stem_of(tree, x):
  """What the first convolution of an encoder puts out; all of them halve the picture."""
  kernel = jnp.asarray(tree["params"]["encoder"]["stem"]["conv"]["kernel"])
  return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(
  ("title", "model"),
  [
    ("torchvision", ResUNet()),
    ("Keras", ResUNet(variant="keras")),
    ("Keras", ResNet50Classifier(variant="keras")),
    ("efficientnet-lite0", LiteUNet()),
    ("efficientnet-lite1", LiteClassifier("lite1")),
  ],
)
def test_one_channel_gives_what_the_grey_image_gave_in_three(title, model):
  naming = weights.naming(title)
  variables = conversion.convert(weights.random_arrays(naming), naming, pathlib.Path("made up"))
  read = conversion.Weights(variables, naming.variant, naming.normalize, "made up", "0" * 64)
  grey_variables, adapted = filled(model, read, 1)
  grey = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
  found, expected = stem_of(grey_variables, grey), stem_of(variables, jnp.repeat(grey, 3, axis=-1))
  np.testing.assert_allclose(found, expected, atol=1e-4 * float(abs(expected).max()))
  assert any("adapted to 1: their sum" in line for line in adapted)


def test_networks_and_variants_that_do_not_fit_are_refused(loaded):
  read = dataclasses.replace(loaded, variables=jax.tree.map(lambda leaf: leaf, loaded.variables))
  with pytest.raises(UserError, match="is ResNet-50 .torchvision., and this network has no published encoder"):
    filled(UNet(width=2, depth=2), read)
  with pytest.raises(UserError, match="and the encoder of this network is EfficientNet-Lite0"):
    filled(LiteUNet(), read)
  read.variables["params"]["encoder"]["stem"]["conv"]["kernel"] = np.zeros((3, 3, 3, 64), np.float32)
  del read.variables["params"]["encoder"]["stage1"]["block1"]["conv1"]
  with pytest.raises(UserError) as error:
    filled(ResUNet(), read)
  assert "encoder/stage1/block1/conv1/kernel is missing, expected (1, 1, 64, 64)" in str(error.value)
  assert "encoder/stem/conv/kernel is (3, 3, 64), expected (7, 7, 64)" in str(error.value)
  with pytest.raises(UserError, match="holds ResNet-50 .torchvision., .* take model.variant=torchvision") as error:
    filled(ResNet50Classifier(variant="keras"), read)
  assert error.value.arguments == ("model.variant=torchvision", "model.name")


@pytest.fixture
def hub(arrays, tmp_path, monkeypatch):
  """A hub on this machine that has one file; returns what it was asked for."""
  content = safetensors.numpy.save({name: array for name, array in arrays.items()})
  asked = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
      found = "/resolve/" in self.path
      asked.extend([self.path] if found else [])
      self.send_response(200 if found else 404)
      if found:
        for header, value in (
          ("ETag", '"abc"'),
          ("X-Repo-Commit", self.path.split("/")[4]),
          ("Content-Length", str(len(content))),
        ):
          self.send_header(header, value)
      self.end_headers()

    def do_GET(self):
      self.do_HEAD()
      self.wfile.write(content)

    def log_message(self, *args):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  endpoint = f"http://127.0.0.1:{server.server_port}"
  monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
  monkeypatch.setattr(
    huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
  )
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
  yield asked
  server.shutdown()


def test_a_hub_name_is_fetched_at_its_pinned_commit_and_then_cached(hub, arrays):
  read = conversion.load_weights("timm/resnet50.a1_in1k")
  assert all(sources.PINNED["timm/resnet50.a1_in1k"] in path for path in hub) and hub
  np.testing.assert_array_equal(
    read.variables["params"]["encoder"]["stem"]["conv"]["kernel"], arrays["conv1.weight"].transpose(2, 3, 1, 0)
  )
  hub.clear()
  conversion.load_weights("timm/resnet50.a1_in1k")
  assert not hub
  assert "write somebody/resnet50@<the 40 digits of a commit>" in fails("somebody/resnet50")


def test_offline_says_which_file_to_put_where(arrays, tmp_path, monkeypatch):
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  said = fails("microsoft/resnet-50")
  place = pathlib.Path(said.rsplit("put it at ", 1)[1])
  assert "/microsoft/resnet-50/resolve/34c2154c194f829b11125337b98c8f5f9965ff19/model.safetensors" in said
  place.parent.mkdir(parents=True)
  save(place, arrays)
  assert conversion.load_weights("microsoft/resnet-50").origin == "microsoft/resnet-50"
