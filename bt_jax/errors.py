"""The one exception for what a user can cause."""


class UserError(Exception):
  """Bad input, told in one line: what was found, where, what was expected, and the cure.

  `launch.py` prints it without a stack trace and exits with status 1.
  """
