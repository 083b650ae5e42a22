"""Programs that an earlier process traced: the same results, and none from a file that is of anything else."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax import models
from bt_jax.distributed import programs, sharding
from bt_jax.inference import loading, networks
from tests.helpers.arithmetic import network, volume
from tests.helpers.launching import ROOT, environment


@pytest.fixture
def kept(tmp_path):
  """The folder of programs of an empty compilation cache."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  yield tmp_path / "bt_jax_programs"
  jax.config.update("jax_compilation_cache_dir", before)


def refuse(*arguments):
  """Stands for a function that must not be traced."""
  raise AssertionError("traced")


class Traced:
  """`scale * x`, which counts how often it is traced; like another process, it has nothing in memory yet."""

  def __init__(self, identity="scaled", scale=3):
    self.times, self._scale = 0, scale
    self.program = programs.jit(self._function, identity)

  def _function(self, x, *, power=1):
    self.times += 1
    return {"scaled": self._scale * x**power}


X = np.arange(4, dtype=np.float32)


def test_a_program_that_was_kept_is_not_traced_again_and_gives_the_same(kept):
  first, second = Traced(), Traced()
  results = [one.program(X)["scaled"] for one in (first, second, second)]
  assert (first.times, second.times, len(list(kept.iterdir()))) == (1, 0, 1)
  for result in results:
    np.testing.assert_array_equal(result, 3 * X)


@pytest.mark.parametrize(
  ("arguments", "static"),
  [([X[:2]], {}), ([X.astype(np.int32)], {}), ([X], {"power": 2}), ([jnp.stack([X, X])], {})],
  ids=["shape", "type", "static", "rank"],
)
def test_other_arguments_are_another_program(kept, arguments, static):
  Traced().program(X)
  other = Traced()
  np.testing.assert_array_equal(
    other.program(*arguments, **static)["scaled"], 3 * arguments[0] ** static.get("power", 1)
  )
  assert other.times == 1 and len(list(kept.iterdir())) == 2


def test_another_identity_setting_or_source_is_another_program(kept, monkeypatch):
  Traced().program(X)
  other = Traced("scaled otherwise", scale=5)
  np.testing.assert_array_equal(other.program(X)["scaled"], 5 * X)
  with jax.default_matmul_precision("highest"):
    assert Traced().program(X) and len(list(kept.iterdir())) == 3
  monkeypatch.setattr(programs, "_SOURCES", "of another version")
  edited = Traced(scale=7)
  np.testing.assert_array_equal(edited.program(X)["scaled"], 7 * X)


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "of another program", "a folder"])
def test_a_damaged_or_foreign_file_is_ignored_and_written_again(kept, harm):
  Traced().program(X)
  (path,) = kept.iterdir()
  content = path.read_bytes()
  if harm == "of another program":
    Traced("scaled otherwise", scale=5).program(X)
    (other,) = (one for one in kept.iterdir() if one != path)
    path.write_bytes(other.read_bytes())
  elif harm == "a folder":
    path.unlink()
    path.mkdir()
  else:
    harmed = {"cut": content[:-9], "flipped": content[:99] + bytes([content[99] ^ 1]) + content[100:], "empty": b""}
    path.write_bytes(harmed[harm])
  again = Traced()
  np.testing.assert_array_equal(again.program(X)["scaled"], 3 * X)
  last = Traced()
  np.testing.assert_array_equal(last.program(X)["scaled"], 3 * X)
  assert again.times == 1 and last.times == (harm == "a folder")  # which stays


def test_nothing_is_kept_without_an_identity_or_a_folder(kept):
  unknown = Traced("")
  np.testing.assert_array_equal(unknown.program(X)["scaled"], 3 * X)
  assert unknown.times == 1 and not kept.exists()
  kept.write_text("not a folder")
  np.testing.assert_array_equal(Traced().program(X)["scaled"], 3 * X)
  jax.config.update("jax_compilation_cache_dir", None)
  np.testing.assert_array_equal(Traced().program(X)["scaled"], 3 * X)


def test_a_step_on_all_devices_is_kept_with_its_shards(kept):
  mesh = sharding.make_mesh()
  step = lambda weights, batch: {"sum": batch["image"] @ weights}
  weights, batch = np.eye(3, dtype=np.float32), {"image": np.arange(48, dtype=np.float32).reshape(16, 3)}
  for function in (step, refuse):
    compiled = sharding.compile_kept(function, mesh, "matrix product", cut=(False, True))
    result = compiled(weights, batch)["sum"]
    np.testing.assert_array_equal(result, batch["image"])
    assert result.sharding == sharding.replicated(mesh) and mesh.size == 8
  half = sharding.make_mesh(jax.devices()[:4])
  with pytest.raises(AssertionError, match="traced"):  # other devices
    sharding.compile_kept(refuse, half, "matrix product", cut=(False, True))(weights, batch)


def predictions(network, image, **options):
  return loading.of_networks([network], [], **options).predict(image)


@pytest.mark.parametrize("options", [{}, {"tta": True}, {"threshold": 0.7}], ids=str)
def test_predictions_of_kept_programs_are_those_of_traced_ones(kept, options):
  image = volume(11, 200, 240)
  plain = predictions(network(), image, **options)
  known = dataclasses.replace(network(), identity="arithmetic")
  for one in (known, dataclasses.replace(known, logits=refuse)):
    found = predictions(one, image, **options)
    np.testing.assert_array_equal(found.masks, plain.masks)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)
    np.testing.assert_array_equal(found.slice_probability, plain.slice_probability)


@pytest.mark.slow
def test_the_weights_that_ship_predict_the_same_from_kept_programs(kept):
  (lgg,), _ = loading.open_networks(["lgg"], None)
  image = volume(9)
  plain = predictions(dataclasses.replace(lgg, identity=""), image)
  assert lgg.identity
  for one in (lgg, dataclasses.replace(lgg, logits=refuse)):
    found = predictions(one, image)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)
    np.testing.assert_array_equal(found.masks, plain.masks)


def test_the_program_of_a_users_own_network_is_not_kept():
  """Its sources are not among those that name a program."""
  architecture = ("segmentation", (("name", "unet"),), 64, "flair", "volume", None)
  assert networks.identity_of(models.UNet(), architecture)
  mine = type("Mine", (models.UNet,), {"__module__": "mine"})
  assert networks.identity_of(mine(), architecture) == ""


@pytest.mark.parametrize(
  "one, other", [(models.CNN(pool="max"), models.CNN(pool="min")), (models.UNet(), models.UNet(norm="group"))]
)
def test_networks_of_one_class_with_other_fields_have_other_programs(one, other):
  """As of a name in the table of networks that a user gave another meaning."""
  architecture = ("segmentation", (("name", "mine"),), 64, "flair", "volume", None)
  assert networks.identity_of(one, architecture) != networks.identity_of(other, architecture)


def test_a_setting_that_changes_within_a_process_is_seen(kept):
  one = Traced()
  one.program(X)
  with jax.default_matmul_precision("highest"):
    one.program(X)
  assert one.times == 2


def test_predicting_imports_neither_training_nor_statistics_nor_figures():
  heavy = ["sklearn", "orbax", "matplotlib", "scipy.stats", "pandas", "h5py", "torch", "tensorboardX", "highdicom"]
  code = f"import sys, bt_jax.modes.predict; print([name for name in {heavy} if name in sys.modules])"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
  assert done.stdout == "[]\n", done.stderr
