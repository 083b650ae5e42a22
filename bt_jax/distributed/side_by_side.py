"""Runs a function for several jobs side by side, each in a process of its own on one lane, and stops them together."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from absl import logging

from bt_jax.distributed.lanes import HELD_BACK, Lane
from bt_jax.distributed.stop_signals import stop_signals
from bt_jax.errors import Stopped, UserError, one_line

_LOOK_EVERY = 0.5  # seconds between looks for a signal
_LAST_LINES = 5.0  # seconds to wait for the last lines of a process
_SPAWN = multiprocessing.get_context("spawn")  # JAX does not survive a fork
_DONE, _STOPPED = "done", "stopped"


def side_by_side(
  function: Callable[..., None],
  jobs: Mapping[str, tuple[Any, ...]],
  lanes: Sequence[Lane],
  report: Callable[[str, float], None],
) -> None:
  """Calls `function(*job)` for every job; a job starts on the lane that is free first.

  Every line that a job prints has its name before it. A process ends with its job, and returns its memory.

  Args:
    function: of a module, as other processes import it; it saves and stops on Ctrl-C.
    jobs: its arguments, by the name of the job, in order.
    lanes: see `lanes.share_out`.
    report: called with the name of each job that is done, and its seconds.

  Raises:
    UserError, OSError: as the first job that failed, once the others have saved and stopped.
    Stopped: Ctrl-C or SIGTERM, once all have saved; a second one ends them at once.
  """
  waiting, free = list(jobs), list(lanes)
  running: dict[Connection, _Process] = {}
  failures: list[Exception] = []
  stopping = False
  with stop_signals() as asked:
    try:
      while running or (waiting and not stopping):
        while waiting and free and not stopping:
          name = waiting.pop(0)
          process = _Process(name, free.pop(0), function, jobs[name])
          running[process.result] = process
          process.start()
        for result in wait(list(running), timeout=_LOOK_EVERY):
          process = running.pop(result)
          free.append(process.lane)
          outcome = process.outcome()
          if outcome == _DONE:
            report(process.name, time.perf_counter() - process.started)
          elif outcome == _STOPPED:
            asked.append(signal.SIGINT)
          else:
            failures.append(outcome)
        if (asked or failures) and not stopping:
          stopping = True
          for process in running.values():
            process.stop()
    except BaseException as error:
      started = [process for process in running.values() if process.is_started]
      for process in started:
        if isinstance(error, KeyboardInterrupt):
          process.kill()
        elif not stopping:  # a second signal would end it while it saves
          process.stop()
      for process in started:
        process.outcome()
      raise
  if failures:
    raise failures[0]
  if stopping:
    raise Stopped(None, asked[0])


class _Process:
  """One job, running.

  Attributes:
    name: of the job.
    lane: where it runs.
    started: the time on `time.perf_counter`.
    result: is ready once the job has ended.
  """

  def __init__(self, name: str, lane: Lane, function: Callable[..., None], arguments: tuple[Any, ...]):
    self.name, self.lane, self.started = name, lane, time.perf_counter()
    self.result, self._result = _SPAWN.Pipe(duplex=False)
    printed, self._output = _SPAWN.Pipe(duplex=False)
    self._process = _SPAWN.Process(
      target=_work, args=(function, arguments, self._output, self._result, logging.get_verbosity()), name=name
    )
    self._relay = threading.Thread(target=_relay, args=(name, printed), daemon=True)

  def start(self) -> None:
    """Starts the process, undisturbed by signals, so that there is none that nobody waits for."""
    with self.lane.for_new_processes():
      self._process.start()
      self._result.close()  # now only the process holds it, so that its death is noticed
      self._output.close()
      self._relay.start()

  @property
  def is_started(self) -> bool:
    """Whether there is a process."""
    return self._process.pid is not None

  def stop(self) -> None:
    """Sends the signal of Ctrl-C."""
    with contextlib.suppress(ProcessLookupError):
      os.kill(self._process.pid, signal.SIGINT)

  def kill(self) -> None:
    """Ends the process at once, with all that it started."""
    self._process.kill()
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)

  def outcome(self) -> str | Exception:
    """Waits until the process has ended and all that it printed is shown: `_DONE`, `_STOPPED` or what it failed with."""
    try:
      outcome = self.result.recv()
    except EOFError:
      outcome = None
    self._process.join()
    if outcome is None:
      self.kill()  # what it started may still hold its output
    self._relay.join(_LAST_LINES)
    if outcome is None:
      status = self._process.exitcode
      how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
      outcome = UserError(
        f"{self.name}: its process {how}: start the command again, with fewer trainings at a time if memory was short",
        "crossval.parallel",
      )
    elif isinstance(outcome, UserError):
      outcome = type(outcome)(f"{self.name}: {outcome}", *outcome.arguments)
    return outcome


def _relay(name: str, printed: Connection) -> None:
  """Prints the lines that a process printed, each after its name."""
  with os.fdopen(os.dup(printed.fileno()), errors="replace") as lines:
    printed.close()
    for line in filter(str.strip, lines):
      with contextlib.suppress(BrokenPipeError):  # the main thread notices; the process must not wait for a reader
        print(f"{name} | {line.rstrip()}\n", end="", flush=True)


def _work(
  function: Callable[..., None],
  arguments: tuple[Any, ...],
  output: Connection,
  result: Connection,
  verbosity: int,
) -> None:
  """One job, in its process; sends how it ended."""
  os.setsid()  # Ctrl-C in the terminal is for the first process, which passes it on
  for number in (1, 2):
    os.dup2(output.fileno(), number)
  output.close()
  # New ones, as those there are may take what they write to for a file.
  sys.stdout, sys.stderr = (
    os.fdopen(number, "w", buffering=1, errors="backslashreplace", closefd=False) for number in (1, 2)
  )
  logging.set_verbosity(verbosity)
  threading.Thread(target=_stop_with_parent, daemon=True).start()
  try:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    function(*arguments)
    outcome = _DONE
  except (Stopped, KeyboardInterrupt) as stop:
    print(stop if isinstance(stop, Stopped) else "stopped")
    outcome = _STOPPED
  except (UserError, OSError) as error:
    outcome = error
  except Exception as error:
    traceback.print_exc()
    outcome = UserError(f"{type(error).__name__} ({one_line(error)})")
  result.send(outcome)


def _stop_with_parent() -> None:
  """Saves and stops when the first process is killed."""
  multiprocessing.parent_process().join()
  os.kill(os.getpid(), signal.SIGINT)
