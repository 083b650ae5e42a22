"""Ctrl-C and SIGTERM as a request to save and stop."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
  """Collects Ctrl-C and SIGTERM instead of ending the process; a second one ends it at once."""
  asked: list[int] = []

  def note(number: int, frame: Any) -> None:
    if asked:
      raise KeyboardInterrupt
    asked.append(number)

  before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield asked
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
