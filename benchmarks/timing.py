"""What every benchmark that takes times shares: a quiet machine, pinned threads, medians with their spread."""

import contextlib
import os
import platform
import statistics
from collections.abc import Iterator, Sequence

QUIET = 0.5  # the highest load average of the last minute at which a figure is final
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
  """Number of processor cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin_threads(threads: int = 0) -> None:
  """Gives the libraries of NumPy and of the peer so many threads; 0: one for each core, as ours has.

  Call it before torch is imported; processes that are started later inherit it. A value that the user has set
  stays. Their threads are not bound to cores: OpenMP would also bind the thread that calls it, and with it ours.
  """
  for name in _THREADS:
    os.environ.setdefault(name, str(threads or cores()))


@contextlib.contextmanager
def measuring(*versions: str) -> Iterator[None]:
  """Prints the machine before a measurement, and after it whether its figures are final.

  They are where the load average before was at most `QUIET`: other processes take time from both sides, but not equally.

  Args:
    *versions: of what is measured, e.g. `jax 0.10.2`.
  """
  load, pinned = os.getloadavg()[0], os.environ.get(_THREADS[0], "any number of")
  processor = platform.processor() or platform.machine()
  print(
    f"{processor}, {cores()} cores, {pinned} threads of OpenMP, load {load:.1f} before; Python {platform.python_version()}",
    *versions,
    sep=", ",
    flush=True,
  )
  yield
  if load > QUIET:
    print(f"not final: load {load:.1f} before, above {QUIET}: measure again on a quiet machine", flush=True)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
  """The lower quartile, the median and the upper quartile, interpolated between the values."""
  if len(values) == 1:
    return (values[0],) * 3
  return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def shown(values: Sequence[float], digits: int = 2, width: int = 10) -> str:
  """The median in a column of this width, and the quartiles in one of 14: `      2.00     1.90-2.10`."""
  lower, median, upper = quartiles(values)
  between = f"{lower:.{digits}f}-{upper:.{digits}f}"
  return f"{median:{width}.{digits}f}{between:>14}"
