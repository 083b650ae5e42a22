"""The exceptions that end a run in one line: what a user can cause, and that a user asked for it."""

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
  """Bad input, reported in one line: what was found, where, what was expected, and the remedy.

  `launch.py` prints it without a stack trace and exits with status 1.
  """


class MachineError(UserError):
  """What is wrong with this machine, as a full disk, and not with the input: it ends the run, not the study alone."""


# What the operating system says of this machine, and not of a file that it reads: full, over quota, not to be written.
OF_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class Stopped(Exception):
  """Ctrl-C or SIGTERM ended training after a save."""

  def __init__(self, step: int, signal_number: int):
    super().__init__(f"stopped at step {step}, saved; the same command goes on from there")
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
