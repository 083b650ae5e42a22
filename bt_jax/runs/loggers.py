"""Loggers of a training besides `metrics.csv` and TensorBoard: MLflow and Weights & Biases, each by an extra of its name.

Where they write is what their own environment says, such as `MLFLOW_TRACKING_URI` and `WANDB_MODE=offline`.
"""

import abc
import contextlib
import importlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from flax.traverse_util import flatten_dict

from bt_jax import files
from bt_jax.errors import Stopped, UserError, choose, needs, one_line

Outcome = Literal["finished", "killed", "failed"]  # killed: by Ctrl-C or SIGTERM, to be resumed


class Logger(abc.ABC):
  """Where the numbers of every epoch go."""

  name: str
  run_id: str  # by which the run is found again there

  @abc.abstractmethod
  def add(self, values: Mapping[str, float | int], step: int) -> None:
    """Adds the numbers of one step, by name."""

  @abc.abstractmethod
  def close(self, outcome: Outcome) -> None:
    """Ends the run there, as training ended."""


class MLflow(Logger):
  """A run of MLflow, new or resumed."""

  name = "mlflow"

  def __init__(self, folder: pathlib.Path, title: str, config: dict[str, Any], run_id: str | None):
    from mlflow.tracking import MlflowClient

    self._client = MlflowClient()
    if run_id is None:
      experiment = self._client.get_experiment_by_name("bt_jax")
      where = experiment.experiment_id if experiment else self._client.create_experiment("bt_jax")
      run_id = self._client.create_run(where, run_name=folder.name, tags={"data": title}).info.run_id
      for name, value in flatten_dict(config, sep=".").items():
        self._client.log_param(run_id, name, value)
    else:
      self._client.update_run(run_id, status="RUNNING")
    self.run_id = run_id

  def add(self, values: Mapping[str, float | int], step: int) -> None:
    for name, value in values.items():
      self._client.log_metric(self.run_id, name, value, step=step)

  def close(self, outcome: Outcome) -> None:
    self._client.set_terminated(self.run_id, outcome.upper())


class WandB(Logger):
  """A run of Weights & Biases, new or resumed; its local files are in the run's folder."""

  name = "wandb"

  def __init__(self, folder: pathlib.Path, title: str, config: dict[str, Any], run_id: str | None):
    import wandb

    self._run = wandb.init(
      project="bt_jax", name=folder.name, notes=title, dir=str(folder), config=config, id=run_id, resume="allow"
    )
    self.run_id = self._run.id

  def add(self, values: Mapping[str, float | int], step: int) -> None:
    self._run.log(dict(values), step=step)

  def close(self, outcome: Outcome) -> None:
    self._run.finish(exit_code=0 if outcome == "finished" else 1)


LOGGERS = {logger.name: logger for logger in (MLflow, WandB)}


def parse(names: str) -> tuple[str, ...]:
  """The loggers that the field `log` names.

  Raises:
    UserError: there is no such logger, or its package is not installed.
  """
  chosen = tuple(name.strip() for name in names.split(",") if name.strip())
  for name in chosen:
    choose("log", name, LOGGERS)
    with needs(name, f"log={name}"):
      importlib.import_module(name)
  return chosen


@contextlib.contextmanager
def reported(name: str) -> Iterator[None]:
  """Turns whatever a logger raises, which differs between them, into a UserError of one line."""
  try:
    yield
  except Exception as error:
    raise UserError(
      f"log={name} failed ({one_line(error)}): see to where it writes and start the command again, or leave it out",
      "log",
    ) from error


@contextlib.contextmanager
def open_loggers(
  names: tuple[str, ...], folder: pathlib.Path, title: str, config: dict[str, Any]
) -> Iterator[list[Logger]]:
  """Opens loggers for the run in a folder, and closes them with the outcome.

  `loggers.json` in the folder keeps their runs' ids, so that a resumed run goes on in them.

  Raises:
    UserError: a logger refuses, e.g. as its server cannot be reached. While another error is raised, it is printed instead.
  """
  path = folder / "loggers.json"
  ids = json.loads(path.read_text()) if names and path.is_file() else {}
  opened: list[Logger] = []
  try:
    for name in names:
      with reported(name):
        opened.append(LOGGERS[name](folder, title, config, ids.get(name)))
      ids[name] = opened[-1].run_id
      files.write_json(path, ids)
    yield opened
  except BaseException as error:
    outcome = "killed" if isinstance(error, (Stopped, KeyboardInterrupt)) else "failed"
    _warn(_close(opened, outcome))
    raise
  if refused := _close(opened, "finished"):
    _warn(refused[1:])
    raise refused[0]


def _close(opened: list[Logger], outcome: Outcome) -> list[UserError]:
  """Closes all loggers; returns what they raise."""
  refused = []
  for logger in opened:
    try:
      with reported(logger.name):
        logger.close(outcome)
    except UserError as error:
      refused.append(error)
  return refused


def _warn(refused: list[UserError]) -> None:
  for error in refused:
    print(f"warning: {error}", flush=True)
