"""Slices on the training grid through one network or several: one pure function, run live or exported."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bt_jax.inference.networks import Network, View
from bt_jax.pipeline.augment import rotation_matrix, warp
from bt_jax.pipeline.preprocess import Batch

PyTree = Any
_TURN_DEGREES = 10.0


class Marked(NamedTuple):
  """What networks say of slices.

  Attributes:
    members: probability of tumour by pixel, of each network; 0 in slices that the gate stopped.
    slice_probability: of tumour anywhere in the slice, calibrated.
    gated: whether the gate stopped the slice.
  """

  members: Float[Array | np.ndarray, "members slices 256 256"]
  slice_probability: Float[Array | np.ndarray, "slices"]
  gated: Bool[Array | np.ndarray, "slices"]


def views() -> Float[np.ndarray, "views 2 2"]:
  """How test-time augmentation looks at a slice: as it is, mirrored left and right, and turned a little either way."""
  turns = [rotation_matrix(jnp.deg2rad(jnp.float32(degrees))) for degrees in (_TURN_DEGREES, -_TURN_DEGREES)]
  return np.stack([np.eye(2), np.diag([1.0, -1.0]), *turns]).astype(np.float32)


def make_forward(
  segmenters: Sequence[Network],
  classifiers: Sequence[Network],
  *,
  tta: bool,
  gate: float | None,
  temperature: float,
) -> tuple[tuple[PyTree, ...], Callable[[tuple[PyTree, ...], dict[str, PyTree]], Marked]]:
  """Makes the function of networks whose slices are averaged.

  Args:
    segmenters: one or more.
    classifiers: none, or those whose averaged word gates the segmenters.
    tta: whether to average over `views`.
    gate: the classifiers' probability below which a slice is left empty; None without one.
    temperature: of the probability of a slice: the classifiers', or without one that of the highest pixel.

  Returns:
    The networks' variables, those of one architecture stacked, and `forward(variables, batch)`. A batch has `image`, by
    view, [slices, 256, 256, channels] in 0..255, `volume_mean` and `volume_std` [slices, 3].
  """
  groups: dict[tuple[Callable, View], list[Network]] = {}
  for network in [*segmenters, *classifiers]:
    groups.setdefault((network.logits, network.view), []).append(network)
  stacked = tuple(
    jax.tree.map(lambda *leaves: np.stack(leaves), *(network.variables for network in group))
    for group in groups.values()
  )
  looks = views() if tta else views()[:1]

  def probability(logits: Callable, variables: PyTree, batch: Batch) -> Array:
    def look(view: Array) -> Array:
      if not tta:
        return jax.nn.sigmoid(logits(variables, batch))
      turned = jax.vmap(warp, (0, None, None))(batch["image"], view, jnp.zeros(2))
      found = jax.nn.sigmoid(logits(variables, batch | {"image": turned}))
      if found.ndim == 1:
        return found
      return jax.vmap(warp, (0, None, None))(found[..., None], view.T, jnp.zeros(2))[..., 0]  # orthogonal

    return jax.lax.map(look, jnp.asarray(looks)).mean(0)

  def forward(variables: tuple[PyTree, ...], batch: dict[str, PyTree]) -> Marked:
    found = []
    for (logits, view), stack in zip(groups, variables, strict=True):
      seen = batch | {"image": batch["image"][view]}
      found.append(jax.lax.map(functools.partial(probability, logits, batch=seen), stack))
    members = jnp.concatenate([masks for masks in found if masks.ndim == 4])
    if classifiers:
      chance = jnp.concatenate([chances for chances in found if chances.ndim == 2]).mean(0)
      gated = chance < gate
    else:
      chance = members.mean(0).max((1, 2))
      gated = jnp.zeros(chance.shape, bool)
    members = jnp.where(gated[:, None, None], 0, members)
    return Marked(members, _calibrate(chance, temperature), gated)

  return stacked, forward


def _calibrate(probability: Float[Array, "slices"], temperature: float) -> Float[Array, "slices"]:
  """As `calibration.calibrate`, where it is traced."""
  edge = 1e-6
  return jax.nn.sigmoid(jax.scipy.special.logit(jnp.clip(probability, edge, 1 - edge)) / temperature)
