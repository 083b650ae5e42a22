"""What libraries log or warn of over a file is kept for a sentence of ours, and not printed."""

import contextlib
import contextvars
import logging
import warnings
from collections.abc import Iterator

_LIBRARIES = ("nibabel.global", "tifffile", "PIL.Image", "PIL.PngImagePlugin", "PIL.TiffImagePlugin")
_MODULES = ("PIL", "nibabel", "tifffile", "imagecodecs", "scans")  # some blame their caller
_MOST, _LONGEST = 3, 160  # sentences of one file, and characters of each
_KEPT: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("findings", default=None)


class _Filter(logging.Filter):
  """Keeps records that are logged while a file of ours is read; all others pass."""

  def filter(self, record: logging.LogRecord) -> bool:
    kept = _KEPT.get()
    if kept is not None and record.levelno >= logging.WARNING:
      kept.append(record.getMessage())
    return kept is None


for _library in _LIBRARIES:
  logging.getLogger(_library).addFilter(_Filter())


@contextlib.contextmanager
def kept() -> Iterator[list[str]]:
  """Keeps what nibabel, tifffile and Pillow say in this thread; the list grows, and is for `sentences`."""
  token = _KEPT.set(messages := [])
  try:
    with warnings.catch_warnings(record=True, action="always") as caught:
      yield messages
  finally:
    _KEPT.reset(token)
    for one in caught:
      if any(name in one.filename for name in _MODULES):
        messages.append(str(one.message))
      else:  # of another thread
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def sentences(name: str, messages: list[str]) -> list[str]:
  """The first few of what was kept over the file of this name, a sentence each, none twice."""
  lines = dict.fromkeys(" ".join(message.split())[:_LONGEST] for message in messages)
  return [f"{name} does not keep to its format ({line})" for line in [*lines][:_MOST]]
