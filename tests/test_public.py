"""What `import bt_jax` offers, and published weights as modules."""

import dataclasses
import inspect
import pathlib
import pickle
import subprocess
import sys
import tomllib
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import bt_jax
from bt_jax.cli import with_flags
from bt_jax.datasets.lgg_mri import lgg_source
from bt_jax.errors import UserError
from bt_jax.inference import loading
from bt_jax.inference.predictor import Prediction
from bt_jax.pretrained.names import NAMINGS
from tests.golden import weights
from tests.helpers.arithmetic import network
from tests.helpers.launching import ROOT
from tests.helpers.refusals import refused


def test_the_public_names_are_there_and_none_needs_jax_before_it_is_used():
  assert {"UserError", "datasets", "load", "losses", "metrics", "models", "read", "save", "weights"} <= set(dir(bt_jax))
  assert all(getattr(bt_jax, name) is not None for name in dir(bt_jax))
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    bt_jax.lod  # noqa: B018
  code = "import sys, bt_jax; print('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("name", ["datasets", "losses", "metrics", "models", "weights"])
def test_a_public_module_lists_its_own_public_names_alone(name):
  module = getattr(bt_jax, name)
  values = [getattr(module, one) for one in dir(module)]
  assert values and sorted(module.__all__) == dir(module)
  assert not any(one.startswith("_") for one in dir(module)) and not any(map(inspect.ismodule, values))
  assert all(getattr(value, "__module__", "bt_jax").startswith("bt_jax") for value in values)


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_an_address_is_no_folder_here(kind, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  address = kind("gs://bucket/run")
  refused(lambda: bt_jax.load(address), "gs:/", "is an address", "(--checkpoint)")
  refused(lambda: bt_jax.load([address, "here"]), "is an address", "(--checkpoint)")
  refused(lambda: bt_jax.load(str(tmp_path), classifier=address), "gs:/", "is an address", "(--classifier)")
  refused(lambda: bt_jax.read(address), "gs:/", "is an address", "(--input)")
  refused(lambda: bt_jax.read(flair=address), "gs:/", "is an address", "(--flair)")
  refused(lambda: bt_jax.weights.load(address), "gs:/", "is an address", "(--config.model.pretrained)")
  refused(lambda: bt_jax.save(Prediction.__new__(Prediction), address), "gs:/", "is an address", "(--output)")
  for option in ("root", "data_dir"):
    options = {"root": None, "data_dir": None} | {option: str(address)}
    if kind is str:
      refused(
        lambda options=options: lgg_source.open_or_build("phantom", **options), "is an address", "(--config.data."
      )
  assert not list(tmp_path.iterdir())


def test_a_user_error_is_a_value_error_and_keeps_what_it_names_in_another_process():
  error = UserError("no data: data.root is not set", "data.root")
  with pytest.raises(ValueError, match="^no data: data.root is not set$"):
    raise error
  assert pickle.loads(pickle.dumps(error)).arguments == ("data.root",)
  assert with_flags(error) == "no data: data.root is not set (--config.data.root)"
  assert with_flags(UserError("train it", "mode=train", "workdir")) == "train it (--mode=train, --workdir)"


@pytest.mark.parametrize(
  "naming",
  [
    # The other sizes are those of Lite0, deeper.
    pytest.param(
      naming, marks=[pytest.mark.slow] * (naming.variant in ("lite1", "lite2")), id=f"{naming.title}-{naming.variant}"
    )
    for naming in NAMINGS
  ],
)
@pytest.mark.parametrize("headless", [False, True])
def test_weights_are_those_of_the_module_they_come_with(naming, headless, tmp_path):
  arrays = weights.random_arrays(naming)
  if headless:
    arrays = {name: array for name, array in arrays.items() if name not in naming.head}
  safetensors.numpy.save_file(arrays, tmp_path / "weights.safetensors")
  module, variables, normalize = bt_jax.weights.load(str(tmp_path / "weights.safetensors"))
  assert normalize == naming.normalize
  images = jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32)
  wanted = jax.eval_shape(module.init, jax.random.key(0), images)
  assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, dict(wanted))
  if not headless:
    outputs = (2, 64, 64, 1000) if naming.variant == "unet" else (2, 1000)
    assert jax.eval_shape(module.apply, variables, images).shape == outputs


def test_a_run_gives_its_module_and_variables_and_several_or_an_export_say_why_not(run, tmp_path):
  predictor = bt_jax.load(run[0])
  images = np.ones((2, 32, 32, 3), np.float32)
  assert isinstance(predictor.module, bt_jax.models.UNet)
  wanted = jax.eval_shape(predictor.module.init, jax.random.key(0), images)
  assert jax.tree.map(np.shape, dict(predictor.variables)) == jax.tree.map(lambda leaf: leaf.shape, dict(wanted))
  assert jax.eval_shape(predictor.module.apply, predictor.variables, images).shape == (2, 32, 32, 1)
  assert repr(predictor) == "Predictor('unet of phantom (synthetic), patient_fold_00')"
  several = loading.of_networks([network(), network()], [])
  exported = dataclasses.replace(several, networks=())
  for other, reason in ((several, "this is 2 networks"), (exported, "this is an exported file")):
    for name in ("module", "variables"):
      with pytest.raises(UserError, match=f"module and variables are of one network, and {reason}"):
        getattr(other, name)


@pytest.mark.parametrize("name", ["load", "read", "save"])
def test_the_public_functions_have_types_that_an_editor_finds(name):
  types = typing.get_type_hints(
    getattr(bt_jax, name), vars(bt_jax) | {name: getattr(bt_jax, name) for name in dir(bt_jax)}
  )
  assert "return" in types and typing.Any not in types.values()


@pytest.mark.parametrize("make", [bt_jax.models.UNet, bt_jax.models.LiteUNet, bt_jax.models.ResNet50])
def test_networks_come_with_their_defaults(make):
  module = make()
  variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  outputs = jax.eval_shape(module.apply, variables, jnp.zeros((2, 64, 64, 3)))
  assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(outputs))


def test_requirements_are_the_core_and_the_extras_for_all_but_the_viewer():
  lines = (ROOT / "requirements.txt").read_text().split("\n")
  extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
  assert lines[0] == "-r requirements-core.txt"
  wanted = {one for extra in ("predict", "train", "dicom", "published") for one in extras[extra]}
  assert sorted(filter(None, lines[1:])) == sorted(wanted - {"bt_jax[predict]"})


@pytest.mark.parametrize(
  ("extra", "missing", "code"),
  [
    ("train", "matplotlib", "import bt_jax.modes.train"),
    ("train", "grain", "from bt_jax.pipeline import feed; feed.stream(None, start=0, stop=1, workers=0)"),
    ("predict", "nibabel", "import bt_jax; bt_jax.read('a.nii')"),
    ("predict", "skimage", "import bt_jax; bt_jax.load('lgg')"),
    ("published", "h5py", "from bt_jax.pretrained import sources; sources.READERS['.h5']('a.h5')"),
    ("published", "huggingface_hub", "import bt_jax; bt_jax.weights.load('timm/resnet50.a1_in1k')"),
    ("dicom", "pydicom", "from bt_jax.scans import dicom; dicom.study_of('a.dcm')"),
  ],
)
def test_what_an_extra_installs_is_named_where_it_is_missing(extra, missing, code):
  program = f"import sys; sys.modules[{missing!r}] = None\nfrom bt_jax import UserError\ntry:\n  {code}\nexcept UserError as error: print(error)"
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
  assert f'needs {missing}, which is not installed: pip install ".[{extra}]"' in done.stdout, done.stderr
