"""What made the results of a run: versions, commit, machine and time."""

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
  """What made the results: versions, commit and time, for `summary.json`."""
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
  """The processor's name, where the system tells it, and how many cores this process may use."""
  path = pathlib.Path("/proc/cpuinfo")
  names = re.findall(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.is_file() else []
  return f"{setup.cores()} cores of {names[0] if names else platform.processor() or platform.machine()}"


@functools.cache
def _commit() -> str | None:
  """Of the checkout that this code runs from, `-dirty` where files differ from it; None elsewhere."""
  root = pathlib.Path(__file__).parent.parent.parent
  if not (root / ".git").exists():
    return None
  try:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
  except (OSError, subprocess.SubprocessError):  # no git here
    return None


def devices() -> str:
  """What a run is on, in words."""
  found = jax.devices()
  hosts = f" of {jax.process_count()} hosts" if jax.process_count() > 1 else ""
  return f"{len(found)} x {found[0].device_kind}{hosts}"
