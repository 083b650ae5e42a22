"""The weights of mateuszbuda/brain-segmentation-pytorch, against a network and arithmetic written from its code."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import exposure, transform

import bt_jax
from bt_jax import files
from bt_jax.cli import with_flags
from bt_jax.datasets import splits
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.datasets.store import SliceId
from bt_jax.errors import UserError
from bt_jax.models import LiteUNet, ResUNet, UNet
from bt_jax.pipeline import feed, missing_sequences, percentiles
from bt_jax.pipeline.preprocess import make_preprocess
from bt_jax.pretrained import conversion, filling
from bt_jax.runs import transfer
from bt_jax.schema import Slices
from bt_jax.training.checkpoints import AS_SAVED, Checkpoints
from tests.golden import weights
from tests.helpers.launching import launch, table_of
from tests.helpers.refusals import refused

torch = pytest.importorskip("torch", reason="writes .pt files and is what the network is compared with")


class Peer(torch.nn.Module):
  """The published network, from the layers that its state dict names."""

  def __init__(self, width=32, classes=1):
    super().__init__()
    nn = torch.nn

    def block(before, after, name):
      layers = collections.OrderedDict()
      for number, channels in ((1, before), (2, after)):
        layers[f"{name}conv{number}"] = nn.Conv2d(channels, after, 3, padding=1, bias=False)
        layers[f"{name}norm{number}"] = nn.BatchNorm2d(after)
        layers[f"{name}relu{number}"] = nn.ReLU()
      return nn.Sequential(layers)

    widths = [width * 2**level for level in range(5)]
    for level, (before, after) in enumerate(zip([3, *widths], widths[:4], strict=False), start=1):
      setattr(self, f"encoder{level}", block(before, after, f"enc{level}"))
    self.bottleneck = block(widths[3], widths[4], "bottleneck")
    for level in (4, 3, 2, 1):
      setattr(self, f"upconv{level}", nn.ConvTranspose2d(widths[level], widths[level - 1], 2, stride=2))
      setattr(self, f"decoder{level}", block(widths[level], widths[level - 1], f"dec{level}"))
    self.conv = nn.Conv2d(width, classes, 1)

  def forward(self, x):
    """Logits; the published network returns their sigmoid."""
    skips = []
    for level in (1, 2, 3, 4):
      x = getattr(self, f"encoder{level}")(x)
      skips.append(x)
      x = torch.nn.functional.max_pool2d(x, 2)
    x = self.bottleneck(x)
    for level in (4, 3, 2, 1):
      x = torch.cat([getattr(self, f"upconv{level}")(x), skips[level - 1]], dim=1)
      x = getattr(self, f"decoder{level}")(x)
    return self.conv(x)


@functools.cache
def peer(width=32, classes=1):
  """With random weights, and statistics that a training step leaves: away from 0 and 1."""
  torch.manual_seed(7)
  network = Peer(width, classes)
  with torch.no_grad():
    for name, array in network.state_dict().items():
      if array.ndim == 4:  # so that activations, and logits, vary as those of a trained network
        torch.nn.init.kaiming_normal_(array)
      if "norm" in name and array.is_floating_point():
        array.copy_(
          {"running_mean": torch.randn, "bias": torch.randn}.get(name.split(".")[-1], torch.rand)(array.shape)
        )
        if name.endswith(("running_var", "weight")):
          array.add_(0.5)
        else:
          array.mul_(0.3)
  return network.eval()


def logits_of_peer(images, network=None):
  with torch.no_grad():
    return (network or peer())(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy().transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp("published") / "unet.pt"
  torch.save(peer().state_dict(), path)
  return path


@pytest.fixture(scope="module")
def loaded(file):
  return conversion.load_weights(str(file))


def test_logits_are_those_of_the_pytorch_network(file):
  assert sum(array.numel() for array in peer().parameters()) == 7_763_041
  module, variables, normalize = bt_jax.weights.load(str(file))
  assert normalize == "percentiles"
  images = np.random.default_rng(0).normal(size=(2, 96, 64, 3)).astype(np.float32)
  expected = logits_of_peer(images)
  assert np.ptp(expected) > 1  # logits that vary
  np.testing.assert_allclose(module.apply(variables, jnp.asarray(images)), expected, atol=1e-4)


def test_every_skip_and_every_upsampled_half_is_where_the_pytorch_network_has_it(file):
  """Halves that are swapped would have the same shapes: one of them is silenced in turn."""
  module, variables, _ = bt_jax.weights.load(str(file))
  images = np.random.default_rng(1).normal(size=(1, 32, 32, 3)).astype(np.float32)
  for level in (1, 2, 3, 4):
    silenced = Peer()
    silenced.load_state_dict(peer().state_dict())
    kernel = getattr(silenced.eval(), f"decoder{level}")[0].weight
    half = kernel.shape[1] // 2
    with torch.no_grad():
      kernel[:, half:] = 0  # the skip
    ours = jax.tree.map(np.array, variables)
    ours["params"][f"decoder{level}"]["conv1"]["kernel"][:, :, :half] = 0
    np.testing.assert_allclose(module.apply(ours, jnp.asarray(images)), logits_of_peer(images, silenced), atol=1e-4)


def volume(seed=0, shape=(9, 60, 52)):
  """A bright ellipsoid off the centre of a dark frame with noise, in 8 bits, all channels different."""
  generator = np.random.default_rng(seed)
  grid = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)
  centre, radii = np.array([4.5, 33, 22]), np.array([3.2, 21, 15])
  inside = (((grid - centre) / radii) ** 2).sum(-1) < 1
  tissue = generator.integers(60, 256, (*shape, 3)) * np.array([0.6, 1, 0.8])
  return np.where(inside[..., None], tissue, generator.integers(0, 20, (*shape, 3))).astype(np.uint8)


def as_published(stored, size=256):
  """`crop_sample`, `pad_sample`, `resize_sample` and `normalize_volume` of its utils.py, in their own words' order."""
  stored = stored.copy()
  stored[stored < np.max(stored) * 0.1] = 0
  z, y, x = (np.flatnonzero(stored.any(tuple({0, 1, 2, 3} - {axis}))) for axis in range(3))
  stored = stored[z[0] : z[-1] + 1, y[0] : y[-1] + 1, x[0] : x[-1] + 1]
  missing = stored.shape[1] - stored.shape[2]
  ends = (int(np.floor(abs(missing) / 2)), int(np.ceil(abs(missing) / 2)))
  stored = np.pad(stored, ((0, 0), (0, 0), ends, (0, 0)) if missing > 0 else ((0, 0), ends, (0, 0), (0, 0)))
  shape = (len(stored), size, size, 3)
  resized = transform.resize(stored, shape, order=2, mode="constant", cval=0, anti_aliasing=False)
  low, high = np.percentile(resized, 10), np.percentile(resized, 99)
  scaled = exposure.rescale_intensity(resized, in_range=(low, high))
  return (scaled - scaled.mean((0, 1, 2))) / scaled.std((0, 1, 2))


