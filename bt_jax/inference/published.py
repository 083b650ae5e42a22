"""The weights of the published U-Net, mateuszbuda/brain-segmentation-pytorch, as a network to predict with."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bt_jax.errors import UserError
from bt_jax.models.unet import UNET, UNET_FIELDS
from bt_jax.pretrained import conversion, sources
from bt_jax.version import __version__

if TYPE_CHECKING:
  from bt_jax.inference.networks import Network

MODEL = {"name": UNET, **UNET_FIELDS}
# As its `inference.py` decides: probabilities are rounded, and the largest connected part is kept.
DECISION = {"threshold": 0.5, "temperature": 1.0, "tumor_probabilities": []}
_EXPORTS = ".bin"  # a file of this suffix is one of our exports rather than weights


def is_weights(path: pathlib.Path) -> bool:
  """Whether a path is a file of weights, or a folder of converted ones, rather than a run or an export."""
  suffix = sources.suffix_of(path)
  return conversion.is_converted(path) or (path.is_file() and suffix in sources.READERS and suffix != _EXPORTS)


def load(path: pathlib.Path, argument: str) -> conversion.Weights:
  """Loads the weights of the published U-Net with one class.

  Raises:
    UserError: the file cannot be read, or holds another network or other classes.
  """
  try:
    weights = conversion.load_weights(str(path))
  except UserError as error:
    raise UserError(f"{argument}: {str(error).removeprefix('model.pretrained: ')}", argument) from None
  if not weights.is_whole:
    raise UserError(
      f"{path} holds {weights.title}, the weights of an encoder, which segments nothing: train a run that starts from them, "
      "or name the weights of the published U-Net",
      "model.pretrained",
    )
  if (classes := len(weights.variables["params"]["head"]["bias"])) != 1:
    raise UserError(
      f"{path} is a U-Net of {classes} classes, expected one, the tumour: what its classes are is not in the file; train a run "
      "that starts from it",
      "model.pretrained",
    )
  return weights


def describe(path: pathlib.Path, weights: conversion.Weights) -> dict[str, Any]:
  """The origin of the network, for outputs."""
  return {
    "path": str(path.resolve()),
    "model": UNET,
    "data": "lgg_mri",
    "split": "as published by mateuszbuda/brain-segmentation-pytorch",
    "step": 0,
    "arrays_sha256": weights.sha256,
    "threshold": DECISION["threshold"],
    "bt_jax": __version__,
  }


def check_together(segmenters: Sequence["Network"], classifiers: Sequence["Network"]) -> bool:
  """Whether all networks see the head alone; raises UserError where only some do, as they cannot share a grid."""
  networks = sorted((*segmenters, *classifiers), key=lambda network: not network.view.cropped)
  first, last = networks[0], networks[-1]
  if first.view.cropped != last.view.cropped:
    raise UserError(
      f"{first.about['path']} is a published U-Net, which sees the head alone, and {last.about['path']} sees the whole slice: "
      "predict with them one after another",
      "checkpoint",
    )
  return first.view.cropped
