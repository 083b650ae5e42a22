"""Lanes: shares of this machine's devices, each for a process of its own, so that several trainings run side by side."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax

from bt_jax.distributed import setup
from bt_jax.errors import UserError

_FIELD = "crossval.parallel"
HELD_BACK = frozenset({signal.SIGINT, signal.SIGTERM})
_CORES, _CUDA = "cores", "CUDA_VISIBLE_DEVICES"
# A process of its own looks for the devices: the one that looks keeps memory of every GPU.
_LOOK = """
import json, jax
devices = jax.local_devices()
print(json.dumps([jax.default_backend(), len(devices), devices[0].client.platform_version]))
"""


class Devices(NamedTuple):
  """The devices of this machine.

  Attributes:
    kind: `cores` or `GPUs`.
    names: cores by number, or GPUs as `CUDA_VISIBLE_DEVICES` names them.
  """

  kind: str
  names: list[str]


class Lane(NamedTuple):
  """A share of the machine.

  Attributes:
    cores: processor cores; on a CPU each of them is a device.
    variables: environment variables that hide the other lanes' devices.
  """

  cores: frozenset[int]
  variables: Mapping[str, str]

  @contextlib.contextmanager
  def for_new_processes(self) -> Iterator[None]:
    """Within it, processes that this thread starts see this lane alone, and neither reacts to a signal of `HELD_BACK`."""
    cores, variables = os.sched_getaffinity(0), {name: os.environ.get(name) for name in self.variables}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
      os.sched_setaffinity(0, self.cores)
      os.environ.update(self.variables)
      yield
    finally:
      for name, value in variables.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
      os.sched_setaffinity(0, cores)
      signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def devices_to_share(wanted: str, parallel: str = "jit") -> Devices | None:
  """The devices of this machine for several trainings at a time; None where one is to run after the other.

  From then on this process computes on the CPU, as accelerators are the lanes'.

  Args:
    wanted: the number of lanes, or `auto`.
    parallel: how a step is compiled, see `sharding.compile_step`.

  Raises:
    UserError: `wanted` is neither, there are too few devices, they are neither CPU cores nor NVIDIA GPUs, there are
      other hosts, or `parallel` is not `jit`.
  """
  if wanted != "auto" and not (wanted.isdecimal() and int(wanted) > 0):
    raise UserError(f"{_FIELD} is {wanted!r}, expected the number of trainings at a time, e.g. 2, or auto")
  if wanted == "1":
    return None
  if jax.distributed.is_initialized() or setup.has_other_hosts():
    raise UserError(f"{_FIELD}={wanted} is for one host, and there are others: leave it at 1", f"{_FIELD}=1")
  if parallel != "jit":
    raise UserError(f"{_FIELD}={wanted} is for parallel=jit, and parallel is {parallel}: leave one of them out")
  if not hasattr(os, "sched_setaffinity"):
    raise UserError(
      f"{_FIELD}={wanted} needs Linux, which can keep a process on some of the cores: leave it at 1", f"{_FIELD}=1"
    )
  devices = _devices()
  if wanted == "auto" and len(devices.names) == 1:
    return None
  if wanted != "auto" and int(wanted) > (count := len(devices.names)):
    raise UserError(f"{_FIELD} is {wanted}, and there are {count} {devices.kind}: take {count} or fewer, or auto")
  jax.config.update("jax_platforms", "cpu")
  return devices


def share_out(wanted: str, most: int, devices: Devices) -> list[Lane]:
  """Lanes of equally many neighbouring devices; where the division leaves a remainder, those stay idle.

  >>> from bt_jax.distributed import lanes
  >>> gpus = lanes.Devices("GPUs", ["0", "1", "2", "3"])
  >>> [lane.variables["CUDA_VISIBLE_DEVICES"] for lane in lanes.share_out("2", 22, gpus)]
  ['0,1', '2,3']

  Each has as many of the cores for its other work.

  Args:
    wanted: the number of lanes; `auto` for one for each device, and no more than `most`.
    most: the number of trainings.
    devices: see `devices_to_share`.
  """
  count = min(len(devices.names), most) if wanted == "auto" else int(wanted)
  cores = sorted(os.sched_getaffinity(0))
  cores = _shares(cores, count) if len(cores) >= count else [cores] * count
  names = _shares(devices.names, count)
  hide = [{} if devices.kind == _CORES else {_CUDA: ",".join(own)} for own in names]
  return [Lane(frozenset(own), variables) for own, variables in zip(cores, hide, strict=True)]


def _shares(items: list, count: int) -> list[list]:
  size = len(items) // count
  return [items[start : start + size] for start in range(0, count * size, size)]


def _devices() -> Devices:
  looked = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True)
  if looked.returncode:
    last = (looked.stderr.strip() or "no message").splitlines()[-1]
    raise UserError(f"JAX finds no devices for {_FIELD} ({last}): leave it at 1", f"{_FIELD}=1")
  platform, count, version = json.loads(looked.stdout.splitlines()[-1])
  if platform == "cpu":
    return Devices(_CORES, [str(core) for core in sorted(os.sched_getaffinity(0))])
  if platform == "gpu" and "cuda" in version.lower():
    visible = os.environ.get(_CUDA)
    return Devices("GPUs", visible.split(",")[:count] if visible else [str(number) for number in range(count)])
  raise UserError(
    f"{_FIELD} gives each training its own CPU cores or NVIDIA GPUs, and these devices are of {platform.upper()}: leave it "
    "at 1, where each training uses all of them",
    f"{_FIELD}=1",
  )
