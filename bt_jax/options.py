"""The fields that an option takes: a network, loss, optimiser, split or data set that a configuration names."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

_OF_FLAX = {"name", "parent"}  # that every module has


def fields_of(option: Callable) -> set[str]:
  """The names of the fields that an option takes: the keyword-only arguments of a function, the attributes of a module.

  >>> sorted(fields_of(bt_jax.losses.dice))
  ['overlapping', 'pooled', 'smooth']
  >>> sorted(fields_of(bt_jax.models.UNet))
  ['classes', 'depth', 'dtype', 'norm', 'width']
  """
  if dataclasses.is_dataclass(option):
    return {field.name for field in dataclasses.fields(option)} - _OF_FLAX
  parameters = inspect.signature(option).parameters.values()
  return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def taken(option: Callable, fields: Mapping[str, Any]) -> dict[str, Any]:
  """Those of the fields that the option takes.

  >>> taken(bt_jax.losses.dice, {"smooth": 1.0, "pooled": True, "exponent": 0.75})
  {'smooth': 1.0, 'pooled': True}
  """
  return {field: value for field, value in fields.items() if field in fields_of(option)}
