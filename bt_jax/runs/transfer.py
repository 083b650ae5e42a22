"""Starts a network from a trained run: all arrays that fit, channels matched by name, a new head for new classes."""

import dataclasses
import pathlib
import re
from collections.abc import Collection
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from bt_jax import zoo
from bt_jax.datasets import splits
from bt_jax.datasets.channels import Channel, parse_channels
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.registry import info_of
from bt_jax.datasets.store import SliceId
from bt_jax.errors import UserError
from bt_jax.models import MODELS, configured_model, encoder_of
from bt_jax.pretrained.conversion import Weights, check_finite
from bt_jax.runs.components import Components
from bt_jax.training import checkpoint_record as records
from bt_jax.training import network_file
from bt_jax.training.checkpoints import AS_SAVED, Checkpoints, no_best
from bt_jax.training.train_state import PyTree

Path = tuple[str, ...]
_ENCODER = "encoder"


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """The best network of a run, from which another run starts.

  Attributes:
    variables: `params` and `batch_stats`.
    model: the section `model` of its configuration.
    channels: channels of its input.
    info: description of the data set that it was trained on.
    normalize: how its inputs were normalised, a name of `SCHEMES`.
    origin: folder of the run, or file of its network.
    sha256: SHA-256 of its arrays.
    patients: the patients of `train`, and those of `validation`, on which its best epoch was chosen; None for older
      runs.
    size: pixels of a side of its input.
  """

  variables: PyTree
  model: dict[str, Any]
  channels: tuple[Channel, ...]
  info: DatasetInfo
  normalize: str
  origin: str
  sha256: str
  patients: dict[str, list[str]] | None
  size: int

  @property
  def variant(self) -> str:
    """The name of the network and of its data set."""
    return f"{self.model['name']} of {self.info.name}"

  @property
  def about(self) -> dict[str, str]:
    """The fields that are recorded."""
    return {name: getattr(self, name) for name in ("variant", "normalize", "origin", "sha256")}


def find(name: str) -> pathlib.Path | None:
  """The folder of a run, or the file of a network, that `model.pretrained` names; None if it names published weights."""
  path = zoo.path_of(name) or pathlib.Path(name).expanduser()
  return path if network_file.is_network(path) or (name and (path / "config.json").is_file()) else None


def load(folder: pathlib.Path) -> TrainedRun:
  """Loads the best network of the run in a folder, or that in a file; raises UserError if there is none."""
  variables, record = network_file.read(folder) if folder.is_file() else _restore(folder)
  config, info = records.check(record, folder)["config"], info_of(record)
  check_finite(variables, str(folder))
  return TrainedRun(
    variables,
    config["model"],
    parse_channels(config["data"]["channels"], info),
    info,
    record["normalize"],
    str(folder.resolve()),
    record["arrays_sha256"],
    record.get("patients"),
    config["data"]["size"],
  )


def _restore(folder: pathlib.Path) -> tuple[PyTree, dict[str, Any]]:
  best = Checkpoints(folder / "checkpoints" / "best", read_only=True)
  restored = best.restore(AS_SAVED)
  best.close()
  if restored is None:
    raise no_best(folder, UserError(f"model.pretrained: the run in {folder} holds no checkpoint yet: train it first"))
  return restored


