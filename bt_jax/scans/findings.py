"""Collects what libraries log or warn about a file, to report it as a warning of ours instead of printing it."""

import contextlib
import contextvars
import logging
import re
import warnings
from collections.abc import Iterator

_LIBRARIES = (
  "PIL",
  "nibabel",
  "tifffile",
  "imagecodecs",
  "pydicom",
  "highdicom",
  "pylibjpeg",
  "openjpeg",
  "libjpeg",
  "jpeg_ls",
)
_PRINTS = "nibabel.global"  # has a handler of its own
_MODULES = (*_LIBRARIES, "scans")  # some warnings name their caller's module
_MOST, _LONGEST = 3, 160  # sentences for one file or study, and characters in each
_KEPT: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("findings", default=None)


def _keep(record: logging.LogRecord) -> bool:
  """Keeps a record that is logged while we read a file; returns False for any other record."""
  kept = _KEPT.get()
  if kept is not None and record.levelno >= logging.WARNING and not record.exc_info:
    kept.append(record.getMessage())
  return kept is not None


class _Handler(logging.Handler):
  """Passes on all other records as if this handler did not exist."""

  def emit(self, record: logging.LogRecord) -> None:
    if not _keep(record):
      logging.getLogger().handle(record)


for _library in _LIBRARIES:
  logging.getLogger(_library).addHandler(_Handler())
  logging.getLogger(_library).propagate = False
logging.getLogger(_PRINTS).addFilter(lambda record: not _keep(record))


@contextlib.contextmanager
def kept() -> Iterator[list[str]]:
  """Collects what the libraries that read files log in this thread, in a list that `sentences` takes afterwards."""
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
  """The first few messages about the file or study of this name, a sentence each, leaving out any that differ only in numbers."""
  lines = [" ".join(re.sub(r"\s*Please see <\S*> for .*", "", message).split()) for message in messages]
  distinct = {re.sub(r"\d+", "#", line): line for line in reversed(lines)}
  return [f"{name} does not conform to its format ({line[:_LONGEST]})" for line in [*distinct.values()][::-1][:_MOST]]