@pytest.mark.parametrize("shape", [(9, 60, 52), (9, 50, 64)])
def test_volumes_are_prepared_as_its_code_does(shape):
  stored = volume(shape=shape)
  seen = percentiles.resize(percentiles.crop(stored.astype(np.float32))[0], 64)
  statistics = np.repeat(percentiles.statistics(seen)[None], len(seen), axis=0)
  preprocess = make_preprocess(size=64, normalize="percentiles", channels="pre,flair,post", info=INFO)
  inputs, _ = preprocess({"image": jnp.asarray(seen), "volume_percentiles": statistics})
  np.testing.assert_allclose(inputs, as_published(stored, 64), atol=2e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stored_slices_are_normalised_by_their_own_volume(dtype):
  """The percentiles of each case, in 0..255 whatever the type, reach the batch and the network's input."""
  stored = {"a": volume(1, (9, 64, 64)), "b": volume(2, (9, 64, 64)) // 2}
  whole = np.iinfo(dtype).max // 255

  def read(ids):
    case = ids[0][0]
    image = stored[case].astype(dtype) * dtype(whole)
    statistics = np.zeros((len(ids), 3), np.float32)
    names = np.array([case] * len(ids))
    return Slices(
      names, names, np.arange(1, len(ids) + 1), image, np.zeros((*image.shape[:3], 1), np.uint8), *[statistics] * 2
    )

  ids = {case: [f"{case}/{number}" for number in range(1, 10)] for case in stored}
  found = percentiles.of_cases(ids.items(), read)
  preprocess = make_preprocess(size=64, normalize="percentiles", channels="pre,flair,post", info=INFO)
  for case, original in stored.items():
    np.testing.assert_allclose(found[case], percentiles.statistics(percentiles.crop(original)[0]), rtol=1e-5)
    batch = feed.arrays(dataclasses.replace(read(ids[case]), volume_percentiles=np.stack([found[case]] * 9)))
    low, high, mean, std = found[case].T
    expected = (np.clip(original, low, high) - mean) / std
    np.testing.assert_allclose(preprocess(jax.tree.map(jnp.asarray, batch))[0], expected, atol=1e-4)


def test_a_crop_is_undone_by_its_box():
  stored = volume().astype(np.float32)
  cropped, box = percentiles.crop(stored)
  rows, columns = box.rows.stop - box.rows.start, box.columns.stop - box.columns.start
  back = np.zeros_like(stored)
  back[box.slices, box.rows, box.columns] = cropped[:, box.top : box.top + rows, box.left : box.left + columns]
  np.testing.assert_array_equal(back, np.where(stored < 0.1 * stored.max(), 0, stored))
  assert cropped.shape[1:3] == (box.side, box.side)
  black, whole = percentiles.crop(np.zeros((2, 4, 6, 3)))
  assert black.shape == (2, 6, 6, 3) and whole.rows == slice(0, 4)


def test_a_missing_channel_has_the_percentiles_of_the_reference():
  batch = {"image": np.zeros((2, 4, 4, 3)), "volume_percentiles": np.arange(24.0).reshape(2, 3, 4)}
  missing = np.array([[True, False, False], [False, False, True]])
  changed = missing_sequences.replace(batch, missing, (), INFO)["volume_percentiles"]
  expected = batch["volume_percentiles"].copy()
  expected[0, 0], expected[1, 2] = expected[0, 1], expected[1, 1]
  np.testing.assert_array_equal(changed, expected)


def test_a_scan_is_predicted_as_its_code_does(file):
  """A head of 256 rows, so that the way back to the scan's own grid moves pixels and blends none."""
  generator = np.random.default_rng(3)
  stored = np.zeros((5, 300, 280, 3), np.uint8)
  stored[1:4, 20:276, 50:251] = generator.integers(40, 256, (3, 32, 201, 3), np.uint8).repeat(8, axis=1)
  expected = np.zeros(stored.shape[:3])
  seen = 1 / (1 + np.exp(-logits_of_peer(as_published(stored).astype(np.float32))[..., 0]))
  expected[1:4, 20:276, 50:251] = seen[:, :, 27:228]  # 55 columns are missing: 27 on the left
  predictor = bt_jax.load(file)
  prediction = predictor.predict(stored.astype(np.float32), spacing_mm=(5.0, 1.0, 1.0))
  assert np.ptp(seen) > 0.5
  np.testing.assert_allclose(prediction.probability, expected, atol=2e-3)
  assert prediction.threshold == 0.5 and "brain-segmentation-pytorch" in predictor.about["title"]


def test_pixels_that_are_not_square_are_seen_square(file):
  """Every second row of a scan, with pixels twice as high, gives about the same as all rows."""
  stored = np.kron(volume(), np.ones((1, 4, 4, 1), np.uint8)).astype(np.float32)
  predictor = bt_jax.load(file)
  whole = predictor.predict(stored, spacing_mm=(5.0, 1.0, 1.0)).probability
  half = predictor.predict(stored.reshape(9, 120, 2, 208, 3).mean(2), spacing_mm=(5.0, 2.0, 1.0)).probability
  assert half.shape == (9, 120, 208)
  assert np.abs(half - whole.reshape(9, 120, 2, 208).mean(2)).mean() < 0.02


def test_files_of_other_networks_and_damaged_ones_are_refused_in_one_line(file, tmp_path):
  cut = tmp_path / "cut.pt"
  cut.write_bytes(file.read_bytes()[:-5000])
  refused(lambda: bt_jax.load(cut), "cut.pt", "it is damaged", "(--checkpoint)")
  torch.save({"w": torch.zeros(3)}, tmp_path / "other.pt")
  refused(lambda: bt_jax.load(tmp_path / "other.pt"), "holds none of", "U-Net", "(--checkpoint)")
  torch.save(peer(8).state_dict(), tmp_path / "small.pt")
  refused(lambda: bt_jax.load(tmp_path / "small.pt"), "is not U-Net", "expected", "(--checkpoint)")
  torch.save(peer(32, 2).state_dict(), tmp_path / "two.pt")
  refused(lambda: bt_jax.load(tmp_path / "two.pt"), "2 classes, expected one")
  arrays = {
    name: torch.from_numpy(array.copy()) for name, array in weights.random_arrays(weights.naming("torchvision")).items()
  }
  torch.save(arrays, tmp_path / "resnet50.pt")
  refused(lambda: bt_jax.load(tmp_path / "resnet50.pt"), "ResNet-50", "segments nothing")
  incomplete = {name: array for name, array in peer().state_dict().items() if name != "upconv2.bias"}
  torch.save(incomplete, tmp_path / "incomplete.pt")
  refused(lambda: bt_jax.load(tmp_path / "incomplete.pt"), "missing are upconv2.bias")


def test_it_stands_alone_and_is_no_classifier_and_no_export(file, run, tmp_path):
  refused(lambda: bt_jax.load([file, run[0]]), "sees the head alone", run[0], "(--checkpoint)")
  refused(lambda: bt_jax.load(run[0], classifier=file), "is a segmenter, expected a classifier")
  code, _, err = launch(["--mode=export", f"--checkpoint={file}", f"--output={tmp_path / 'a.bin'}"])
  assert code == 1 and "percentiles" in err and "Traceback" not in err
  assert not (tmp_path / "a.bin").exists()


def test_converted_weights_predict_too(file, loaded, tmp_path):
  conversion.save_converted(loaded, tmp_path / "converted")
  image = volume().astype(np.float32)
  first, second = (bt_jax.load(path).predict(image) for path in (file, tmp_path / "converted"))
  np.testing.assert_array_equal(first.probabilities, second.probabilities)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_unet_starts_from_all_arrays_and_from_the_head_where_its_classes_are_the_same(loaded, classes, channels):
  model = UNet(classes=classes)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, channels), np.float32))
  variables = jax.tree.map(lambda leaf: np.full(leaf.shape, -1, np.float32), dict(shapes))
  filling.check_fits(variables, loaded, encoder="unet")
  filled, notes = filling.fill(variables, loaded)
  head, source = filled["params"].pop("head"), dict(loaded.variables["params"])
  assert (np.asarray(head["bias"]) == -1).all() == (classes == 3)
  source.pop("head")
  if channels != 3:
    assert "first kernel" in notes[0]
    filled["params"]["encoder1"]["conv1"].pop("kernel"), source.update(encoder1=source["encoder1"] | {"conv1": {}})
  jax.tree.map(np.testing.assert_array_equal, filled["params"], source)
  assert any("other classes" in note for note in notes) == (classes == 3)


