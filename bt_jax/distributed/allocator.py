"""Memory in huge pages, without which a training step on a CPU spends a quarter of its time on page faults."""

import contextlib
import os
import sys

_TUNABLES = "GLIBC_TUNABLES"


def use_huge_pages() -> None:
  """Starts this program again with glibc's huge pages, on Linux, unless `GLIBC_TUNABLES` says otherwise.

  glibc reads them when a process starts, and at no other time; to be called before anything else is done. Where a
  program may not be started again, this one continues without.
  """
  if sys.platform == "linux" and _TUNABLES not in os.environ:
    os.environ[_TUNABLES] = "glibc.malloc.hugetlb=1"
    with contextlib.suppress(OSError):
      os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
