"""An exported file says what the run says, to who has JAX alone."""

import dataclasses
import importlib.util
import pathlib
import random
import subprocess
import sys

import jax
import numpy as np
import pytest

import bt_jax
from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.evaluation import postprocess
from bt_jax.inference import decision, jax_export, loading
from tests.helpers.arithmetic import network, volume
from tests.helpers.launching import ROOT

OPTIONS = {"tta": False, "threshold": None, "sensitivity": 0.98}


@pytest.fixture(scope="module")
def exported(run, classifier, tmp_path_factory):
  """A file of the run twice, with the classifier and augmentation, and the predictor that it is of."""
  path = tmp_path_factory.mktemp("export") / "model.bin"
  folders = [str(run[0]), str(run[0] / "checkpoints/best")]
  options = OPTIONS | {"tta": True}
  jax_export.write(path, *loading.open_networks(folders, str(classifier[0])), **options)
  return path, loading.load(folders, classifier=str(classifier[0]), **options)


def alike(found, expected):
  np.testing.assert_allclose(found["probability"], expected.probability, atol=1e-4)
  np.testing.assert_allclose(found["slice_probability"], expected.slice_probability, atol=1e-4)
  np.testing.assert_array_equal(found["gated"], expected.gated)
  sure = abs(expected.probability - expected.threshold) > 1e-4
  np.testing.assert_array_equal(np.asarray(found["mask"])[sure], expected.mask[sure])


@pytest.mark.slow
def test_with_jax_alone_it_says_what_the_run_says(exported, tmp_path):
  path, predictor = exported
  image = volume(11, 200, 300) * 7 - 50  # more than a group; another size and scale
  np.save(tmp_path / "volume.npy", image)
  # An environment that has JAX and what it needs, and nothing else.
  (tmp_path / "packages").mkdir()
  for name in ("jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum"):
    package = pathlib.Path(importlib.util.find_spec(name).submodule_search_locations[0])
    for folder in (package, package.with_name(f"{name}.libs")):  # its shared libraries, where they lie beside
      (tmp_path / "packages" / folder.name).symlink_to(folder)
  bare = {"PYTHONPATH": str(tmp_path / "packages"), "JAX_PLATFORMS": "cpu"}
  run = lambda *command: subprocess.run(
    [sys.executable, "-S", *command], cwd=tmp_path, env=bare, capture_output=True, text=True
  )
  assert "No module named 'flatbuffers'" in run("-c", "import flatbuffers").stderr
  done = run(str(path), "volume.npy", "result.npz")
  assert done.returncode == 0, done.stderr
  assert "research only" in done.stdout
  with np.load(tmp_path / "result.npz") as found:
    alike(found, predictor.predict(image))


@pytest.mark.parametrize("shape", [(1, 256, 256), (8, 256, 256), (9, 64, 48)])
def test_any_number_and_size_of_slices_on_every_platform(exported, shape):
  path, predictor = exported
  function = jax.export.deserialize(bytearray(path.read_bytes()))
  assert {*function.platforms} == {"cpu", "cuda", "tpu"}
  image = volume(*shape)
  alike(function.call(image, np.float32(1)), predictor.predict(image))


def test_as_a_checkpoint_it_keeps_the_shape_of_pixels(exported):
  path, predictor = exported
  image, spacing = volume(5, 60, 200), (5.0, 2.5, 1.0)
  found, expected = (one.predict(image, spacing_mm=spacing) for one in (bt_jax.load(path), predictor))
  np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)
  assert found.threshold == expected.threshold and found.warnings == expected.warnings
  assert found.about["segmenters"] == expected.about["segmenters"]
  assert bt_jax.load(path, threshold=0.9).predict(image).threshold == 0.9


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 1.0])
def test_the_largest_part_is_that_of_evaluation(density):
  generator = np.random.default_rng(0)
  for _ in range(5):
    mask = generator.random((4, 9, 11)) < density
    np.testing.assert_array_equal(jax.jit(jax_export.largest_part)(mask), postprocess.largest_part(mask))


def test_an_export_keeps_the_largest_part_where_the_run_does():
  segmenters = [network(largest=True)]
  decided = decision.decide(segmenters, [], **OPTIONS)
  image = np.zeros((3, 256, 256, 3), np.float32)
  image[:, 10:20, 10:20] = image[1, 100:110, 100:110] = 255
  found = jax.jit(jax_export.make_function(segmenters, [], decided))(image)
  np.testing.assert_array_equal(found["mask"], loading.of_networks(segmenters, []).predict(image).mask)
  assert found["mask"].sum() == 300


