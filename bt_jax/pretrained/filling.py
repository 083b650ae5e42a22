"""Fills the variables of a network from published weights, and checks beforehand that they fit."""

from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from bt_jax.errors import UserError
from bt_jax.models.unet import UNET, UNET_FIELDS
from bt_jax.pretrained.conversion import ENCODER, HEAD, TITLES, Weights, some
from bt_jax.pretrained.names import Path

PyTree = Any
_FIRST_KERNELS: tuple[Path, ...] = (
  ("params", ENCODER, "stem", "conv", "kernel"),
  ("params", "encoder1", "conv1", "kernel"),
)


def check_fits(shapes: PyTree, weights: Weights, *, encoder: str) -> None:
  """Raises UserError if the network has no encoder, another encoder, or one with other arrays.

  Args:
    shapes: the network's variables, or their shapes.
    weights: see `Weights`.
    encoder: encoder of the network, see `models.encoder_of`.
  """
  if weights.variant == UNET and encoder == "":
    raise UserError(
      f"model.pretrained: {weights.origin} is {weights.title}, which has batch norm: take {weights.fields} and "
      "model.norm=batch, or leave model.pretrained empty",
      weights.field,
      "model.name",
      "model.norm=batch",
      "model.pretrained=",
    )
  if encoder in ("", UNET) and encoder != weights.variant:
    raise UserError(
      f"model.pretrained: {weights.origin} is {weights.title}, and this network has no published encoder: take "
      f"{weights.fields}, or leave model.pretrained empty",
      weights.field,
      "model.name",
      "model.pretrained=",
    )
  if encoder != weights.variant:
    raise UserError(
      f"{weights.origin} holds {weights.title}, and the encoder of this network is {TITLES[encoder]} ({encoder}): take "
      f"{weights.fields}",
      weights.field,
      "model.name",
    )
  wanted, given = (_taken_shapes(tree, weights) for tree in (shapes, weights.variables))
  differ = [
    f"{'/'.join(path[1:])} is {given.get(path, 'missing')}, expected {wanted.get(path, 'none')}"
    for path in sorted(wanted.keys() | given.keys())
    if given.get(path) != wanted.get(path)
  ]
  if differ:
    raise UserError(
      f"{weights.origin} does not hold the {'network' if weights.is_whole else 'encoder'} of this run: {some(differ)}; "
      + (
        f"set {' and '.join(map('model.{0[0]}={0[1]}'.format, UNET_FIELDS.items()))}"
        if weights.is_whole
        else "name another"
      )
    )


def _is_taken(path: Path, weights: Weights) -> bool:
  """Whether a network takes this array whatever its classes: all but the head of a whole network, or the encoder."""
  return path[1] != HEAD if weights.is_whole else path[1] == ENCODER


def _taken_shapes(tree: PyTree, weights: Weights) -> dict[Path, tuple[int, ...]]:
  """Shapes of the arrays that are taken, by path; the first kernel's is without its input channels, which can be adapted."""
  flat = flax.traverse_util.flatten_dict(tree)
  shapes = {path: tuple(leaf.shape) for path, leaf in flat.items() if _is_taken(path, weights)}
  return {path: (*shape[:2], *shape[3:]) if path in _FIRST_KERNELS else shape for path, shape in shapes.items()}


def fill(variables: PyTree, weights: Weights) -> tuple[PyTree, list[str]]:
  """Fills `variables` from `weights`; also returns lines on what was adapted or left out.

  Those of an encoder fill the encoder; those of a whole network fill all, without the head where it has other classes.
  """
  notes = []
  flat = flax.traverse_util.flatten_dict(variables)
  source = flax.traverse_util.flatten_dict(weights.variables)
  for path in flat:
    same_head = weights.is_whole and path in source and source[path].shape == flat[path].shape
    if not (_is_taken(path, weights) or same_head):
      continue
    array = source[path]
    if path in _FIRST_KERNELS and array.shape != flat[path].shape:
      before, channels = array.shape[2], flat[path].shape[2]
      array = adapt_channels(array, channels)
      how = "their sum" if channels == 1 else f"repeated in turn, times {before}/{channels}"
      notes.append(f"the first kernel is for {before} channels and was adapted to {channels}: {how}")
    flat[path] = jnp.asarray(array)
  if weights.is_whole:
    if any(path[1] == HEAD and source[path].shape != flat[path].shape for path in flat):
      notes.append("its head is for other classes and is left out: ours is initialised at random")
  elif any(path[1] != ENCODER for path in source):
    notes.append("what it has beyond the encoder is left out: ours is initialised at random")
  return flax.traverse_util.unflatten_dict(flat), notes


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
  """Adapts a kernel [height, width, before, features] to another number of input channels.

  As in timm (`adapt_input_conv`): a single channel gets the sum of all channels, so that a grey image gives the same as
  its RGB copy. Other numbers repeat the channels in turn, scaled by before / channels, so that activations keep their
  size.
  """
  before = kernel.shape[2]
  if channels == 1:
    return kernel.sum(2, keepdims=True, dtype=np.float32)
  return kernel[:, :, np.arange(channels) % before] * np.float32(before / channels)
