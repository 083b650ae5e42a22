"""Where a run's encoder starts from: published weights, converted ones, or another run."""

import pathlib

from typing_extensions import TypedDict

from bt_jax import files
from bt_jax.datasets import splits
from bt_jax.datasets.splits import Split
from bt_jax.errors import UserError
from bt_jax.models import MODELS, encoder_of, make_model, taken
from bt_jax.pretrained import conversion
from bt_jax.pretrained.conversion import Weights
from bt_jax.training import checkpoint_record as records
from bt_jax.training.checkpoints import AS_SAVED, Checkpoints, no_best

_RECORD, _SEAL = "pretrained.json", "record_sha256"


class _About(TypedDict):
  """What is read of it."""

  normalize: str
  sha256: str


def load(name: str) -> Weights | None:
  """The weights that `model.pretrained` names; None where it is empty.

  Raises:
    UserError: there are none, they cannot be read, or are of no network we have.
  """
  if not name:
    return None
  folder = pathlib.Path(name).expanduser()
  return _of_run(folder) if is_run(name) else conversion.load_weights(name)


def is_run(name: str) -> bool:
  """Whether `model.pretrained` names the folder of a run."""
  return bool(name) and (pathlib.Path(name).expanduser() / "config.json").is_file()


def _of_run(folder: pathlib.Path) -> Weights:
  best = Checkpoints(folder / "checkpoints" / "best", read_only=True)
  restored = best.restore(AS_SAVED)
  best.close()
  if restored is None:
    raise no_best(folder, UserError(f"model.pretrained: the run in {folder} holds no checkpoint yet: train it first"))
  variables, record = restored
  config = records.check(record, folder)["config"]
  if "encoder" not in variables["params"]:
    raise UserError(
      f"model.pretrained: the run in {folder} is of {config['model']['name']}, which has no published encoder: name a run "
      "of a network that has one"
    )
  conversion.check_finite(variables, str(folder))
  encoder = encoder_of(make_model(MODELS, **taken(MODELS, config["model"])))
  return Weights(variables, encoder, record["normalize"], str(folder.resolve()), record["arrays_sha256"])


def normalization(workdir: pathlib.Path, weights: Weights | None) -> str:
  """What `data.normalize=auto` stands for: as the weights were trained, or `volume` where there are none.

  Args:
    workdir: of the run; one that was begun keeps to what its weights said then.
    weights: that it starts from, if they are at hand.
  """
  if weights is not None:
    return weights.normalize
  return _recorded(workdir)["normalize"] if (workdir / _RECORD).is_file() else "volume"


def check_same(workdir: pathlib.Path, weights: Weights | None) -> None:
  """Raises UserError where the run in `workdir` began from other weights."""
  if weights is not None and (workdir / _RECORD).is_file() and _recorded(workdir)["sha256"] != weights.sha256:
    raise UserError(f"{weights.origin} is not what the run in {workdir} began from: choose another workdir", "workdir")


def record(workdir: pathlib.Path, weights: Weights, adapted: list[str], asked: str) -> None:
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
  print(f"encoder from {weights.origin} ({weights.variant}, SHA-256 {weights.sha256[:12]}...)")
  for line in adapted:
    print(f"  {line}")


def _recorded(workdir: pathlib.Path) -> _About:
  path, remedy = workdir / _RECORD, "put it back from a copy, or train the run again in another folder"
  return files.check_seal(files.read_json(path, _About, remedy), path, remedy, _SEAL)


def check_no_leak(split: Split, weights: Weights | None) -> None:
  """Raises UserError where the weights are a run's that learned from slices this split validates or tests on."""
  if weights is None or not is_run(weights.origin):
    return
  there = splits.read(pathlib.Path(weights.origin))
  learned, chosen = set(there["train"]), set(there["validation"])
  if seen := (learned & set(split.validation)) | ((learned | chosen) & set(split.test)):
    raise UserError(
      f"model.pretrained: the run in {weights.origin} ({there['name']}) learned from {len(seen)} slices that this one "
      f"({split.name}) validates or tests on, {min(seen)} among them: that leaks; name a run of the same split"
    )