def test_networks_that_it_does_not_fit_are_named(loaded):
  for model, encoder in ((ResUNet(), "torchvision"), (LiteUNet(), "lite0"), (UNet(width=8), "unet")):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32))
    with pytest.raises(UserError) as error:
      filling.check_fits(dict(shapes), loaded, encoder=encoder)
    wanted = "set model.width=32 and model.depth=4" if encoder == "unet" else "take model.name=unet"
    assert wanted in with_flags(error.value)


def test_lgg_patients_that_it_learned_from_are_not_tested_on(loaded):
  index = [
    SliceId(fold, f"fold_{fold:02d}", 0, patient, patient, f"{patient}/1", 1)
    for fold, patient in enumerate(("TCGA_CS_4941", "made_up_1", "made_up_2"))
  ]
  ids = [one.id for one in index]
  for leaky in (False, True):
    split = splits.Split("a split", leaky, train=(ids[1],), validation=(ids[2],), test=(ids[0],))
    check = lambda split=split: transfer.check_no_leak(split, index, loaded)
    if leaky:
      check()
    else:
      refused(check, "learned from 1 patients", "TCGA_CS_4941", "that leaks")
  transfer.check_no_leak(splits.Split("a split", False, (ids[1],), (ids[1],), (ids[2],)), index, loaded)


