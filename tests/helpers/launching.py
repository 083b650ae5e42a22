"""launch.py as a user starts it, and, several times faster, in a process forked from one that has the libraries."""

import csv
import importlib.metadata
import multiprocessing.forkserver
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

from packaging.version import Version

ROOT = pathlib.Path(__file__).parents[2]
# The programs of tests run for moments: they compile with a tenth less work in one piece than in pieces for threads, of
# which the workers leave none idle, and in half the time without the newer code generator. JAX 0.12 has no other,
# and XLA ends a process that is given a flag it does not know.
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if Version(importlib.metadata.version("jaxlib")) < Version("0.11"):
  FAST_COMPILE += " --xla_cpu_use_fusion_emitters=false"
VARIABLES = {"XLA_FLAGS": FAST_COMPILE, "PYTHONUNBUFFERED": "1"}

# What takes seconds to import, and nothing of ours: launch.py still comes to its own modules in its own order.
_LIBRARIES = [
  "jax",
  "flax.linen",
  "optax",
  "orbax.checkpoint",
  "grain",
  "tensorflow_datasets",
  "ml_collections.config_flags",
  "tensorboardX",
  "scipy.stats",
  "scipy.ndimage",
  "skimage.measure",
  "sklearn.linear_model",
  "sklearn.cluster",
  "matplotlib.pyplot",
  "nibabel",
  "pydicom",
  "highdicom",
  "tifffile",
  "h5py",
  "pydantic",
]
_FORKS = multiprocessing.get_context("forkserver")


def environment(devices: int | None = None) -> dict[str, str]:
  """The variables of a process of its own; of a CPU of so many devices, if given."""
  flags = {"XLA_FLAGS": f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}"} if devices else {}
  return {**os.environ, **VARIABLES, **flags}


def start(
  flags: list[str], devices: int | None = None, variables: dict[str, str] | None = None, **options: bool
) -> subprocess.Popen:
  """Starts launch.py as a user would, with these variables too; `options` are of the process."""
  return subprocess.Popen(
    [sys.executable, "launch.py", *flags],
    cwd=ROOT, env=environment(devices) | (variables or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
  )  # fmt: skip


def launch(flags: list[str], devices: int | None = None) -> tuple[int, str, str]:
  """Runs launch.py to its end: (exit status, stdout, stderr)."""
  multiprocessing.forkserver.set_forkserver_preload(_LIBRARIES)
  with tempfile.TemporaryDirectory() as folder:
    out, err = (pathlib.Path(folder, name) for name in ("out", "err"))
    # Huge pages are of a process from its start: without the variable, launch.py would start itself anew.
    variables = {"GLIBC_TUNABLES": "", **environment(devices)}
    process = _FORKS.Process(target=_run, args=(flags, variables, str(out), str(err)))
    process.start()
    process.join(timeout=300)
    if process.is_alive():
      process.kill()
      raise TimeoutError(f"launch.py {' '.join(flags)}: {out.read_text()} {err.read_text()}")
    return process.exitcode, out.read_text(), err.read_text()


def _run(flags: list[str], variables: dict[str, str], *outputs: str) -> None:
  """launch.py, in the process that it is alone in."""
  for number, path in enumerate(outputs, start=1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
  os.environ.clear()
  os.environ.update(variables)
  os.chdir(ROOT)
  sys.argv = ["launch.py", *flags]
  runpy.run_path("launch.py", run_name="__main__")


def unbroken(flags: list[str], workdir: pathlib.Path, devices: int | None = None) -> tuple[pathlib.Path, str]:
  """Runs launch.py in this folder to its good end: the folder and what it printed."""
  status, out, err = launch([*flags, f"--workdir={workdir}"], devices)
  assert status == 0, err
  return workdir, out


def printed(out: str) -> tuple[str, list[str]]:
  """The line of the verdict in what a command printed, and the lines of the table under it."""
  lines = out.splitlines()
  start = next(number for number, line in enumerate(lines) if "; report: " in line)
  return lines[start], lines[start + 2 : lines.index("written:") - 1]


def table_of(path: pathlib.Path) -> list[dict[str, str]]:
  """The rows of a CSV file."""
  with open(path, newline="") as file:
    return list(csv.DictReader(file))
