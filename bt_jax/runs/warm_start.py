"""Where a run's network starts from: published weights, converted ones, or another run."""

import pathlib

from typing_extensions import TypedDict

from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.models import encoder_of
from bt_jax.pretrained import conversion
from bt_jax.pretrained.conversion import Weights
from bt_jax.runs import transfer
from bt_jax.runs.components import Components
from bt_jax.runs.transfer import TrainedRun
from bt_jax.training.train_state import PyTree

_RECORD, _SEAL = "pretrained.json", "record_sha256"


class _About(TypedDict):
  """What is read of it."""

  normalize: str
  sha256: str


def load(name: str) -> Weights | TrainedRun | None:
  """What `model.pretrained` names, weights or a run; None where it is empty.

  Raises:
    UserError: there are none, they cannot be read, or are of no network we have.
  """
  if not name:
    return None
  return transfer.load(pathlib.Path(name).expanduser()) if is_run(name) else conversion.load_weights(name)


def is_run(name: str) -> bool:
  """Whether `model.pretrained` names the folder of a run."""
  return bool(name) and (pathlib.Path(name).expanduser() / "config.json").is_file()


def check_fits(components: Components, weights: Weights | TrainedRun) -> None:
  """Raises UserError where the network of a run cannot start from these weights."""
  if isinstance(weights, TrainedRun):
    transfer.check_fits(components, weights)
  else:
    conversion.check_fits(components.shapes, weights, encoder=encoder_of(components.model))


def fill(components: Components, variables: PyTree, weights: Weights | TrainedRun) -> tuple[PyTree, list[str]]:
  """`variables` with what the weights have of them, and a line on each thing that was adapted or left out."""
  if isinstance(weights, TrainedRun):
    return transfer.fill(components, variables, weights)
  return conversion.fill_encoder(variables, weights)


def normalization(workdir: pathlib.Path, weights: Weights | TrainedRun | None) -> str:
  """What `data.normalize=auto` stands for: as the weights were trained, or `volume` where there are none.

  Args:
    workdir: of the run; one that was begun keeps to what its weights said then.
    weights: that it starts from, if they are at hand.
  """
  if weights is not None:
    return weights.normalize
  return _recorded(workdir)["normalize"] if (workdir / _RECORD).is_file() else "volume"


def check_same(workdir: pathlib.Path, weights: Weights | TrainedRun | None) -> None:
  """Raises UserError where the run in `workdir` began from other weights."""
  if weights is not None and (workdir / _RECORD).is_file() and _recorded(workdir)["sha256"] != weights.sha256:
    raise UserError(f"{weights.origin} is not what the run in {workdir} began from: choose another workdir", "workdir")


def record(workdir: pathlib.Path, weights: Weights | TrainedRun, adapted: list[str], asked: str) -> None:
  """Writes down and prints what a run starts from.

  Args:
    workdir: of the run.
    weights: that it starts from.
    adapted: what was adapted or left out.
    asked: how the inputs of the run are normalised.
  """
  if asked != weights.normalize:
    adapted = [*adapted, f"they were trained on inputs normalised as {weights.normalize}, and this run's are {asked}"]
  files.write_json(workdir / _RECORD, files.sealed({**weights.about, "adapted": adapted}, _SEAL))
  what = "network" if isinstance(weights, TrainedRun) else "encoder"
  print(f"{what} from {weights.origin} ({weights.variant}, SHA-256 {weights.sha256[:12]}...)")
  for line in adapted:
    print(f"  {line}")


def _recorded(workdir: pathlib.Path) -> _About:
  path, remedy = workdir / _RECORD, "put it back from a copy, or train the run again in another folder"
  return files.check_seal(files.read_json(path, _About, remedy), path, remedy, _SEAL)
