"""Predictions of a run's network on slices with ground truth."""

from collections.abc import Callable, Iterable

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from bt_jax.distributed import sharding
from bt_jax.evaluation import SENSITIVITY
from bt_jax.evaluation.classifier_gate import gate_threshold
from bt_jax.pipeline import feed
from bt_jax.runs.chunks import Passes
from bt_jax.runs.components import Components
from bt_jax.schema import Batch, Predicted, Slices, Tumor
from bt_jax.training.train_state import PyTree


def predict_chunks(
  config: ConfigDict, components: Components, variables: PyTree, chunks: Passes[Slices]
) -> Passes[Predicted]:
  """The logits of slices in chunks; the other arguments are those of `predict`."""
  return chunks.map(lambda slices: Predicted(slices, predict(config, components, variables, slices)))


def predict(
  config: ConfigDict,
  components: Components,
  variables: PyTree,
  slices: Slices,
  *,
  change: Callable[[Batch], Batch] = lambda batch: batch,
) -> Tumor:
  """Predicts logits of tumour as float32 NumPy arrays; each host predicts its share of every batch.

  Args:
    config: configuration of the run.
    components: components made from the configuration.
    variables: variables of the network.
    slices: slices to predict.
    change: applied to every batch before the network sees it.
  """
  batch_size = config.eval.batch_size
  batches = list(feed.eval_batches(len(slices), batch_size))
  rows, examples = sharding.local_rows(components.mesh, batch_size), feed.arrays(slices)
  logits: Tumor | None = None
  for indices, valid in tqdm(batches, desc="predicting", unit="batch", leave=False, disable=None):
    local = change({name: array[indices[rows]] for name, array in examples.items()})
    batch = sharding.fetch(components.predict_step(variables, sharding.lay_out(components.mesh, local, batch_size)))
    if logits is None:
      logits = jax.tree.map(lambda x: np.empty((len(slices), *x.shape[1:]), np.float32), batch)
    for whole, some in zip(jax.tree.leaves(logits), jax.tree.leaves(batch), strict=True):
      whole[indices[valid]] = some[valid]
  return logits


def probabilities(components: Components, logits: Tumor) -> Tumor:
  """The probabilities for these logits, 0..1, as NumPy arrays."""
  return jax.tree.map(np.asarray, components.task.probabilities(logits))


def choose_gate(config: ConfigDict, predicted: Iterable[Predicted]) -> float | None:
  """The gate, a slice's probability below which it stays empty; None without a slice head.

  It lets through a share `SENSITIVITY` of the slices with a tumour, as in prediction.

  Args:
    config: configuration of the run.
    predicted: validation slices with probabilities.
  """
  if not config.model.slice_head:
    return None
  pairs = [(tumor.slices, slices.label) for slices, tumor in predicted]
  return gate_threshold(*map(np.concatenate, zip(*pairs, strict=True)), SENSITIVITY)


def gated(probabilities: Tumor, gate: float | None) -> Tumor:
  """The same probabilities, but 0 for all pixels of the slices below the gate."""
  if gate is None:
    return probabilities
  passes = probabilities.slices >= gate
  return probabilities._replace(pixels=np.where(passes[:, None, None, None], probabilities.pixels, 0))
