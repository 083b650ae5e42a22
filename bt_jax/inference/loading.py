"""Loads a predictor from the folders of runs, or from an exported file."""

import functools
import os
from collections.abc import Sequence

import jax

from bt_jax.distributed import programs, sharding
from bt_jax.errors import UserError
from bt_jax.evaluation import SENSITIVITY
from bt_jax.inference import around_head, exported_predictor, networks, published
from bt_jax.inference.decision import decide, describe
from bt_jax.inference.ensemble import make_ensemble
from bt_jax.inference.networks import Network
from bt_jax.inference.predictor import Predictor
from bt_jax.inference.segmenting import segment


def load(
  checkpoints: Sequence[str | os.PathLike[str]],
  *,
  classifier: str | os.PathLike[str] | None = None,
  tta: bool = False,
  threshold: float | None = None,
  sensitivity: float = SENSITIVITY,
) -> Predictor:
  """Loads the networks of these runs as one predictor, which averages their probabilities.

  Args:
    checkpoints: runs of segmenters, their checkpoints, a cross-validation, or patterns of these; weights of the published
      U-Net; or one exported file.
    classifier: a run of a classifier, or several as above, which leaves slices empty that it takes for healthy.
    tta: whether to average over each slice as it is, mirrored, and turned a little either way.
    threshold: threshold of a pixel's probability; None for the mean of those chosen on the validation sets.
    sensitivity: share of the validation slices with a tumour that the classifier lets through.

  Raises:
    UserError: there is no such network, it is of another task, or an option does not apply to it.
  """
  paths = networks.find(checkpoints, "checkpoint")
  if exported := [path for path in paths if path.is_file() and not published.is_weights(path)]:
    if len(paths) > 1 or classifier is not None or tta or sensitivity != SENSITIVITY:
      raise UserError(
        f"{exported[0]} is an exported file, which stands alone: other networks, the classifier, sensitivity and tta are named when it "
        "is exported",
        "mode=export",
      )
    return exported_predictor.load(exported[0], threshold)
  segmenters, classifiers = open_networks(checkpoints, classifier)
  return of_networks(segmenters, classifiers, tta=tta, threshold=threshold, sensitivity=sensitivity)


def open_networks(
  checkpoints: Sequence[str | os.PathLike[str]], classifier: str | os.PathLike[str] | None, dtype: str | None = None
) -> tuple[list[Network], list[Network]]:
  """The segmenters and classifiers of these runs; see `load`, and `networks.load` for the dtype."""
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
  sensitivity: float = SENSITIVITY,
) -> Predictor:
  """A predictor of loaded networks; see `load`."""
  cropped = published.check_together(segmenters, classifiers)
  decision = decide(segmenters, classifiers, tta=tta, threshold=threshold, sensitivity=sensitivity)
  ensemble = make_ensemble(segmenters, classifiers, tta=tta, gate=decision.gate, temperature=decision.temperature)
  mesh = sharding.make_mesh(jax.local_devices())
  variables = jax.device_put(ensemble.variables, sharding.replicated(mesh))
  forward = sharding.compile_kept(ensemble.forward, mesh, ensemble.identity, cut=(False, True))
  outputs = programs.jit(ensemble.outputs, ensemble.identity and f"outputs of {ensemble.identity}")
  views = {network.view for network in (*segmenters, *classifiers)}
  window = around_head.WINDOW if cropped else decision.info.window
  of_image = functools.partial(segment, functools.partial(forward, variables), outputs, views, mesh.size, window)
  return Predictor(
    decision,
    describe(segmenters, classifiers, decision),
    functools.partial(around_head.segment, of_image, decision.info) if cropped else of_image,
    (*segmenters, *classifiers),
  )
