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
from bt_jax.schema import Tumor
from bt_jax.tasks.task import probabilities

PyTree = Any
_TURN_DEGREES = 10.0


class Outputs(NamedTuple):
  """What networks say of slices.

  Attributes:
    members: probability of each class by pixel, of each network; 0 in slices that the gate stopped.
    slice_probability: of tumour anywhere in the slice, calibrated.
    gated: whether the gate stopped the slice.
  """

  members: Float[Array | np.ndarray, "members slices size size classes"]
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
) -> tuple[tuple[PyTree, ...], Callable[[tuple[PyTree, ...], dict[str, PyTree]], Outputs]]:
  """Makes the function of networks whose slices are averaged.

  Args:
    segmenters: one or more.
    classifiers: whose averaged probability of a slice counts; without one, the segmenters'.
    tta: whether to average over `views`.
    gate: the probability of a slice below which it is left empty; None without one.
    temperature: of the probability of a slice.

  Returns:
    The networks' variables, those of one architecture stacked, and `forward(variables, batch)`. A batch has `image`, by
    view, [slices, size, size, channels] in 0..255, `volume_mean` and `volume_std` [slices, channels].
  """
  info = segmenters[0].info
  groups: dict[tuple[Callable, View], list[Network]] = {}
  for network in [*segmenters, *classifiers]:
    groups.setdefault((network.logits, network.view), []).append(network)
  stacked = tuple(
    jax.tree.map(lambda *leaves: np.stack(leaves), *(network.variables for network in group))
    for group in groups.values()
  )
  looks = views() if tta else views()[:1]

  def probability(logits: Callable, variables: PyTree, batch: Batch) -> Tumor:
    def look(view: Array) -> Tumor:
      if not tta:
        return probabilities(logits(variables, batch), info)
      turned = jax.vmap(warp, (0, None, None))(batch["image"], view, jnp.zeros(2))
      tumor = probabilities(logits(variables, batch | {"image": turned}), info)
      if tumor.pixels is None:
        return tumor
      back = jax.vmap(warp, (0, None, None))(tumor.pixels, view.T, jnp.zeros(2))  # orthogonal
      return tumor._replace(pixels=back)

    return jax.tree.map(lambda x: x.mean(0), jax.lax.map(look, jnp.asarray(looks)))

  def forward(variables: tuple[PyTree, ...], batch: dict[str, PyTree]) -> Outputs:
    tumors = []
    for (logits, view), stack in zip(groups, variables, strict=True):
      seen = batch | {"image": batch["image"][view]}
      tumors.append(jax.lax.map(functools.partial(probability, logits, batch=seen), stack))
    members = jnp.concatenate([tumor.pixels for tumor in tumors if tumor.pixels is not None])
    asked = [tumor.slices for tumor in tumors if not classifiers or tumor.pixels is None]
    slices = jnp.concatenate(asked).mean(0)
    gated = slices < (-1 if gate is None else gate)
    members = jnp.where(gated[:, None, None, None], 0, members)
    return Outputs(members, _calibrate(slices, temperature), gated)

  return stacked, forward


def _calibrate(probability: Float[Array, "slices"], temperature: float) -> Float[Array, "slices"]:
  """As `calibration.calibrate`, where it is traced."""
  edge = 1e-6
  return jax.nn.sigmoid(jax.scipy.special.logit(jnp.clip(probability, edge, 1 - edge)) / temperature)
