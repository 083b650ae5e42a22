"""The one exception for what a user can cause."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
  """Bad input, told in one line: what was found, where, what was expected, and the cure.

  `launch.py` prints it without a stack trace and exits with status 1.
  """


def choose(field: str, name: str, options: Mapping[str, T]) -> T:
  """The option of this name; raises UserError, with the names there are, where the field holds another."""
  if name not in options:
    raise UserError(f"{field} is {name!r}, expected one of {', '.join(options)}")
  return options[name]
