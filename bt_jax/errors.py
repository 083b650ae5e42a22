"""The exceptions that end a run in one line: what a user can cause, and that a user asked for it."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")
_LONGEST = 200  # characters


class UserError(ValueError):
  """Bad input, reported in one line: what was found, where, what was expected, and the remedy.

  The line speaks of arguments and of fields of the configuration, as `data.root`. The command line prints it without a
  stack trace, followed by the flags of these arguments, and exits with status 1.

  Args:
    message: the line.
    arguments: what the remedy changes: arguments of `bt_jax.modes` and fields of the configuration, with the value where
      the remedy has one, e.g. `output`, `data.root`, `train.score=loss`, or `mode=evaluate` for a mode to run.
  """

  def __init__(self, message: str, *arguments: str):
    super().__init__(message)
    self.arguments = arguments


class MachineError(UserError):
  """What is wrong with this machine, as a full disk, and not with the input: it ends the run, not the study alone."""


# What the operating system says of this machine, and not of a file that it reads: full, over quota, not to be written.
OF_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class Stopped(Exception):
  """Ctrl-C or SIGTERM ended training after a save."""

  def __init__(self, step: int, signal_number: int):
    super().__init__(f"stopped at step {step}, saved; the same command resumes from there")
    self.exit_code = 128 + signal_number


@contextlib.contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
  """Around the import of what an extra of this package installs; also a decorator of functions that import it.

      with needs("report", "the report"):
        import matplotlib

  Raises:
    UserError: a module is not installed; `what` needs it.
  """
  try:
    yield
  except ModuleNotFoundError as error:
    raise UserError(
      f'{what} needs {error.name}, which is not installed: pip install "bt_jax[{extra}]", or -r requirements.txt'
    ) from error


def choose(field: str, name: str, options: Mapping[str, T]) -> T:
  """The option of this name; raises UserError, with the names there are, where the field holds another."""
  if name not in options:
    raise UserError(f"{field} is {name!r}, expected one of {', '.join(options)}")
  return options[name]


def one_line(error: BaseException) -> str:
  """What a library says in its error, in one line of 200 characters at most; the error's name where it says nothing."""
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."  # decoders tell stories


def check_local(path: str | os.PathLike[str], argument: str) -> None:
  """Raises UserError where a path is an address, as `gs://bucket/run`: it would become a folder of that name here.

  Args:
    path: of a file or folder, a pattern of them, or any other text.
    argument: that it was given as.
  """
  slashes = "://" if isinstance(path, str) else ":/"  # pathlib makes one of two
  if re.match(rf"[A-Za-z][A-Za-z0-9+.-]+{slashes}", text := os.fspath(path)):
    raise UserError(
      f"{text} is an address, and files are read and written on this machine alone: mount or copy it, and name "
      "the folder",
      argument,
    )
