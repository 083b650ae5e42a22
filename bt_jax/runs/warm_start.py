"""The starting point of a run's network: published weights, converted weights, or another run."""

import pathlib

from typing_extensions import TypedDict

from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.models import encoder_of
from bt_jax.pretrained import conversion, filling
from bt_jax.pretrained.conversion import Weights
from bt_jax.runs import transfer
from bt_jax.runs.components import Components
from bt_jax.runs.transfer import TrainedRun
from bt_jax.training.train_state import PyTree

_RECORD, _SEAL = "pretrained.json", "record_sha256"


class _About(TypedDict):
  """The fields of `pretrained.json` that are read."""

  normalize: str
  sha256: str


def load(name: str) -> Weights | TrainedRun | None:
  """The weights or the run that `model.pretrained` names; None if it is empty.

  Raises:
    UserError: they do not exist, cannot be read, or are for a network that we do not have.
  """
  if not name:
    return None
  run = transfer.find(name)
  return conversion.load_weights(name) if run is None else transfer.load(run)


def check_fits(components: Components, weights: Weights | TrainedRun) -> None:
  """Raises UserError if the network of a run cannot start from these weights."""
  if isinstance(weights, TrainedRun):
    transfer.check_fits(components, weights)
  else:
    filling.check_fits(components.shapes, weights, encoder=encoder_of(components.model))


def fill(components: Components, variables: PyTree, weights: Weights | TrainedRun) -> tuple[PyTree, list[str]]:
  """Fills `variables` from the weights; also returns a line for everything that was adapted or left out."""
  if isinstance(weights, TrainedRun):
    return transfer.fill(components, variables, weights)
  return filling.fill(variables, weights)


def normalization(workdir: pathlib.Path, weights: Weights | TrainedRun | None) -> str:
  """The scheme for `data.normalize=auto`: the one that the weights were trained with, or `volume` without weights.

  Args:
    workdir: folder of the run; an existing run keeps the scheme that it recorded.
    weights: the weights that the run starts from, if available.
  """
  if weights is not None:
    return weights.normalize
  return _recorded(workdir)["normalize"] if (workdir / _RECORD).is_file() else "volume"


def check_same(workdir: pathlib.Path, weights: Weights | TrainedRun | None) -> None:
  """Raises UserError if the run in `workdir` began from other weights."""
  if weights is not None and (workdir / _RECORD).is_file() and _recorded(workdir)["sha256"] != weights.sha256:
    raise UserError(f"{weights.origin} is not what the run in {workdir} began from: choose another workdir", "workdir")


def record(workdir: pathlib.Path, weights: Weights | TrainedRun, adapted: list[str], asked: str) -> None:
  """Records and prints the starting point of a run.

  Args:
    workdir: folder of the run.
    weights: the weights that it starts from.
    adapted: lines on what was adapted or left out.
    asked: how the inputs of the run are normalised.
  """
  if asked != weights.normalize:
    adapted = [*adapted, f"they were trained on inputs normalised as {weights.normalize}, and this run's are {asked}"]
  files.write_json(workdir / _RECORD, files.sealed({**weights.about, "adapted": adapted}, _SEAL))
  what = "network" if isinstance(weights, TrainedRun) or weights.is_whole else "encoder"
  print(f"{what} from {weights.origin} ({weights.variant}, SHA-256 {weights.sha256[:12]}...)")
  for line in adapted:
    print(f"  {line}")


def _recorded(workdir: pathlib.Path) -> _About:
  path, remedy = workdir / _RECORD, "put it back from a copy, or train the run again in another folder"
  return files.check_seal(files.read_json(path, _About, remedy), path, remedy, _SEAL)
