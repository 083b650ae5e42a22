"""Runs on several hosts: how they agree, and what happens when one is lost."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from bt_jax.distributed import lost_host
from bt_jax.errors import HostLost, Stopped, UserError, one_line

_LOST = re.compile("gloo|nccl|unavailable|deadline|coordination|heartbeat|barrier", re.IGNORECASE)

_ENDING = threading.Lock()


def is_first() -> bool:
  """Whether this is the host that writes tables; checkpoints are written by all hosts together."""
  return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
  """The JSON-serialisable values of all hosts, in the order of the hosts; all must call this at the same point."""
  if jax.process_count() == 1:
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array([len(text)])).ravel()
  padded = np.zeros(lengths.max(), np.uint8)
  padded[: len(text)] = text
  texts = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
  return [json.loads(bytes(text[:length])) for text, length in zip(texts, lengths, strict=True)]


@contextlib.contextmanager
def together() -> Iterator[None]:
  """An exception on one host is raised on all: unchanged on that host, and on the others as a one-line UserError."""
  problem: Exception | None = None
  described: list[str] = []
  try:
    yield
  except Exception as error:
    problem = error
    described = [str(error), *error.arguments] if isinstance(error, UserError) else [one_line(error)]
  problems = gather(described)
  if problem is not None:
    raise problem
  if elsewhere := next(filter(None, problems), None):
    raise UserError(*elsewhere)


@contextlib.contextmanager
def watch(folder: pathlib.Path, *, timeout: int) -> Iterator[None]:
  """Ends this process with one line if another host gives no sign of life for `timeout` seconds.

  Each host increments a counter in its own file in `folder`, which all hosts share, and reads the files of the others.
  Collectives on GPUs wait forever for a lost host, and JAX's own heartbeat ends the process with a stack trace.
  """
  count, me = jax.process_count(), jax.process_index()
  if count == 1:
    yield
    return
  folder.mkdir(parents=True, exist_ok=True)
  done = threading.Event()
  beat = lambda host: folder / str(host)

  def heard(host: int) -> str:
    try:
      return beat(host).read_text()
    except OSError:
      return ""

  def look() -> None:
    last = {host: (heard(host), time.monotonic()) for host in range(count) if host != me}
    beats = 0
    while not done.wait(timeout / 10):
      beats += 1
      with contextlib.suppress(OSError):
        beat(me).write_text(f"{os.getpid()} {beats}")
      for host, (last_beat, when) in last.items():
        if (says := heard(host)) != last_beat:
          last[host] = says, time.monotonic()
        elif time.monotonic() - when > timeout:
          leave(f"host {host} of {count} was not heard of for {timeout} s")

  beat(me).write_text(f"{os.getpid()} 0")
  thread = threading.Thread(target=look, daemon=True)
  thread.start()
  try:
    with (
      lost_host.instead_of_abort(lambda: leave("the first host, the coordinator, does not answer")),
      _one_line(folder),
    ):
      yield
      multihost_utils.sync_global_devices("bt_jax: done")
  finally:
    done.set()
    thread.join()
    beat(me).unlink(missing_ok=True)


@contextlib.contextmanager
def _one_line(folder: pathlib.Path) -> Iterator[None]:
  """Ends this process with one line on an error that cannot wait for other hosts, while JAX's abort is still caught."""
  try:
    yield
  except (UserError, Stopped, BrokenPipeError) as error:
    if "gloo" in str(error.__cause__).lower():
      leave("the communication between the hosts failed")
    raise
  except Exception as error:
    # JAX raises its own errors, and ValueError where hosts exchange a checkpoint or values for the tables.
    if _LOST.search(str(error)):
      leave(f"the communication between the hosts failed ({one_line(error)})")
    # An error of this host alone: on a normal exit JAX would wait for the others, and then abort.
    if isinstance(error, OSError):
      end(
        f"cannot read or write {error.filename or folder.parent} ({error.strerror or error}): free some space or fix the folder"
      )
    traceback.print_exc()
    end(f"{type(error).__name__}; the other hosts also stop")


def leave(reason: str) -> NoReturn:
  """Ends this process because another host is gone; see `end`."""
  end(
    f"{reason}: another host is gone, so this one stops; the same command on all hosts resumes from the last checkpoint",
    HostLost.exit_code,
  )


def end(message: str, status: int = 1) -> NoReturn:
  """Prints one line, and ends this process and its children at once, without waiting for the other hosts."""
  _ENDING.acquire()  # another thread may have noticed as well; one line is enough
  for process in multiprocessing.active_children():
    process.kill()
  print(f"\nerror: {message}", file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(status)
