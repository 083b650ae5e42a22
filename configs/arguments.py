"""The arguments `--config` and `--config.<field>` as users write them, where ml_collections has no form or message for them."""

import functools
import itertools
import pathlib
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from bt_jax.errors import UserError, check_local, nearest
from configs import common

_CONFIGS = ("seg.py", "cls.py")


def find_config(argv: list[str]) -> None:
  """Resolves our configurations from any folder, as `seg.py:small` or `configs/seg.py:small`; changes `argv` in place.

  Raises:
    UserError: there is no such file, neither here nor among our configurations.
  """
  folder = pathlib.Path(common.__file__).parent
  for number, argument in enumerate(argv):
    match = re.fullmatch(r"(--?config)(?:=(.*))?", argument)
    if match is None or (match[2] is None and number + 1 == len(argv)):
      continue
    value = argv[number + 1] if match[2] is None else match[2]
    check_local(value, "config")
    path, *preset = value.split(":", 1)
    if pathlib.Path(path).is_file():
      continue
    ours = {name: folder / name for name in _CONFIGS}
    ours |= {f"configs/{name}": file for name, file in ours.items()}
    if path not in ours:
      raise UserError(f"there is no configuration {path}: ours are configs/{' and configs/'.join(_CONFIGS)}")
    argv[number : number + (2 if match[2] is None else 1)] = [f"{match[1]}={':'.join([str(ours[path]), *preset])}"]


def without_none(argv: list[str]) -> tuple[list[str], list[str]]:
  """The arguments without `--config.<field>=None`, and the fields whose last assignment is None.

  ml_collections does not understand None: for a number it is an error, and for a string it is the text "None". It also
  reads `argv` on its own, so `argv` is changed in place.
  """
  defaults = common.get_config()
  optional = [name for name in fields_of(defaults) if value_of(defaults, name) is None]
  rest, unset, arguments = [], [], iter(argv)
  for argument in arguments:
    name = match[1] if (match := re.match(r"--?config\.([\w.]+)(=|$)", argument)) else None
    words = [argument] if name not in optional or match[2] else [argument, *itertools.islice(arguments, 1)]
    if name in optional and words[-1].removeprefix(match[0]) == "None":
      unset.append(name)
    else:
      unset = [other for other in unset if other != name]
      rest += words
  argv[:] = rest
  return argv, unset


def misspelt(argv: list[str], read: Callable[[str], ConfigDict]) -> str | None:
  """The message for the first --config.<field> that does not exist in the configuration that `read` makes; None if all do."""
  path = re.search(r"(?:^|\0)--?config[=\0]([^\0]+)", "\0".join(argv))
  known = fields_of(read(path[1])) if path else []
  asked = [match[1] for argument in argv if (match := re.match(r"--?(?:no)?config\.([^=]+)", argument))]
  wrong = [name for name in asked if name not in known]
  if not wrong:
    return None
  remedy = nearest(wrong[0], known, "all of them are in configs/common.py")
  return f"there is no field {wrong[0]!r} in the configuration: {remedy}"


def value_of(config: ConfigDict, name: str) -> Any:
  """The value of a field, e.g. `train.epochs`."""
  return functools.reduce(ConfigDict.__getitem__, name.split("."), config)


def fields_of(config: ConfigDict, prefix: str = "") -> list[str]:
  """The names of all fields, those of sections with theirs: `train.epochs`."""
  names = []
  for name in config:
    names += fields_of(config[name], f"{prefix}{name}.") if isinstance(config[name], ConfigDict) else [prefix + name]
  return names
