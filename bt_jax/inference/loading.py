"""From the folders of runs, or an exported file, to a predictor: which networks, and what they decide by."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import bt_jax
from bt_jax.errors import UserError
from bt_jax.evaluation.cascade import gate_threshold
from bt_jax.inference import networks
from bt_jax.inference.forward import make_forward
from bt_jax.inference.networks import Network
from bt_jax.inference.predictor import Decision, Predictor, mark
from bt_jax.training import parallel


def load(
  checkpoints: Sequence[str],
  *,
  classifier: str | None = None,
  tta: bool = False,
  threshold: float | None = None,
  sensitivity: float = bt_jax.SENSITIVITY,
) -> Predictor:
  """The networks in these places as one; their probabilities are averaged.

  Args:
    checkpoints: runs of segmenters, their checkpoints, a cross-validation, patterns of these; or one exported file.
    classifier: a run of a classifier, or several as above, that leave slices empty which they take for healthy.
    tta: whether to average each slice, mirrored and turned a little either way.
    threshold: of a pixel's probability; None: as chosen on the validation part, on average.
    sensitivity: share of the validation slices with a tumour that the classifier lets through.

  Raises:
    UserError: there is no such network, it is of another task, or an option does not go with it.
  """
  found = networks.find(checkpoints, "checkpoint")
  if exported := [path for path in found if path.is_file()]:
    from bt_jax.inference import export

    if len(found) > 1 or classifier is not None or tta:
      raise UserError(
        f"--checkpoint: {exported[0]} is an exported file, which stands alone: other networks, the classifier and --tta "
        "are named when it is made, with --mode=export"
      )
    return export.load(exported[0], threshold)
  segmenters, classifiers = open_networks(checkpoints, classifier)
  return of_networks(segmenters, classifiers, tta=tta, threshold=threshold, sensitivity=sensitivity)


def open_networks(
  checkpoints: Sequence[str], classifier: str | None, dtype: str | None = None
) -> tuple[list[Network], list[Network]]:
  """The segmenters and classifiers in these places; see `load`, and `networks.load` for the dtype."""
  segmenters = networks.find(checkpoints, "checkpoint")
  classifiers = networks.find([classifier], "classifier") if classifier is not None else []
  return (
    [networks.load(path, "segmentation", "checkpoint", dtype) for path in segmenters],
    [networks.load(path, "classification", "classifier", dtype) for path in classifiers],
  )


def of_networks(
  segmenters: Sequence[Network],
  classifiers: Sequence[Network],
  *,
  tta: bool = False,
  threshold: float | None = None,
  sensitivity: float = bt_jax.SENSITIVITY,
) -> Predictor:
  """A predictor of networks that are loaded; see `load`."""
  decision = decide(segmenters, classifiers, tta=tta, threshold=threshold, sensitivity=sensitivity)
  variables, forward = make_forward(
    segmenters, classifiers, tta=tta, gate=decision.gate, temperature=decision.temperature
  )
  mesh = parallel.make_mesh(jax.local_devices())
  variables = jax.device_put(variables, parallel.replicated(mesh))
  compiled = functools.partial(parallel.compile_step("jit", forward, mesh, cut=(False, True)), variables)
  contrasts = {network.contrast for network in (*segmenters, *classifiers)}
  return Predictor(
    decision, describe(segmenters, classifiers, decision), functools.partial(mark, compiled, contrasts, mesh.size)
  )


def decide(
  segmenters: Sequence[Network],
  classifiers: Sequence[Network],
  *,
  tta: bool,
  threshold: float | None,
  sensitivity: float,
) -> Decision:
  """What the networks decide by, out of what their validation parts said; see `load`."""
  for name, value in {"threshold": threshold, "sensitivity": sensitivity}.items():
    check_share(name, value)
  mean = lambda name, of: float(np.mean([network.decision[name] for network in of]))
  tumor = [np.array(network.decision["tumor_probabilities"]) for network in classifiers]
  gates = [gate_threshold(chances, np.ones(len(chances), int), sensitivity) for chances in tumor]
  ranges = {
    name: zip(*(network.profile[name] for network in segmenters), strict=True) for name in segmenters[0].profile
  }
  return Decision(
    threshold=mean("threshold", segmenters) if threshold is None else threshold,
    temperature=mean("temperature", classifiers or segmenters),
    gate=float(np.mean(gates)) if gates else None,
    tta=tta,
    largest_component=all(network.largest_component for network in segmenters),
    profile={name: [min(lowest), max(highest)] for name, (lowest, highest) in ranges.items()},
  )


def _title(networks: Sequence[Network]) -> str:
  """E.g. `unet of phantom (synthetic), patient_fold_00`, or `the mean of 22 networks, unet of ...`."""
  if len(networks) == 1:
    return "{model} of {data}, {split}".format(**networks[0].about)
  kinds = dict.fromkeys("{model} of {data}".format(**network.about) for network in networks)
  return f"the mean of {len(networks)} networks, {' and '.join(kinds)}"


def check_share(name: str, value: float | None) -> None:
  """Raises UserError where an option is no share."""
  if value is not None and not 0 < value <= 1:
    raise UserError(f"--{name} is {value}, expected more than 0 and at most 1")


def describe(segmenters: Sequence[Network], classifiers: Sequence[Network], decision: Decision) -> dict[str, Any]:
  """The networks and what they decide by, for outputs."""
  gated = f", gated by {_title(classifiers)}" if classifiers else ""
  return {
    "title": f"{_title(segmenters)}{gated}{', with test-time augmentation' if decision.tta else ''}",
    "bt_jax": bt_jax.__version__,
    "segmenters": [network.about for network in segmenters],
    "classifiers": [network.about for network in classifiers],
    "threshold": decision.threshold,
    "gate": decision.gate,
    "tta": decision.tta,
  }
