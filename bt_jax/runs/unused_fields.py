"""Refuses the fields of a new run that were set and would have no effect."""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from bt_jax.datasets.channels import parse_channels
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.registry import DATASETS
from bt_jax.datasets.splits import KINDS
from bt_jax.errors import UserError
from bt_jax.losses import CLASSIFICATION_LOSSES, SEGMENTATION_LOSSES
from bt_jax.models import CLASSIFIERS, SEGMENTERS
from bt_jax.options import fields_of
from bt_jax.pipeline.feed import FEEDS
from bt_jax.runs.workdir import is_begun
from bt_jax.training.optimizer import OPTIMIZERS
from configs import cls, common, seg


def _of_section(section: str, options: Mapping[str, Callable]) -> dict[str, set[str]]:
  return {name: {f"{section}.{field}" for field in fields_of(option)} for name, option in options.items()}


def _choices() -> dict[str, dict[str, set[str]]]:
  """The fields that each option takes, by the field that names the option."""
  return {
    "data.name": _of_section("data", DATASETS),
    "split.kind": _of_section("split", KINDS),
    "model.name": _of_section("model", SEGMENTERS | CLASSIFIERS),
    "loss.name": _of_section("loss", SEGMENTATION_LOSSES | CLASSIFICATION_LOSSES),
    "train.optimizer": _of_section("train", OPTIMIZERS),
    "feed": FEEDS,
  }


def check(config: ConfigDict, workdir: pathlib.Path, info: DatasetInfo) -> None:
  """Raises UserError if a field was set that the options named in the configuration do not take.

  A field counts as set if its value is neither the default nor that of the preset. A run that was begun, on its own or
  by cross-validation, keeps the fields that it was begun with.

  Args:
    config: the configuration.
    workdir: the folder of the run.
    info: the data set.
  """
  if is_begun(workdir) or is_begun(workdir.parent):
    return
  values, presets = flatten_dict(config.to_dict(), sep="."), [*_presets(config)]
  is_set = lambda field: all(values[field] != preset[field] for preset in presets)
  for chooser, takes in _choices().items():
    name = values[chooser]
    for field in sorted(set().union(*takes.values()) & values.keys() - takes[name]):
      if is_set(field):
        others = " or ".join(other for other in takes if field in takes[other])
        raise UserError(
          f"{field} is {values[field]!r}, and has no effect with {chooser}={name}: leave it out; it is for {chooser}={others}"
        )
  if all(channel.sequence == info.reference_index for channel in parse_channels(config.data.channels, info)):
    for field in filter(is_set, ("augment.drop_sequence", "eval.flair_only")):
      raise UserError(
        f"{field} is {values[field]!r}, and has no effect with data.channels={config.data.channels}, which are all of "
        f"{info.reference}: leave it out; it replaces other channels by {info.reference}"
      )


def check_crossval(config: ConfigDict, *, trains: bool) -> None:
  """Raises UserError if the fold that a single training would test was set, or lanes where nothing `trains`."""
  if not trains and config.crossval.parallel != common.get_config().crossval.parallel:
    raise UserError(
      f"crossval.parallel is {config.crossval.parallel!r}, and has no effect on runs that are finished: leave it out"
    )
  if config.split.fold != common.get_config().split.fold:
    raise UserError(
      f"split.fold is {config.split.fold}, and cross-validation tests every fold: leave it out, or name the folds to test "
      "as crossval.folds",
      "crossval.folds",
    )


def _presets(config: ConfigDict) -> Iterator[dict[str, Any]]:
  """The defaults and the preset; all presets of the task where the configuration is of none, as one of a user's own."""
  file = {"segmentation": seg, "classification": cls}[config.task]
  names = [config.preset] if config.preset in file.PRESETS else file.PRESETS
  for preset in (common.get_config(), *map(file.get_config, names)):
    yield flatten_dict(preset.to_dict(), sep=".")
