"""Eight CPU devices, shapes checked at every call, and small synthetic data sets and runs shared by all tests."""

import json
import os
import pathlib
import signal
import tempfile
from collections.abc import Callable

from tests.helpers.launching import FAST_COMPILE, unbroken

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FAST_COMPILE}"
os.environ["JAX_PLATFORMS"] = "cpu"
if "PYTEST_XDIST_WORKER" not in os.environ:
  # Compiled programs are kept between the processes of one test session: workers of xdist inherit this.
  CACHE = tempfile.TemporaryDirectory()
  os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": CACHE.name,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }

# A shell's background job ignores Ctrl-C, and so would the processes that tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

from jaxtyping import install_import_hook

install_import_hook("bt_jax", "beartype.beartype")

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable:
  """`once(name, make)`: the folder of this name after `make(folder)`, which one worker does for all of them."""
  base = tmp_path_factory.getbasetemp()
  base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

  def folder_of(name: str, make: Callable[[pathlib.Path], object]) -> tuple[pathlib.Path, object]:
    answer = base / f"{name}.json"
    with FileLock(base / f"{name}.lock"):
      if not answer.exists():
        answer.write_text(json.dumps(make(base / name)))
    return base / name, json.loads(answer.read_text())

  return folder_of


@pytest.fixture(scope="session")
def phantom_root(once) -> pathlib.Path:
  """A synthetic tree of 22 patients with four slices on average."""
  from bt_jax.datasets.lgg_mri import phantom

  return once("phantom", lambda folder: str(phantom.write_tree(folder, patients=22, slices=4, seed=1)))[0]


def _build(root: pathlib.Path, data_dir: pathlib.Path):
  from bt_jax.datasets.lgg_mri import lgg_source

  return lgg_source.open_or_build("phantom", root=str(root), data_dir=str(data_dir))


@pytest.fixture(scope="session")
def data_dir(once, phantom_root) -> pathlib.Path:
  """Holds the built data set of `phantom_root`."""
  return once("tfds", lambda folder: str(_build(phantom_root, folder).data_dir))[0]


@pytest.fixture(scope="session")
def builder(phantom_root, data_dir):
  return _build(phantom_root, data_dir)


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


@pytest.fixture(scope="session")
def run(once, tiny) -> tuple[pathlib.Path, str]:
  """An unbroken run, read and never written to: its folder and what it printed."""
  return once("run", lambda folder: unbroken(tiny, folder)[1])


@pytest.fixture(scope="session")
def tiny_cls(tiny) -> list[str]:
  """Flags of a classifier's run of seconds, of the same data and split as `tiny`."""
  data = [flag for flag in tiny if flag.startswith("--config.data")]
  return [
    "--config=configs/cls.py:phantom",
    *data,
    "--config.model.width=2",
    "--config.model.depth=2",
    "--config.train.epochs=2",
    "--config.train.score=loss",
    "--config.eval.baselines=False",
  ]


@pytest.fixture(scope="session")
def classifier(once, tiny_cls) -> tuple[pathlib.Path, str]:
  """An unbroken classifier's run, read and never written to: its folder and what it printed."""
  return once("classifier", lambda folder: unbroken(tiny_cls, folder)[1])


_WHOLE_RUNS = {"run", "classifier"}


def pytest_addoption(parser):
  parser.addoption(
    "--all", action="store_true", help="the slow tests too: hosts, whole runs, other libraries, a browser"
  )


def pytest_xdist_auto_num_workers(config):
  """As many workers as cores, four at most, for the whole; none for files that are named, which start sooner so."""
  whole = config.args_source == config.ArgsSource.TESTPATHS
  return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) if whole else 0


def pytest_collection_modifyitems(config, items):
  """Leaves out what is marked slow, or needs a whole run, unless asked for all."""
  if not config.getoption("--all"):
    slow = [item for item in items if item.get_closest_marker("slow") or _WHOLE_RUNS & {*item.fixturenames}]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]
