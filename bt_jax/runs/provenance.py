"""The provenance of a run's results: versions, commit, machine, devices and time."""

import datetime
import functools
import importlib.metadata
import pathlib
import platform
import re
import subprocess
from typing import Any

import jax

from bt_jax.distributed import setup
from bt_jax.version import __version__


def provenance() -> dict[str, Any]:
  """Versions, commit, machine and time, for `summary.json`."""
  packages = ("jax", "jaxlib", "flax", "optax", "numpy")
  return {
    "versions": {
      "bt_jax": __version__,
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in packages},
    },
    "commit": _commit(),
    "machine": _machine(),
    "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }


@functools.cache
def _machine() -> str:
  """The processor's name, if the system reports it, and the number of cores that this process may use."""
  path = pathlib.Path("/proc/cpuinfo")
  names = re.findall(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.is_file() else []
  return f"{setup.cores()} cores of {names[0] if names else platform.processor() or platform.machine()}"


@functools.cache
def _commit() -> str | None:
  """The commit of the checkout that this code runs from, with `-dirty` if files differ; None outside a checkout."""
  root = pathlib.Path(__file__).parent.parent.parent
  if not (root / ".git").exists():
    return None
  try:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
  except (OSError, subprocess.SubprocessError):  # no git here
    return None


def devices() -> str:
  """The devices of a run, as text."""
  every = jax.devices()
  hosts = f" of {jax.process_count()} hosts" if jax.process_count() > 1 else ""
  return f"{len(every)} x {every[0].device_kind}{hosts}"
