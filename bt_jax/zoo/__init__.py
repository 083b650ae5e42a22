"""Trained weights that ship with bt_jax; each is one file, with a card of the same name beside it."""

import pathlib

from bt_jax.errors import UserError
from bt_jax.training.network_file import SUFFIX

_FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
  """The names of the weights."""
  return sorted(path.stem for path in _FOLDER.glob(f"*{SUFFIX}"))


def path_of(name: str) -> pathlib.Path | None:
  """The file of the weights of this name; None if there are none.

  Raises:
    UserError: a run in the current folder has this name too.
  """
  if name not in names():
    return None
  if (pathlib.Path(name) / "config.json").is_file():
    raise UserError(f"{name} names the weights that ship, and a run in this folder: write ./{name} for the run")
  return _FOLDER / f"{name}{SUFFIX}"
