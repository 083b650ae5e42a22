"""Eight CPU devices, shapes checked at every call, and small synthetic data sets shared by all tests."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

_FAST_COMPILE = "--xla_backend_optimization_level=0"  # the programs of tests run for moments
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {_FAST_COMPILE}"
os.environ["JAX_PLATFORMS"] = "cpu"

# A shell's background job ignores Ctrl-C, and so would the processes that tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

from jaxtyping import install_import_hook

install_import_hook("bt_jax", "beartype.beartype")

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory) -> pathlib.Path:
  """A synthetic tree of 22 patients with four slices on average."""
  from bt_jax.datasets import phantom

  root = tmp_path_factory.mktemp("phantom")
  phantom.write_tree(root, patients=22, slices=4, seed=1)
  return root


@pytest.fixture(scope="session")
def data_dir(phantom_root, tmp_path_factory) -> pathlib.Path:
  """Holds the built data set of `phantom_root`."""
  from bt_jax.datasets import store

  folder = tmp_path_factory.mktemp("tfds")
  store.open_or_build("phantom", root=str(phantom_root), data_dir=str(folder))
  return folder


@pytest.fixture(scope="session")
def builder(phantom_root, data_dir):
  from bt_jax.datasets import store

  return store.open_or_build("phantom", root=str(phantom_root), data_dir=str(data_dir))


@pytest.fixture(scope="session")
def tiny(phantom_root, data_dir) -> list[str]:
  """Flags of a run of seconds: 32 x 32 pixels, width 2, four epochs of ten steps."""
  return [
    "--config=configs/seg.py:phantom",
    f"--config.data.root={phantom_root}",
    f"--config.data.dir={data_dir}",
    "--config.data.size=32",
    "--config.model.width=2",
    "--config.model.depth=2",
    "--config.train.epochs=4",
    "--config.train.ema_decay=0.9",
    "--config.augment.rotation_degrees=10",
    "--config.eval.baselines=False",
  ]


# Compiled programs are kept between the processes of one test session.
CACHE = tempfile.TemporaryDirectory()
VARIABLES = {
  "XLA_FLAGS": _FAST_COMPILE,
  "PYTHONUNBUFFERED": "1",
  "JAX_COMPILATION_CACHE_DIR": CACHE.name,
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def start(flags: list[str], devices: int | None = None, **options: bool) -> subprocess.Popen:
  """Starts launch.py as a user would; on a CPU of so many devices, if told; `options` are of the process."""
  variables = {"XLA_FLAGS": f"{_FAST_COMPILE} --xla_force_host_platform_device_count={devices}"} if devices else {}
  return subprocess.Popen(
    [sys.executable, "launch.py", *flags],
    cwd=ROOT, env={**os.environ, **VARIABLES, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    **options,
  )  # fmt: skip


def launch(flags: list[str], devices: int | None = None) -> tuple[int, str, str]:
  """Runs launch.py to its end: (exit status, stdout, stderr)."""
  process = start(flags, devices)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def unbroken(flags: list[str], workdir: pathlib.Path) -> tuple[pathlib.Path, str]:
  """Runs launch.py in this folder to its good end: the folder and what it printed."""
  status, out, err = launch([*flags, f"--workdir={workdir}"])
  assert status == 0, err
  return workdir, out


def table_of(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def run(tiny, tmp_path_factory):
  """An unbroken run: its folder and what it printed."""
  return unbroken(tiny, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="session")
def tiny_cls(tiny) -> list[str]:
  """Flags of a classifier's run of seconds, of the same data and split as `tiny`."""
  places = [flag for flag in tiny if flag.startswith("--config.data")]
  return [
    "--config=configs/cls.py:phantom",
    *places,
    "--config.model.width=2",
    "--config.model.depth=2",
    "--config.train.epochs=2",
    "--config.train.score=loss",
    "--config.eval.baselines=False",
  ]


@pytest.fixture(scope="session")
def classifier(tiny_cls, tmp_path_factory):
  """An unbroken classifier's run: its folder and what it printed."""
  return unbroken(tiny_cls, tmp_path_factory.mktemp("runs") / "classifier")
