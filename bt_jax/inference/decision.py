"""How networks decide, as chosen on their validation sets, and how outputs describe them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import UserError
from bt_jax.evaluation import SENSITIVITY
from bt_jax.evaluation.classifier_gate import gate_threshold
from bt_jax.inference.networks import Network
from bt_jax.version import __version__


@dataclasses.dataclass(frozen=True)
class Decision:
  """What turns probabilities into masks; stored in exports.

  Attributes:
    threshold: threshold of a pixel's probability.
    temperature: calibrates the probability of a slice.
    gate: the probability of a slice below which it is left empty; None without a classifier or a head for slices.
    tta: whether predictions of mirrored and turned slices are averaged.
    largest_component: whether only the largest 3-D part is kept.
    info: the data set that the networks were trained on.
    profile: the range of each feature of `ood.features` over training volumes.
    reach: distance in slices to the farthest neighbour that a network sees; a volume must have more slices.
    drops_sequences: whether all segmenters were trained with FLAIR in place of other sequences.
  """

  threshold: float
  temperature: float
  gate: float | None
  tta: bool
  largest_component: bool
  info: DatasetInfo
  profile: dict[str, list[float]]
  reach: int = 0
  drops_sequences: bool = False


def decide(
  segmenters: Sequence[Network],
  classifiers: Sequence[Network],
  *,
  tta: bool,
  threshold: float | None,
  sensitivity: float,
) -> Decision:
  """Combines what was chosen on the networks' validation sets; see `loading.load` for the options.

  Raises:
    UserError: the networks' data sets have different channels or classes, an option is out of range, or a network was
      trained without a validation set and no threshold is given.
  """
  first, *others = (*segmenters, *classifiers)
  for other in others:
    first.info.check_same(other.info, first.about["path"], other.about["path"])
  for name, value in {"threshold": threshold, "sensitivity": sensitivity}.items():
    check_share(name, value)
  undecided = [network.about["path"] for network in segmenters if not network.decision.get("chosen", True)]
  if undecided and threshold is None:
    raise UserError(
      f"{undecided[0]} was trained on all slices, and no threshold was chosen for it: export it as .safetensors with the folds "
      "of its cross-validation, or name a threshold",
      "runs",
      "threshold",
    )
  mean = lambda name, of: float(np.mean([network.decision[name] for network in of]))
  heads = all(network.slice_head for network in segmenters)
  gating = classifiers or (segmenters if heads else [])
  if not gating and sensitivity != SENSITIVITY:
    raise UserError(
      f"sensitivity is {sensitivity}, and has no effect: none of these networks classifies slices; name a classifier, or leave it out",
      "sensitivity",
      "classifier",
    )
  tumor = [np.array(network.decision["tumor_probabilities"]) for network in gating]
  gates = [gate_threshold(probabilities, np.ones(len(probabilities), int), sensitivity) for probabilities in tumor]
  ranges = {
    name: zip(*(network.profile[name] for network in segmenters), strict=True) for name in segmenters[0].profile
  }
  return Decision(
    threshold=mean("threshold", segmenters) if threshold is None else threshold,
    temperature=mean("temperature", classifiers or segmenters),
    gate=float(np.mean(gates)) if gates else None,
    tta=tta,
    largest_component=all(network.largest_component for network in segmenters),
    info=first.info,
    profile={name: [min(lowest), max(highest)] for name, (lowest, highest) in ranges.items()},
    reach=max((abs(channel.offset) for one in (*segmenters, *classifiers) for channel in one.view.context), default=0),
    drops_sequences=all(network.drops_sequences for network in segmenters),
  )


def _title(networks: Sequence[Network]) -> str:
  """E.g. `unet of phantom (synthetic), patient_fold_00`, or `the mean of 22 networks, unet of ...`."""
  if len(networks) == 1:
    return "{model} of {data}, {split}".format(**networks[0].about)
  kinds = dict.fromkeys("{model} of {data}".format(**network.about) for network in networks)
  return f"the mean of {len(networks)} networks, {' and '.join(kinds)}"


def check_share(name: str, value: float | None) -> None:
  """Raises UserError where an option is not above 0 and at most 1."""
  if value is not None and not 0 < value <= 1:
    raise UserError(f"{name} is {value}, expected more than 0 and at most 1", name)


def describe(segmenters: Sequence[Network], classifiers: Sequence[Network], decision: Decision) -> dict[str, Any]:
  """The networks and how they decide, for outputs."""
  gated = f", gated by {_title(classifiers)}" if classifiers else ""
  return {
    "title": f"{_title(segmenters)}{gated}{', with test-time augmentation' if decision.tta else ''}",
    "bt_jax": __version__,
    "segmenters": [network.about for network in segmenters],
    "classifiers": [network.about for network in classifiers],
    "threshold": decision.threshold,
    "gate": decision.gate,
    "tta": decision.tta,
  }
