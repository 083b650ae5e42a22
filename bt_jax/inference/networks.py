"""Trained networks as pure functions, from checkpoints alone: neither a configuration nor a data set is needed."""

import dataclasses
import functools
import glob
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax import linen as nn

from bt_jax import files, zoo
from bt_jax.datasets.channels import Channel, context_of, parse_channels
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.registry import PUBLISHED, info_of
from bt_jax.distributed import programs
from bt_jax.errors import UserError, check_local
from bt_jax.inference import published
from bt_jax.models import DTYPES, configured_model
from bt_jax.pipeline import percentiles
from bt_jax.pipeline.preprocess import SCHEMES, make_preprocess
from bt_jax.tasks import TASKS
from bt_jax.training import checkpoint_record as records
from bt_jax.training import network_file
from bt_jax.training.step import make_predict_step
from bt_jax.training.train_state import PyTree

_BEST = pathlib.Path("checkpoints") / "best"


class View(NamedTuple):
  """How a volume is prepared before a network sees its slices.

  Attributes:
    size: height and width of the grid that it is resampled to: the network's own, or that of the stored slices where
      contrast is enhanced or percentiles are taken, as training does so before resizing.
    contrast: how it is enhanced, a name of `pipeline.contrast.CONTRASTS`.
    context: the channels of neighbours after a slice's own, see `channels.context_of`.
    percentiles: whether it is normalised between percentiles of the volume, see `pipeline.percentiles`.
    cropped: whether it shows the head alone, as the published U-Net was trained.
  """

  size: int
  contrast: str = "none"
  context: tuple[Channel, ...] = ()
  percentiles: bool = False
  cropped: bool = False


@dataclasses.dataclass(frozen=True)
class Network:
  """One trained network.

  Attributes:
    info: the data set that it was trained on.
    variables: its parameters and statistics.
    logits: maps variables and a batch of slices on the grid of `view` to logits of tumour; networks of one architecture
      share this function.
    view: what it sees of every slice: the grid, the name of the contrast and the neighbours' channels.
    drops_sequences: whether it was trained with FLAIR in place of other sequences.
    slice_head: whether it has a head for slices.
    decision: what was chosen on its validation set: `threshold`, `temperature` and `tumor_probabilities`.
    profile: the range of each feature of `ood.features` over volumes it was trained on.
    largest_component: whether its masks keep only the largest 3-D part.
    about: its origin, for outputs.
    module: the Linen module of the variables.
    identity: everything that `logits` depends on besides its arguments, as text; empty if that is not known.
  """

  info: DatasetInfo
  variables: PyTree
  logits: Callable
  view: View
  drops_sequences: bool
  slice_head: bool
  decision: dict[str, Any]
  profile: dict[str, list[float]]
  largest_component: bool
  about: dict[str, Any]
  module: nn.Module | None = None
  identity: str = ""


def find(names: Sequence[str | os.PathLike[str]], argument: str) -> list[pathlib.Path]:
  """The files and folders that hold one network each.

  Args:
    names: names of weights that ship, see `zoo`; or paths or patterns of runs, of their checkpoints, of
      cross-validations with runs in them, or of exports.
    argument: name of the argument that they were given as.

  Raises:
    UserError: there is none, or one is given twice.
  """
  networks: list[pathlib.Path] = []
  for name in names:
    check_local(name, argument)
    path = zoo.path_of(str(name)) or pathlib.Path(name).expanduser()
    paths = [path] if path.exists() else sorted(map(pathlib.Path, glob.glob(str(path))))
    if not paths:
      ship = "".join(f"{one}, " for one in zoo.names())
      raise UserError(f"there is no {name}: name {ship}the folder of a run, or an exported file", argument)
    for path in paths:
      folds = sorted(fold for fold in path.glob("fold*_*") if (fold / _BEST.parent).is_dir()) if path.is_dir() else []
      networks += folds if not (path / _BEST).is_dir() and folds else [path]
  if not networks:
    raise UserError(f"{argument} is empty: name the folder of a run, or an exported file", argument)
  resolved = [path.resolve() for path in networks]
  if twice := [path for path in networks if resolved.count(path.resolve()) > 1]:
    raise UserError(f"{argument}: {twice[0]} is given twice: leave one out", argument)
  return networks