@pytest.mark.slow
def test_a_run_starts_from_the_file_trains_is_saved_and_predicts(file, loaded, tiny, phantom_root, tmp_path):
  """One stage frozen and one epoch, so that the saved arrays are the file's there and near them elsewhere."""
  options = {"model.pretrained": file, "model.width": 32, "model.depth": 4, "data.size": 16, "train.epochs": 1,
             "train.learning_rate": 1e-4, "train.ema_decay": 0.0, "train.stage_rates": "encoder1=0"}  # fmt: skip
  folder = tmp_path / "run"
  flags = ["--config.model.name=unet", *(f"--config.{name}={value}" for name, value in options.items())]
  status, out, err = launch([*tiny, *flags, f"--workdir={folder}"], devices=1)
  assert status == 0 and f"network from {file}" in out, err
  assert files.read_json(folder / "summary.json", dict)["normalize"] == "percentiles"
  saved, _ = Checkpoints(folder / "checkpoints/best", read_only=True).restore(AS_SAVED)
  jax.tree.map(np.testing.assert_array_equal, saved["params"]["encoder1"], loaded.variables["params"]["encoder1"])
  for stage in ("bottom", "decoder1", "head"):
    pairs = zip(*(jax.tree.leaves(of["params"][stage]) for of in (saved, loaded.variables)), strict=True)
    change = [np.abs(np.asarray(trained) - np.asarray(start)).max() for trained, start in pairs]
    assert 0 < max(change) < 0.01  # ten steps of at most about 1e-4 each
  rows = table_of(folder / "slices.csv")
  area = lambda row: int(row["tp"]) + int(row["fp"])
  case = max(rows, key=area)["case"]
  scan, output = phantom_root / "kaggle_3m" / case, tmp_path / "mask"
  status, _, err = launch(["--mode=predict", f"--checkpoint={folder}", f"--input={scan}", f"--output={output}"])
  assert status == 0, err
  areas = {
    one["name"].rpartition("_")[2]: one["area_pixels"]
    for one in files.read_json(output / "prediction.json", dict)["slices"]
  }
  expected = {row["slice"]: area(row) for row in rows if row["case"] == case}
  assert areas == expected and sum(areas.values())
