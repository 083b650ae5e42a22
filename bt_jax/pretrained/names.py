"""What published ResNet-50 files call each array, as one table for each way of naming."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from bt_jax.models.resnet import BLOCKS

Path = tuple[str, ...]  # of an array in the tree of variables, e.g. params, encoder, stem, conv, kernel


class Target(NamedTuple):
  """Where one source array goes and how it is turned."""

  path: Path
  turn: Callable[[np.ndarray], np.ndarray]


class Unit(NamedTuple):
  """A convolution with its batch norm; stage and block are 0 in the stem, conv is 0 in a shortcut."""

  stage: int
  block: int
  conv: int

  @property
  def paths(self) -> tuple[Path, Path]:
    """Our names of the convolution and the batch norm."""
    if self.stage == 0:
      return ("encoder", "stem", "conv"), ("encoder", "stem", "norm")
    block = ("encoder", f"stage{self.stage}", f"block{self.block}")
    if self.conv == 0:
      return (*block, "shortcut_conv"), (*block, "shortcut_norm")
    return (*block, f"conv{self.conv}"), (*block, f"norm{self.conv}")


def units() -> Iterator[Unit]:
  """Every convolution, in Keras's order: a shortcut stands before the last of its block."""
  yield Unit(0, 0, 0)
  for stage, blocks in enumerate(BLOCKS, 1):
    for block in range(1, blocks + 1):
      for conv in (1, 2, 0, 3) if block == 1 else (1, 2, 3):
        yield Unit(stage, block, conv)


def _torchvision(unit: Unit) -> tuple[str, str]:
  if unit.stage == 0:
    return "conv1", "bn1"
  block = f"layer{unit.stage}.{unit.block - 1}"
  if unit.conv == 0:
    return f"{block}.downsample.0", f"{block}.downsample.1"
  return f"{block}.conv{unit.conv}", f"{block}.bn{unit.conv}"


def _transformers(unit: Unit) -> tuple[str, str]:
  if unit.stage == 0:
    place = "resnet.embedder.embedder"
  else:
    layer = "shortcut" if unit.conv == 0 else f"layer.{unit.conv - 1}"
    place = f"resnet.encoder.stages.{unit.stage - 1}.layers.{unit.block - 1}.{layer}"
  return f"{place}.convolution", f"{place}.normalization"


def _radimagenet(unit: Unit) -> tuple[str, str]:
  """The children of torchvision's network, counted: 0 and 1 are the stem, 4 to 7 the stages."""
  conv, norm = _torchvision(unit)
  if unit.stage == 0:
    return "backbone.0", "backbone.1"
  rename = lambda name: re.sub(r"layer(\d)", lambda match: f"backbone.{int(match[1]) + 3}", name)
  return rename(conv), rename(norm)


def _keras(unit: Unit) -> tuple[str, str]:
  place = "conv1" if unit.stage == 0 else f"conv{unit.stage + 1}_block{unit.block}_{unit.conv}"
  return f"{place}_conv", f"{place}_bn"


def _same(array: np.ndarray) -> np.ndarray:
  return array


_TORCH_ARRAYS = {
  "conv": {"weight": (("params", "kernel"), lambda array: array.transpose(2, 3, 1, 0))},
  "norm": {
    "weight": (("params", "scale"), _same),
    "bias": (("params", "bias"), _same),
    "running_mean": (("batch_stats", "mean"), _same),
    "running_var": (("batch_stats", "var"), _same),
  },
  "dense": {"weight": (("params", "kernel"), np.transpose), "bias": (("params", "bias"), _same)},
}
_KERAS_ARRAYS = {
  "conv": {"kernel": (("params", "kernel"), _same), "bias": (("params", "bias"), _same)},
  "norm": {
    "gamma": (("params", "scale"), _same),
    "beta": (("params", "bias"), _same),
    "moving_mean": (("batch_stats", "mean"), _same),
    "moving_variance": (("batch_stats", "var"), _same),
  },
  "dense": {"kernel": (("params", "kernel"), _same), "bias": (("params", "bias"), _same)},
}


@dataclasses.dataclass(frozen=True)
class Naming:
  """One way of naming.

  Attributes:
    title: what a user calls it.
    variant: of the network that is stored so, a name of `VARIANTS`.
    normalize: how the inputs of the published weights are normalised, a name of `pipeline.preprocess.SCHEMES`.
    unit: from a unit to the names of its convolution and batch norm.
    dense: the name of the classifier.
    arrays: from the kind of layer and the name of an array to its place in ours and how it is turned.
    join: between layer and array.
  """

  title: str
  variant: str
  normalize: str
  unit: Callable[[Unit], tuple[str, str]]
  dense: str
  arrays: dict
  join: str

  def targets(self) -> dict[str, Target]:
    """From each source name to its place; the classifier's are among them."""
    table = {}
    layers = [("dense", self.dense, ("head", "dense"))]
    for unit in units():
      layers += zip(("conv", "norm"), self.unit(unit), unit.paths, strict=True)
    for kind, source, path in layers:
      for array, ((collection, leaf), turn) in self.arrays[kind].items():
        table[f"{source}{self.join}{array}"] = Target((collection, *path, leaf), turn)
    return table

  @property
  def first(self) -> str:
    """The name of the first kernel, by which a file is recognised."""
    return self._name(self.unit(Unit(0, 0, 0))[0], "conv", "kernel")

  @property
  def beyond(self) -> str:
    """The name of a kernel that only a larger network has."""
    return self._name(self.unit(Unit(3, BLOCKS[2] + 1, 1))[0], "conv", "kernel")

  @property
  def classifier(self) -> tuple[str, str]:
    """The names of kernel and bias of the classifier, which a file may lack."""
    return self._name(self.dense, "dense", "kernel"), self._name(self.dense, "dense", "bias")

  def _name(self, layer: str, kind: str, leaf: str) -> str:
    (array,) = (array for array, (place, _) in self.arrays[kind].items() if place == ("params", leaf))
    return f"{layer}{self.join}{array}"


NAMINGS = (
  Naming("torchvision or timm", "torchvision", "imagenet", _torchvision, "fc", _TORCH_ARRAYS, "."),
  Naming("Hugging Face transformers", "torchvision", "imagenet", _transformers, "classifier.1", _TORCH_ARRAYS, "."),
  Naming("RadImageNet (PyTorch)", "torchvision", "symmetric", _radimagenet, "fc", _TORCH_ARRAYS, "."),
  Naming("Keras", "keras", "caffe", _keras, "predictions", _KERAS_ARRAYS, "/"),
)