def load(folder: pathlib.Path, task: str, argument: str, dtype: str | None = None) -> Network:
  """The network of a run, of one of its checkpoints, of a file of weights, or of published weights.

  Args:
    folder: the run, `checkpoints/best` in it, or one step in that; a file of `network_file.write`; or a file or folder of
      published weights.
    task: the task that it must have been trained for.
    argument: name of the argument that it was given as.
    dtype: dtype to compute in, a name of `models.DTYPES`; None for that of the training.

  Raises:
    UserError: there is no checkpoint, it cannot be read, is corrupt, of another version, or of another task.
  """
  if published.is_weights(folder) and not network_file.is_network(folder):
    return _published(folder, task, argument, dtype)
  variables, record = restore(folder, argument)
  config, decision = records.check(record, folder)["config"], record["decision"]
  try:
    info = info_of(record)
  except ValueError as error:
    raise files.damaged(folder, f"its record of the data set: {error}", records.REMEDY) from error
  if config["task"] != task:
    other = {"segmentation": "checkpoint", "classification": "classifier"}[config["task"]]
    raise UserError(f"{argument}: {folder} is of {config['task']}, expected {task}: name it as {other}", other)
  # Everything that the function depends on, the same for all runs of a cross-validation.
  model = config["model"] | {"pretrained": ""} | ({"dtype": dtype} if dtype else {})
  contrast, size, channels = (config["data"][name] for name in ("contrast", "size", "channels"))
  architecture = (task, tuple(sorted(model.items())), size, channels, record["normalize"], info)
  module, logits = _functions(*architecture)
  context = context_of(parse_channels(channels, info), info)
  by_percentiles = record["normalize"] == percentiles.NAME
  return Network(
    info=info,
    variables=variables,
    logits=logits,
    view=View(info.size if contrast != "none" or by_percentiles else size, contrast, context, by_percentiles),
    drops_sequences=config["augment"]["drop_sequence"] > 0,
    slice_head=config["model"]["slice_head"],
    decision=decision,
    profile=record["profile"],
    largest_component=config["eval"]["largest_component"],
    about={
      "path": str(folder.resolve()),
      "model": config["model"]["name"],
      "data": record["data"],
      "split": record["split"],
      "step": record["step"],
      "arrays_sha256": record["arrays_sha256"],
      "threshold": decision["threshold"],
      "bt_jax": record["bt_jax"],
    },
    module=module,
    identity=identity_of(module, architecture),
  )


def _published(path: pathlib.Path, task: str, argument: str, dtype: str | None) -> Network:
  if task != "segmentation":
    raise UserError(f"{argument}: {path} is a segmenter, expected a classifier: name it as checkpoint", "checkpoint")
  weights = published.load(path, argument)
  model = tuple(sorted((published.MODEL | {"dtype": dtype or "float32"}).items()))
  architecture = (task, model, PUBLISHED.size, ",".join(PUBLISHED.channels), weights.normalize, PUBLISHED)
  module, logits = _functions(*architecture)
  return Network(
    info=PUBLISHED,
    variables=weights.variables,
    logits=logits,
    view=View(PUBLISHED.size, percentiles=True, cropped=True),
    drops_sequences=False,
    slice_head=False,
    decision=published.DECISION,
    profile={},
    largest_component=True,
    about=published.describe(path, weights),
    module=module,
    identity=identity_of(module, architecture),
  )


def identity_of(module: nn.Module, architecture: tuple[Any, ...]) -> str:
  """The module, with all its fields, and the arguments of `_functions`; empty where network or normalisation is a user's own."""
  ours = programs.is_ours(type(module)) and programs.is_ours(SCHEMES[architecture[-2]])
  return f"{module!r} {architecture}" if ours else ""


def restore(folder: pathlib.Path, argument: str) -> tuple[PyTree, dict[str, Any]]:
  """The variables of a network and the record of its checkpoint; see `load`."""
  if folder.is_file():
    return network_file.read(folder)
  from bt_jax.training.checkpoints import AS_SAVED, Checkpoints, no_best  # it imports Orbax, which files do not need

  step, run = None, folder
  if (folder / _BEST).is_dir():
    folder = folder / _BEST
  elif re.fullmatch(r"\d+", folder.name) and (folder / "record").is_dir():
    folder, step = folder.parent, int(folder.name)
  # Training resumes from `checkpoints/latest`; what prediction needs is only in `best`.
  around = [parent for parent in run.absolute().parents if (parent / _BEST).is_dir()]
  if around and folder.name != _BEST.name:
    raise UserError(f"{run} is not a network but a part of the run in {around[0]}: name that run", argument)
  checkpoints = Checkpoints(folder, read_only=True)
  restored = checkpoints.restore(AS_SAVED, step=step) if checkpoints.exist else None
  checkpoints.close()
  if restored is None:
    remedy = "name the folder of a finished run, or an exported file"
    raise no_best(run, UserError(f"{folder} holds no checkpoint: {remedy}", argument))
  return restored


@functools.cache
def _functions(
  name: str, model: tuple[tuple[str, Any], ...], size: int, channels: str, normalize: str, info: DatasetInfo
) -> tuple[nn.Module, Callable]:
  """The module and `predict_step(variables, batch)` of a task; `model` has the fields of a configuration's section."""
  task, fields = TASKS[name](info), dict(model)
  fields |= {"classes": task.outputs, "dtype": DTYPES[fields["dtype"]]}
  module = configured_model(task.models, fields)
  preprocess = make_preprocess(size=size, normalize=normalize, channels=channels, info=info)
  return module, make_predict_step(model=module, task=task, preprocess=preprocess)