def check_fits(components: Components, run: TrainedRun) -> None:
  """Raises UserError if a network cannot start from a run.

  A network of the same name takes all arrays; every one must fit, except those that depend on the channels or classes.
  Any other network takes only the encoder, which must be the same.
  """
  flat = lambda tree: {path: tuple(leaf.shape) for path, leaf in flax.traverse_util.flatten_dict(tree).items()}
  ours, theirs = flat(components.shapes), flat(run.variables)
  name = _name_of(components.model)
  if run.model["name"] != name:
    other = configured_model(MODELS, run.model)
    if not encoder_of(other) or encoder_of(other) != encoder_of(components.model):
      raise UserError(
        f"model.pretrained: the run in {run.origin} is of {run.model['name']}, and this network is {name}, with a different encoder: "
        f"set model.name={run.model['name']}, or name another run",
        "model.name",
      )
    ours, theirs = ({path: shape for path, shape in of.items() if path[1] == _ENCODER} for of in (ours, theirs))
  norm, trained = getattr(components.model, "norm", "batch"), run.model.get("norm", "batch")
  if norm != trained and run.model["name"] == name:  # its arrays may fit, but they mean something else
    raise UserError(
      f"model.pretrained: the run in {run.origin} has {trained} norm, and this network has {norm} norm: set model.norm={trained}",
      f"model.norm={trained}",
    )
  free = _dependent(components.model, components, channels=True) | _dependent(
    components.model, components, channels=False
  )
  differ = sorted(path for path in ours.keys() - free - _extra(ours) if ours[path] != theirs.get(path))
  if differ:
    fields = [
      f"model.{field}={value}"
      for field, value in run.model.items()
      if getattr(components.model, field, value) != value and field not in ("name", "dtype")
    ]
    path = differ[0]
    raise UserError(
      f"model.pretrained: the run in {run.origin} has other arrays than this network ({'/'.join(path)} is "
      f"{theirs.get(path, 'missing')}, expected {ours[path]}): set {' and '.join(fields) or 'the fields of model as that run has them'}",
      *fields,
    )


def _extra(paths: Collection[Path]) -> set[Path]:
  """The arrays of a slice head, which a run may lack."""
  return {path for path in paths if path[1] == "slice_head"}


def _name_of(model: nn.Module) -> str:
  return next(name for name, network in MODELS.items() if type(model) is network)


def _dependent(model: nn.Module, components: Components, *, channels: bool) -> set[Path]:
  """The arrays whose shape depends on the number of input channels or, without `channels`, on the number of classes."""
  size = 32 * 2 ** max(0, getattr(model, "depth", 0) - 5)

  def shapes(one: nn.Module, count: int) -> dict[Path, tuple[int, ...]]:
    tree = jax.eval_shape(lambda: one.init(jax.random.key(0), jnp.zeros((1, size, size, count))))
    return {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree).items()}

  count = len(components.channels)
  before = shapes(model, count)
  after = shapes(model, count + 1) if channels else shapes(model.clone(classes=model.classes + 1), count)
  return {path for path in before if before[path] != after[path]}


def fill(components: Components, variables: PyTree, run: TrainedRun) -> tuple[PyTree, list[str]]:
  """Fills `variables` from a run; also returns a line for everything that was adapted or initialised at random.

  Args:
    components: components of the new run.
    variables: initial variables of the new run.
    run: the run to start from, which fits, see `check_fits`.
  """
  flat, source = (flax.traverse_util.flatten_dict(tree) for tree in (variables, run.variables))
  first = _dependent(components.model, components, channels=True)
  last = _dependent(components.model, components, channels=False)
  whole = run.model["name"] == _name_of(components.model)
  keeps_head = whole and _same_classes(components.info, run.info)
  notes, taken_over = [], 0
  for path in flat:
    if not whole and path[1] != _ENCODER:
      continue
    if path in first:
      kernel, lines = _by_channel(np.asarray(source[path]), run, components)
      flat[path], notes = jnp.asarray(kernel), [*notes, *lines]
    elif path in source and source[path].shape == flat[path].shape and (keeps_head or path not in last):
      flat[path] = jnp.asarray(source[path])
    else:
      continue
    taken_over += 1
  notes.insert(
    0,
    f"{taken_over} of {len(flat)} arrays are taken over{'' if whole else ': the encoder, the rest is initialised at random'}",
  )
  if whole and not keeps_head:
    notes.append(
      f"the head is initialised at random, as it was for {', '.join(run.info.classes)}, and is for {', '.join(components.info.classes)}"
    )
  elif whole and run.info.classes != components.info.classes:
    notes.append(f"the head was for {run.info.classes[0]}, and is for {components.info.classes[0]} from now on")
  return flax.traverse_util.unflatten_dict(flat), notes


