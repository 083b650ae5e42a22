"""Runs slices through networks, and turns logits into probabilities on a scan's own grid: pure functions, also exported."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bt_jax.datasets.info import DatasetInfo
from bt_jax.inference.networks import Network, View
from bt_jax.losses import class_probabilities
from bt_jax.pipeline.augment import rotation_matrix, warp
from bt_jax.scans import resampling
from bt_jax.schema import Batch, Tumor

PyTree = Any
_TURN_DEGREES = 10.0
_PERCENTILES = "volume_percentiles"
_AS_IT_IS = np.eye(2, dtype=np.float32)[None]
_OUTSIDE = -20.0  # the logit of tumour outside the frame, which turning a slice brings into view


class Outputs(NamedTuple):
  """Outputs of networks for some slices, on the scan's own grid.

  Attributes:
    members: each network's probability of each class by pixel; 0 in slices that the gate stopped.
    slice_probability: calibrated probability of tumour anywhere in the slice.
    gated: whether the gate stopped the slice.
    spread: standard deviation, over all passes (networks, each on all views), of the probability of any class by pixel,
      0..0.5; 0 in slices that the gate stopped; None for a single pass.
  """

  members: Float[Array | np.ndarray, "members slices height width classes"]
  slice_probability: Float[Array | np.ndarray, " slices"]
  gated: Bool[Array | np.ndarray, " slices"]
  spread: Float[Array | np.ndarray, "slices height width"] | None = None


jax.export.register_namedtuple_serialization(Outputs, serialized_name="bt_jax.Outputs")


def views() -> Float[np.ndarray, "views 2 2"]:
  """The transforms of test-time augmentation: identity, mirrored left and right, and turned a little either way."""
  turns = [rotation_matrix(jnp.deg2rad(jnp.float32(degrees))) for degrees in (_TURN_DEGREES, -_TURN_DEGREES)]
  return np.stack([*_AS_IT_IS, np.diag([1.0, -1.0]), *turns]).astype(np.float32)


class Ensemble(NamedTuple):
  """Networks whose outputs are averaged.

  Attributes:
    variables: variables of the networks, stacked for each architecture.
    forward: maps these and a batch to logits of each architecture, [networks, looks, slices, ...]. A batch has `image`,
      by view, [slices, size, size, channels] in 0..255, `volume_mean` and `volume_std` [slices, channels], and
      `volume_percentiles`, by view, [slices, channels, 4], for views that need them.
    outputs: maps these logits and the aspect, height and width of the scan's own grid, see `to_own`, to `Outputs`.
    identity: everything that these functions depend on besides their arguments, as text; empty if it is not known.
  """

  variables: tuple[PyTree, ...]
  forward: Callable[[tuple[PyTree, ...], dict[str, PyTree]], list[Tumor]]
  outputs: Callable[..., Outputs]
  identity: str


def make_ensemble(
  segmenters: Sequence[Network],
  classifiers: Sequence[Network],
  *,
  tta: bool,
  gate: float | None,
  temperature: float,
) -> Ensemble:
  """Makes the functions of networks whose outputs are averaged.

  Logits are resampled before they become probabilities, as in evaluation.

  Args:
    segmenters: one network or more.
    classifiers: networks whose mean probability of a slice is used; without any, that of the segmenters.
    tta: whether to average over `views`.
    gate: the probability of a slice below which it is left empty; None without one.
    temperature: calibrates the probability of a slice.
  """
  info = segmenters[0].info
  groups: dict[tuple[Callable, View], list[Network]] = {}
  for network in [*segmenters, *classifiers]:
    groups.setdefault((network.logits, network.view), []).append(network)
  stacked = tuple(
    jax.tree.map(lambda *leaves: np.stack(leaves), *(network.variables for network in group))
    for group in groups.values()
  )
  looks = views() if tta else _AS_IT_IS

  def logits_of(logits: Callable, variables: PyTree, batch: Batch) -> Tumor:
    def look(view: Array) -> Tumor:
      if not tta:
        return logits(variables, batch)
      turned = jax.vmap(warp, (0, None, None))(batch["image"], view, jnp.zeros(2))
      tumor = logits(variables, batch | {"image": turned})
      if tumor.pixels is None:
        return tumor
      back = jax.vmap(warp, (0, None, None))(
        tumor.pixels - _OUTSIDE, view.T, jnp.zeros(2)
      )  # the inverse, as it is orthogonal
      return tumor._replace(pixels=back + _OUTSIDE)

    return jax.lax.map(look, jnp.asarray(looks))

  def forward(variables: tuple[PyTree, ...], batch: dict[str, PyTree]) -> list[Tumor]:
    tumors = []
    for (logits, view), stack in zip(groups, variables, strict=True):
      seen = {name: of[view] if isinstance(of, dict) else of for name, of in batch.items() if name != _PERCENTILES}
      if view.percentiles:
        seen[_PERCENTILES] = batch[_PERCENTILES][view]
      tumors.append(jax.lax.map(functools.partial(logits_of, logits, batch=seen), stack))
    return tumors

  def outputs(
    tumors: list[Tumor], aspect: resampling.Aspect = 1.0, *, height: resampling.Pixels, width: resampling.Pixels
  ) -> Outputs:
    members, asked, passes = [], [], []
    for networks, tumor in zip(groups.values(), tumors, strict=True):
      slices = jax.nn.sigmoid(tumor.slices)
      if tumor.pixels is not None:
        # One network after another, as a large scan takes much memory.
        own = [[_on_own_grid(look, height, width, aspect, info) for look in one] for one in tumor.pixels]
        members += [sum(of_looks) / len(looks) for of_looks in own]
        passes += [any_class(look, info) for of_looks in own for look in of_looks]
        if not networks[0].slice_head:
          highest = [[any_class(look, info).max((1, 2)) for look in of_looks] for of_looks in own]
          slices = jnp.stack([jnp.stack(of_looks) for of_looks in highest])
      if not classifiers or tumor.pixels is None:
        asked.append(slices.mean(1))
    probability = jnp.concatenate(asked).mean(0)
    gated = probability < (-1.0 if gate is None else gate)
    kept = jnp.where(gated[:, None, None, None], jnp.float32(0), jnp.stack(members))  # ONNX allows no mix of types
    spread = None if len(passes) == 1 else jnp.where(gated[:, None, None], jnp.float32(0), _deviation(passes))
    return Outputs(kept, _calibrate(probability, temperature), gated, spread)

  return Ensemble(stacked, forward, outputs, _identity(segmenters, classifiers, (tta, gate, temperature)))


def _identity(segmenters: Sequence[Network], classifiers: Sequence[Network], options: Any) -> str:
  """What the functions of an ensemble depend on; empty where that is not known of one of its networks."""
  if not all(network.identity for network in (*segmenters, *classifiers)):
    return ""
  of = lambda networks: [(network.identity, network.view, network.slice_head) for network in networks]
  return f"{of(segmenters)} {of(classifiers)} {options}"


def _on_own_grid(
  logits: Float[Array, "slices size size classes"],
  height: resampling.Pixels,
  width: resampling.Pixels,
  aspect: resampling.Aspect,
  info: DatasetInfo,
) -> Float[Array, "slices height width classes"]:
  """Probabilities on the scan's own grid, from logits on a network's grid."""
  return class_probabilities(resampling.to_own(logits, height, width, aspect), overlapping=info.overlapping)


def any_class(
  probabilities: Float[Array | np.ndarray, "*shape classes"], info: DatasetInfo
) -> Float[Array | np.ndarray, "*shape"]:
  """The probability of any class: the sum over classes that exclude one another, the highest of classes that overlap."""
  return probabilities.max(-1) if info.overlapping else probabilities.sum(-1)


def _deviation(values: Sequence[Float[Array, "*shape"]]) -> Float[Array, "*shape"]:
  """The standard deviation over arrays, by Welford's recurrence, which gives 0 for equal ones and holds few at a time."""
  mean, squares = values[0], jnp.zeros_like(values[0])
  for count, value in enumerate(values[1:], start=2):
    step = value - mean
    mean += step / count
    squares += step * (value - mean)
  return jnp.sqrt(squares / len(values))


def _calibrate(probability: Float[Array, " slices"], temperature: float) -> Float[Array, " slices"]:
  """`calibration.calibrate` in JAX, where it is traced."""
  edge = 1e-6
  return jax.nn.sigmoid(jax.scipy.special.logit(jnp.clip(probability, edge, 1 - edge)) / temperature)
