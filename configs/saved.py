"""Configurations on disk, read over the defaults of today: a field that is newer than a run had its default there."""

import pathlib
from typing import Any

from bt_jax import files
from configs import common

# The sections that every run has had from the first version on: where one is missing, the file is damaged.
_ALWAYS = ("data", "split", "model", "loss", "train", "eval")
_REMEDY = "put it back from a copy, or choose another folder"


def read(folder: pathlib.Path) -> dict[str, Any]:
  """The `config.json` of the run in a folder, as `over_defaults`; that of a cascade, which has other fields, as it is."""
  path = folder / "config.json"
  return over_defaults(files.read_json(path, dict), path)


def over_defaults(saved: Any, path: str | pathlib.Path, remedy: str = _REMEDY) -> dict[str, Any]:
  """A saved configuration, as nested dictionaries, with today's default of each field that it does not have.

  Args:
    saved: as JSON gives it.
    path: that it is from.
    remedy: ends a refusal.

  Raises:
    UserError: a field is of another type than its default, or a section is missing that every run has.
  """
  defaults = common.get_config().to_dict()
  _check_types(files.check(dict, saved, path, remedy, "the configuration"), defaults, path, remedy)
  if "segmenter" in saved:
    return saved
  if missing := [name for name in _ALWAYS if name not in saved]:
    raise files.damaged(path, f"it lacks {missing[0]}", remedy)
  sections = {name: value | saved.get(name, {}) for name, value in defaults.items() if isinstance(value, dict)}
  return defaults | saved | sections


def _check_types(
  saved: dict[str, Any], defaults: dict[str, Any], path: str | pathlib.Path, remedy: str, prefix: str = ""
) -> None:
  for name, value in saved.items():
    if name not in defaults or (prefix == "split." and value is None):  # of an older version, or of many folds
      continue
    default = defaults[name]
    kind = {bool: bool, int: int, float: files.Real, str: str, dict: dict}.get(type(default), str | float | bool | None)
    files.check(kind, value, path, remedy, f"{prefix}{name}")
    if isinstance(default, dict):
      _check_types(value, default, path, remedy, f"{name}.")