@pytest.mark.parametrize(
  "spoil", [lambda b: b"", lambda b: b[:1000], lambda b: b[:-100], lambda b: b[1000:], lambda b: b"x" * 999]
)
def test_a_file_that_is_none_or_damaged(exported, tmp_path, spoil):
  (tmp_path / "model.bin").write_bytes(spoil(exported[0].read_bytes()))
  with pytest.raises(UserError, match=r"model\.bin is damaged or of another version .*: export the run again"):
    bt_jax.load(tmp_path / "model.bin")


def test_no_changed_bit_passes(exported, tmp_path):
  content, generator = exported[0].read_bytes(), random.Random(0)
  path = tmp_path / "model.bin"
  # Anywhere, and in the header, the description of the networks and the hash itself.
  places = [generator.randrange(len(content)) for _ in range(40)]
  places += [*range(0, 64, 8), content.rindex(b"model.json"), *range(len(content) - 90, len(content), 9)]
  for place in places:
    changed = bytearray(content)
    changed[place] ^= 1 << generator.randrange(8)
    path.write_bytes(changed)
    with pytest.raises(UserError, match=r"model\.bin is damaged") as told:
      bt_jax.load(path)
    assert "\n" not in str(told.value)
  np.save(tmp_path / "volume.npy", volume(2, 64, 64))
  done = subprocess.run(
    [sys.executable, path, tmp_path / "volume.npy", tmp_path / "out.npz"], capture_output=True, text=True
  )
  assert done.returncode != 0 and not (tmp_path / "out.npz").exists()


def test_the_same_export_again_is_the_same_bytes_or_was_there(tmp_path, capsys):
  paths = tmp_path / "one.bin", tmp_path / "other.bin"
  jax_export.write(paths[0], [network()], [], **OPTIONS)
  (lambda: jax_export.write(paths[1], [network()], [], **OPTIONS))()  # another caller, on another line
  assert paths[0].read_bytes() == paths[1].read_bytes()
  assert str(ROOT).encode() not in paths[0].read_bytes()  # nor says a file where it was made
  before = paths[0].stat()
  jax_export.write(paths[0], [network()], [], **OPTIONS)
  assert capsys.readouterr().out.splitlines()[-2].startswith(f"already there: {paths[0]}")
  after = paths[0].stat()
  assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
  with pytest.raises(UserError, match="exists already, and is not this export"):
    jax_export.write(paths[0], [network()], [], **OPTIONS | {"threshold": 0.125})


@pytest.mark.parametrize(
  ("name", "value"),
  [("threshold", 1.5), ("threshold", "0.5"), ("temperature", 0), ("gate", -1), ("reach", "x"), ("profile", {})],
)
def test_what_an_export_decides_by_is_of_its_type(exported, name, value):
  _, described = jax_export.read(exported[0])
  changed = described | {"decision": described["decision"] | {name: value}}
  with pytest.raises(UserError, match=f"decision.{name}"):
    files.check(jax_export.Described, changed, "model.bin")
  del changed["decision"][name]
  with pytest.raises(UserError, match=f"decision lacks {name}"):
    files.check(jax_export.Described, changed, "model.bin")


def test_probabilities_that_are_no_numbers_end_in_an_error(exported):
  predictor = exported[1]

  def segment(image, aspect):
    for outputs in predictor.segment(image, aspect):
      yield outputs._replace(members=np.full_like(outputs.members, np.nan))

  with pytest.raises(UserError, match="the networks give values that are not finite for the array"):
    dataclasses.replace(predictor, segment=segment).predict(volume(2, 64, 64))


def test_what_cannot_be_asked_of_an_export(exported, classifier, tmp_path):
  path, _ = exported
  for options in ({"tta": True}, {"classifier": str(classifier[0])}, {"sensitivity": 0.5}):
    with pytest.raises(UserError, match="stands alone"):
      bt_jax.load(path, **options)
  with pytest.raises(UserError, match="stands alone"):
    bt_jax.load([path, classifier[0]])
  with pytest.raises(UserError, match="exists already"):
    jax_export.write(path, [network()], [], **OPTIONS)
  with pytest.raises(UserError, match="by hand enhances contrast"):
    jax_export.write(tmp_path / "model.bin", [network(contrast="stretch")], [], **OPTIONS)
  assert not any(tmp_path.iterdir())
