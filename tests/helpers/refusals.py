"""Bad input is refused in one line."""

import pytest

from bt_jax.cli import with_flags
from bt_jax.errors import UserError


def refused(call, *words):
  """Calls what raises a UserError, and returns it: one line that holds these words, as the command line prints it.

  A refusal is not wrapped in another one, as a reader would do that takes it for a library's ValueError.
  """
  with pytest.raises(UserError) as raised:
    call()
  line = with_flags(raised.value)
  assert "\n" not in line
  assert not isinstance(raised.value.__cause__, UserError), line
  for word in words:
    assert str(word) in line, line
  return raised.value
