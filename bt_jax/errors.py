"""The exceptions that end a run with one line: a user's mistake, or a user's request to stop."""

import contextlib
import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")
_LONGEST = 200  # characters


class UserError(ValueError):
  """Bad input, reported in one line: what was found, where, what was expected, and the remedy.

  The line names arguments and configuration fields, such as `data.root`, and no flags. The command line prints it
  without a stack trace, followed by the flags for `arguments`, and exits with `exit_code`.

  Args:
    message: the line.
    *arguments: the arguments of `bt_jax.modes` and the configuration fields that the remedy changes, with a value if
      the remedy gives one, e.g. `output`, `data.root`, `train.score=loss`, or `mode=evaluate` for a mode to run.
  """

  exit_code = 1

  def __init__(self, message: str, *arguments: str):
    super().__init__(message)
    self.arguments = arguments


class StudiesFailed(UserError):
  """Some studies could not be predicted; all others were."""

  exit_code = 2


class HostLost(UserError):
  """Another host of this run does not answer: the same command on all of them starts or resumes it."""

  exit_code = 75  # EX_TEMPFAIL of sysexits.h


class MachineError(UserError):
  """A fault of this machine, such as a full disk, and not of the input: it ends the whole run, not only one study."""


# Errors of the operating system that are faults of the machine: disk full, over quota, no permission, read-only.
OF_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class Stopped(Exception):
  """Ctrl-C or SIGTERM ended training after a save, at this step; None for several trainings, each at a step of its own."""

  def __init__(self, step: int | None, signal_number: int):
    where = "" if step is None else f" at step {step}"
    super().__init__(f"stopped{where}, saved; the same command resumes from there")
    self.exit_code = 128 + signal_number


@contextlib.contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
  """Wraps the import of a package from an optional extra; also a decorator for functions with such an import.

      with needs("train", "the report"):
        import matplotlib

  Raises:
    UserError: a module that `what` needs is not installed.
  """
  try:
    yield
  except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] in ("bt_jax", "configs"):  # a fault of ours
      raise
    raise UserError(f'{what} needs {error.name}, which is not installed: pip install ".[{extra}]"') from error


def nearest(name: str, options: Iterable[str], otherwise: str = "") -> str:
  """The remedy for a misspelt field: the name that it is nearest to, or where none is near, `otherwise` or all names."""
  options = list(options)
  near = difflib.get_close_matches(name, options, n=1)
  return f"did you mean {near[0]}?" if near else otherwise or f"expected one of {', '.join(options)}"


def choose(field: str, name: str, options: Mapping[str, T]) -> T:
  """The option of this name; raises UserError, listing the valid names, if there is none."""
  if name not in options:
    raise UserError(f"{field} is {name!r}, expected one of {', '.join(options)}")
  return options[name]


def one_line(error: BaseException) -> str:
  """The message of a library's error, in one line of at most 200 characters; the error's type if it has no message."""
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."  # some decoders write very long messages


def check_local(path: str | os.PathLike[str], argument: str) -> None:
  """Raises UserError if a path is an address such as `gs://bucket/run`: it would become a local folder of that name.

  Args:
    path: a file, a folder, a glob pattern, or any other text.
    argument: the name of the argument that holds it.
  """
  slashes = "://" if isinstance(path, str) else ":/"  # pathlib merges the two slashes into one
  if re.match(rf"[A-Za-z][A-Za-z0-9+.-]+{slashes}", text := os.fspath(path)):
    raise UserError(
      f"{text} is an address, and only local files are read and written: mount or copy it, and name the local folder",
      argument,
    )
