"""Huge pages: without them, a training step on a CPU spends a quarter of its time on page faults."""

import contextlib
import os
import sys

_TUNABLES = "GLIBC_TUNABLES"


def use_huge_pages() -> None:
  """Restarts this program with glibc's huge pages on Linux, unless `GLIBC_TUNABLES` is set.

  glibc reads its tunables only when a process starts, so call this before anything else. If the program cannot be
  restarted, it continues without huge pages.
  """
  if sys.platform == "linux" and _TUNABLES not in os.environ:
    os.environ[_TUNABLES] = "glibc.malloc.hugetlb=1"
    with contextlib.suppress(OSError):
      os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
