"""Reads saved configurations, with today's default for each field that is newer than the run."""

import pathlib
from typing import Any

from bt_jax import files
from configs import common

# The sections that every run has had since the first version: if one is missing, the file is damaged.
_ALWAYS = ("data", "split", "model", "loss", "train", "eval")
_REMEDY = "put it back from a copy, or choose another folder"


def read(folder: pathlib.Path) -> dict[str, Any]:
  """Reads the `config.json` of a run by `over_defaults`; that of a cascade has other fields, and gets no defaults."""
  path = folder / "config.json"
  return over_defaults(files.read_json(path, dict), path)


def over_defaults(saved: Any, path: str | pathlib.Path, remedy: str = _REMEDY) -> dict[str, Any]:
  """Adds today's default for each field that a saved configuration lacks; returns nested dictionaries.

  Args:
    saved: the configuration as parsed from JSON.
    path: the file that it is from.
    remedy: the end of the error message.

  Raises:
    UserError: a field has another type than its default, or a section that every run has is missing.
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
    if name not in defaults or (prefix == "split." and value is None):  # a removed field, or the fold of a pooled run
      continue
    default = defaults[name]
    kind = {bool: bool, int: int, float: files.Real, str: str, dict: dict}.get(type(default), str | float | bool | None)
    files.check(kind, value, path, remedy, f"{prefix}{name}")
    if isinstance(default, dict):
      _check_types(value, default, path, remedy, f"{name}.")
