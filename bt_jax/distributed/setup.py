"""Setup before JAX first looks for devices: the number of devices, compiler options, and the other hosts."""

import contextlib
import os
import pathlib
import re
import sys
import threading

import jax
from ml_collections import ConfigDict

from bt_jax.errors import HostLost, UserError, one_line

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_CPU_DEVICES = "--xla_force_host_platform_device_count"
CACHE = pathlib.Path("~/.cache/bt_jax/xla")


def prepare(*configs: ConfigDict) -> None:
  """Sets up JAX for runs of these configurations, before it looks for devices; later calls cannot change the devices.

  Compiled programs, and traced ones (see `programs`), are cached in `JAX_COMPILATION_CACHE_DIR` if it is set, otherwise in
  `CACHE` if that is writable; so are those that compile in less than a second, unless JAX's own variable says more. On
  a CPU every core is a device, as far as the batch sizes are divisible by their number: XLA parallelises a convolution
  with few channels poorly over cores, but a batch well.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  if any(config.train.deterministic for config in configs) and _DETERMINISTIC not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}".strip()
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (cache := _writable(CACHE)):
    jax.config.update("jax_compilation_cache_dir", str(cache))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  if _CPU_DEVICES not in flags and "JAX_NUM_CPU_DEVICES" not in os.environ:
    batch_sizes = [
      size
      for config in configs
      for size in (config.train.batch_size // max(config.train.accumulate, 1), config.eval.batch_size)
    ]
    divide = [n for n in range(1, cores() + 1) if all(size > 0 and size % n == 0 for size in batch_sizes)]
    with contextlib.suppress(RuntimeError):  # JAX has looked for devices already
      jax.config.update("jax_num_cpu_devices", max(divide, default=1))


def _writable(folder: pathlib.Path) -> pathlib.Path | None:
  """The folder, created if necessary; None without a home directory or write permission, as the cache is optional."""
  try:
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):
    return None
  return folder if os.access(folder, os.W_OK | os.X_OK) else None


def cores() -> int:
  """Number of processor cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def connect(*, coordinator: str | None, hosts: int | None, host: int | None, timeout: int) -> bool:
  """Joins the other hosts of the run, if it has any; returns whether this is the first host.

  The hosts are given by the arguments, or by the environment of SLURM or Open MPI if it has more than one task.

  Args:
    coordinator: address:port of the first host; `auto` if JAX can detect everything by itself, as on a TPU pod.
    hosts: number of processes.
    host: index of this process, from 0.
    timeout: seconds to wait for the other hosts.

  Raises:
    UserError: only some of the arguments are given, or the other hosts did not join in time.
  """
  auto = coordinator == "auto"
  given = {"coordinator": None if auto else coordinator, "hosts": hosts, "host": host}
  missing = [name for name, value in given.items() if value is None]
  if 0 < len(missing) < 3:
    raise UserError(
      f"{' and '.join(missing)} must be given too: a run on several hosts needs {', '.join(given)} on each", *missing
    )
  if missing and not auto and not has_other_hosts():
    return True
  if not missing and not re.fullmatch(r".+:\d+", coordinator):
    raise UserError(
      f"coordinator is {coordinator!r}, expected address:port of the first host, e.g. node1:12345", "coordinator"
    )
  if not missing and not 0 <= host < hosts:
    raise UserError(
      f"host is {host}, expected 0 to {hosts - 1}: they are counted from 0, and hosts says how many", "host"
    )
  failed = lambda reason: (
    f"the hosts did not meet ({reason}): start the same command on all of them, with a coordinator address that each can reach"
  )
  # JAX's own timeout ends the process with a stack trace, so it is longer.
  timer = threading.Timer(timeout, _leave, [failed(f"waited {timeout} s")])
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      coordinator_address=given["coordinator"],
      num_processes=hosts,
      process_id=host,
      cluster_detection_method=None if missing else "deactivate",
      initialization_timeout=2 * timeout,
      heartbeat_timeout_seconds=300,  # distributed/hosts.py notices sooner
      shutdown_timeout_seconds=30,
    )
  except (RuntimeError, ValueError) as error:
    raise HostLost(failed(one_line(error))) from error
  finally:
    timer.cancel()
  return jax.process_index() == 0


def _leave(message: str) -> None:
  print(f"error: {message}", file=sys.stderr, flush=True)
  os._exit(HostLost.exit_code)


def has_other_hosts() -> bool:
  """Whether the environment variables are those of a run on several hosts."""
  environment = os.environ
  return ("SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1) or int(
    environment.get("OMPI_COMM_WORLD_SIZE", 1)
  ) > 1