def _same_classes(ours: DatasetInfo, theirs: DatasetInfo) -> bool:
  """Whether a head can be kept: both have the same classes, or one class each, whatever its name."""
  if len(ours.classes) == len(theirs.classes) == 1:
    return True
  return (ours.classes, ours.overlapping) == (theirs.classes, theirs.overlapping)


def _by_channel(
  kernel: Float[np.ndarray, "height width before features"], run: TrainedRun, components: Components
) -> tuple[Float[np.ndarray, "height width channels features"], list[str]]:
  """The first kernel with channels matched by name; a channel new to the run gets the mean of the run's channels."""
  name = lambda channel, info: (_plain(info.channels[channel.sequence]), channel.offset)
  before = {name(channel, run.info): index for index, channel in enumerate(run.channels)}
  ours = [name(channel, components.info) for channel in components.channels]
  columns = [kernel[:, :, before[one]] if one in before else kernel.mean(2) for one in ours]
  if ours == list(before):
    return kernel, []
  shown = lambda channel: (
    f"{components.info.channels[channel.sequence]}{f'{channel.offset:+d}' if channel.offset else ''}"
  )
  known = [shown(channel) for channel, one in zip(components.channels, ours, strict=True) if one in before]
  new = [shown(channel) for channel, one in zip(components.channels, ours, strict=True) if one not in before]
  notes = [
    f"channels by name: {', '.join(known) or 'none'}{f'; from the mean of the others: {chr(44).join(new)}' if new else ''}"
  ]
  scale = np.float32(len(before) / len(ours))
  return np.stack(columns, axis=2) * scale, notes


def _plain(name: str) -> str:
  return re.sub(r"[^a-z0-9]", "", name.lower())


def patients_of(split: splits.Split, index: Collection[SliceId]) -> dict[str, list[str]]:
  """The sorted patients of the training and the validation set, which checkpoints record."""
  patient = {entry.id: entry.patient for entry in index}
  return {subset: sorted({patient[name] for name in getattr(split, subset)}) for subset in ("train", "validation")}


def check_no_leak(split: splits.Split, index: Collection[SliceId], run: TrainedRun | Weights) -> None:
  """Raises UserError if a run, or published weights, learned from patients that this split validates or tests on.

  Patients are compared by name, so the same patient under another name is not recognised.
  """
  ours = {subset: set(map(_person, patients)) for subset, patients in patients_of(split, index).items()}
  patient = {entry.id: entry.patient for entry in index}
  tested = {_person(patient[name]) for name in split.test}
  theirs = run.patients
  if isinstance(run, Weights) and split.leaky:  # as every output of this run says
    return
  if theirs is None:  # older checkpoints do not record patients
    there = splits.read(pathlib.Path(run.origin))
    theirs = {
      subset: [patient.get(name, name.rpartition("/")[0]) for name in there[subset]]
      for subset in ("train", "validation")
    }
  learned, chosen = (set(map(_person, theirs[subset])) for subset in ("train", "validation"))
  if seen := (learned & ours["validation"]) | ((learned | chosen) & tested):
    what, remedy = f"the run in {run.origin}", "name a run of the same split"
    if isinstance(run, Weights):
      what, remedy = run.origin, "fine-tune it on other data, or start at random, with an empty model.pretrained"
    raise UserError(
      f"model.pretrained: {what} learned from {len(seen)} patients that this one ({split.name}) validates or "
      f"tests on, {min(seen)} among them: that leaks; {remedy}"
    )


def _person(patient: str) -> str:
  """A patient's name in one spelling; a TCGA name ends after the patient: `TCGA-CS-4941_1996` is `TCGA_CS_4941`."""
  name = re.sub(r"[^A-Za-z0-9]+", "_", patient).upper()
  match = re.match(r"TCGA_[A-Z0-9]{2}_[A-Z0-9]{4}", name)
  return match[0] if match else name
