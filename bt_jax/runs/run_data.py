"""What every mode needs of a run: its data, its split, its state, and predictions of its network."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from bt_jax import files
from bt_jax.datasets import splits, store
from bt_jax.datasets.channels import context_of
from bt_jax.distributed import hosts, sharding
from bt_jax.errors import UserError
from bt_jax.evaluation import SENSITIVITY
from bt_jax.evaluation.classifier_gate import gate_threshold
from bt_jax.pipeline import feed
from bt_jax.pipeline.missing_sequences import Batch
from bt_jax.runs.components import Components, data_variant
from bt_jax.schema import Slices, Tumor
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.training.train_state import PyTree, TrainState, init_state


@dataclasses.dataclass(frozen=True)
class Data:
  """The data set of a run, its split, and what outputs call them.

  Attributes:
    builder: of the data set.
    index: of all its slices.
    split: which of them train, validate and test.
    reader: of slices by id, contrast raised.
  """

  builder: store.Builder
  index: list[store.SliceId]
  split: splits.Split
  reader: store.Reader

  @property
  def title(self) -> str:
    return self.builder.builder_config.title

  @property
  def names(self) -> dict[str, Any]:
    """The fields that stand in every output."""
    return {"data": self.title, "split": self.split.name, "leaky": self.split.leaky}

  def read(self, part: str) -> Slices:
    """The slices of `train`, `validation` or `test`."""
    return self.reader.read(getattr(self.split, part), progress=True)

  def labels(self, part: str) -> np.ndarray:
    """int32, 1 where a slice of the part has a tumour; no image is read."""
    label = {entry.id: entry.label for entry in self.index}
    return np.array([label[name] for name in getattr(self.split, part)], np.int32)

  def write_split(self, workdir: pathlib.Path) -> None:
    """Writes `split.json`; raises UserError where the folder holds another."""
    path = workdir / "split.json"
    if path.is_file() and splits.read(workdir)["hash"] != self.split.hash:
      raise UserError(f"{path} is not the split of this configuration on this data set: choose another --workdir")
    if hosts.is_first():
      files.write_json(path, self.split.to_json(self.title))


def build(config: ConfigDict) -> store.Builder:
  """Opens the data set of a configuration, building it first if need be."""
  return store.open_or_build(data_variant(config), root=config.data.root, data_dir=config.data.dir)


def open_data(config: ConfigDict, parts: Components) -> Data:
  """The data of a configuration; raises UserError where it is not right."""
  builder = build(config)
  index = store.read_index(builder)
  context = context_of(parts.channels)
  split = splits.make_split(
    index, kind=config.split.kind, fold=config.split.fold, folds=config.split.folds, seed=config.split.seed
  )
  if context and split.leaky and hosts.is_first():
    print("this split cuts volumes: neighbours of test slices are training slices, which leaks once more")
  return Data(builder, index, split, store.Reader.of(builder, index, parts.contrast, context))


def plain(config: ConfigDict) -> dict[str, Any]:
  """The configuration as it comes back from JSON."""
  return json.loads(json.dumps(config.to_dict()))


def first_state(config: ConfigDict, parts: Components, *, abstract: bool) -> TrainState:
  """The state before the first step, on all devices; `abstract`: its shapes alone, to restore a checkpoint into."""
  everywhere = sharding.replicated(parts.mesh)
  init = functools.partial(
    init_state,
    parts.model,
    parts.optimizer,
    size=config.data.size,
    channels=len(parts.channels),
    seed=config.train.seed,
    average=config.train.ema_decay > 0,
  )
  if abstract:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), jax.eval_shape(init))
  # A program that runs once should compile fast rather than run fast.
  fast = jax.jit(init, out_shardings=everywhere, compiler_options={"xla_backend_optimization_level": 0})
  return fast()


def restore_best(config: ConfigDict, workdir: pathlib.Path, parts: Components) -> tuple[PyTree, dict[str, Any]]:
  """The variables of a run's best checkpoint and its record; raises UserError where there is none, or it is corrupt."""
  best = Checkpoints(workdir / "checkpoints" / "best", read_only=True)
  restored = best.restore(first_state(config, parts, abstract=True).eval_variables)
  best.close()
  if restored is None:
    if Checkpoints(workdir / "checkpoints" / "latest").exist:
      raise UserError(
        f"{best.folder} holds no checkpoint, although {workdir} was trained: put it back from a copy, or remove "
        f"{workdir / 'checkpoints'} and start --mode=train again, which trains anew"
      )
    raise UserError(f"{workdir} holds no checkpoint: train first, with --mode=train")
  return restored


def predict(
  config: ConfigDict,
  parts: Components,
  variables: PyTree,
  slices: Slices,
  *,
  change: Callable[[Batch], Batch] = lambda batch: batch,
) -> Tumor:
  """Logits of tumour, float32, NumPy arrays; each host predicts its share of every batch.

  Args:
    config: of the run.
    parts: made of it.
    variables: of the network.
    slices: that are predicted.
    change: done to every batch before the network sees it.
  """
  batch_size = config.eval.batch_size
  batches = list(feed.eval_batches(len(slices), batch_size))
  rows, examples = sharding.local_rows(parts.mesh, batch_size), feed.arrays(slices)
  logits: Tumor | None = None
  for indices, valid in tqdm(batches, desc="predicting", unit="batch", leave=False):
    local = change({name: array[indices[rows]] for name, array in examples.items()})
    batch = sharding.fetch(parts.predict_step(variables, sharding.lay_out(parts.mesh, local, batch_size)))
    if logits is None:
      logits = jax.tree.map(lambda x: np.empty((len(slices), *x.shape[1:]), np.float32), batch)
    for whole, some in zip(jax.tree.leaves(logits), jax.tree.leaves(batch), strict=True):
      whole[indices[valid]] = some[valid]
  return logits


def probabilities(logits: Tumor) -> Tumor:
  """Of tumour, from logits, 0..1."""
  return jax.tree.map(lambda x: np.asarray(jax.nn.sigmoid(x)), logits)


def choose_gate(config: ConfigDict, probabilities: Tumor, slices: Slices) -> float | None:
  """The probability of a slice below which it stays empty, from validation slices; None without a head for slices.

  It lets through `SENSITIVITY` of the slices with a tumour, as in prediction.
  """
  if not config.model.slice_head:
    return None
  return gate_threshold(probabilities.slices, slices.label, SENSITIVITY)


def gated(probabilities: Tumor, gate: float | None) -> Tumor:
  """The same, without any pixel in the slices below the gate."""
  if gate is None:
    return probabilities
  passes = probabilities.slices >= gate
  return probabilities._replace(pixels=np.where(passes[:, None, None], probabilities.pixels, 0))


def devices() -> str:
  """What a run is on, in words."""
  found = jax.devices()
  hosts = f" of {jax.process_count()} hosts" if jax.process_count() > 1 else ""
  return f"{len(found)} x {found[0].device_kind}{hosts}"
