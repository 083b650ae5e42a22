"""Loggers besides metrics.csv and TensorBoard, each against its own package without a server."""

import contextlib
import signal
from typing import ClassVar

import pytest

from bt_jax import files
from bt_jax.errors import Stopped, UserError
from bt_jax.runs import loggers

CONFIG = {"task": "segmentation", "train": {"epochs": 2, "learning_rate": 0.5}}


def test_an_unknown_logger_is_refused_in_one_line():
  with pytest.raises(UserError, match="log is .comet"):
    loggers.parse("comet")
  assert loggers.parse("") == ()


@pytest.mark.parametrize("name", loggers.LOGGERS)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name):
  monkeypatch.setitem(__import__("sys").modules, name, None)
  with pytest.raises(
    UserError, match=rf"log={name} needs {name}, which is not installed: pip install .\.\[{name}\]"
  ) as error:
    loggers.parse(name)
  assert len(str(error.value).splitlines()) == 1


def test_what_a_logger_raises_is_one_line(monkeypatch, tmp_path):
  def refuse(*_):
    raise ConnectionError("no server\nthere")

  monkeypatch.setitem(loggers.LOGGERS, "mlflow", refuse)
  with (
    pytest.raises(UserError, match="log=mlflow failed .*no server.*start the command again") as error,
    loggers.open_loggers(("mlflow",), tmp_path, "made up", CONFIG),
  ):
    pass
  assert len(str(error.value).splitlines()) == 1 and not list(tmp_path.iterdir())


class Recording(loggers.Logger):
  """A logger that keeps how it was closed, and whose server can be lost."""

  outcomes: ClassVar[dict] = {}  # by name, of one test
  lost: ClassVar[set] = set()

  def __init__(self, name):
    self.name, self.run_id = name, f"id of {name}"

  def add(self, values, step):
    pass

  def close(self, outcome):
    self.outcomes[self.name] = outcome
    if self.name in self.lost:
      raise ConnectionError("no server\nthere")


@pytest.fixture
def recording(monkeypatch):
  monkeypatch.setattr(Recording, "outcomes", {})
  monkeypatch.setattr(Recording, "lost", set())
  for name in loggers.LOGGERS:
    monkeypatch.setitem(loggers.LOGGERS, name, lambda *_, name=name: Recording(name))
  return Recording


def train(folder, error=None):
  with loggers.open_loggers(("mlflow", "wandb"), folder, "made up", CONFIG):
    if error:
      raise error


@pytest.mark.parametrize(
  ("error", "outcome"),
  [
    (None, "finished"),
    (Stopped(7, signal.SIGTERM), "killed"),
    (KeyboardInterrupt(), "killed"),
    (UserError("not finite"), "failed"),
  ],
)
@pytest.mark.parametrize("lost", [(), ("mlflow",), ("mlflow", "wandb")])
def test_loggers_are_closed_with_the_outcome_and_hide_no_error(error, outcome, lost, recording, tmp_path, capsys):
  recording.lost.update(lost)
  with contextlib.ExitStack() as stack:
    raised = type(error) if error else UserError
    caught = stack.enter_context(pytest.raises(raised)) if error or lost else None
    train(tmp_path, error)
  assert recording.outcomes == {"mlflow": outcome, "wandb": outcome}
  lines = [f"log={name} failed (no server there)" for name in lost]
  printed = capsys.readouterr().out.splitlines()
  if error:
    assert caught.value is error
  elif lost:
    printed = [str(caught.value), *printed]
  assert len(printed) == len(lines) and all(line in text for line, text in zip(lines, printed, strict=True))


def test_a_logger_that_does_not_open_leaves_the_first_closed_and_its_id_kept(recording, monkeypatch, tmp_path):
  def refuse(*_):
    raise ConnectionError("no server")

  monkeypatch.setitem(loggers.LOGGERS, "wandb", refuse)
  with pytest.raises(UserError, match="log=wandb failed"):
    train(tmp_path)
  assert recording.outcomes == {"mlflow": "failed"}
  assert files.read_json(tmp_path / "loggers.json", dict) == {"mlflow": "id of mlflow"}


def log_twice(name, folder):
  """Two epochs, with a stop and another start in between; returns the run's id."""
  for epoch in (1, 2):
    stopped = pytest.raises(Stopped) if epoch == 1 else contextlib.nullcontext()
    with stopped, loggers.open_loggers((name,), folder, "made up, fold 0", CONFIG) as (logger,):
      logger.add({"epoch": epoch, "train_loss": 0.5 / epoch}, 10 * epoch)
      if epoch == 1:
        raise Stopped(10, signal.SIGTERM)
  return logger.run_id


@pytest.mark.slow
def test_mlflow_keeps_a_resumed_run_as_one(tmp_path, monkeypatch):
  tracking = pytest.importorskip("mlflow.tracking", reason="an extra of its own")
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
  (tmp_path / "run").mkdir()
  run_id = log_twice("mlflow", tmp_path / "run")
  client = tracking.MlflowClient()
  (run,) = client.search_runs([client.get_experiment_by_name("bt_jax").experiment_id])
  assert run.info.run_id == run_id and run.info.status == "FINISHED" and run.data.params["train.learning_rate"] == "0.5"
  assert [(point.step, point.value) for point in client.get_metric_history(run_id, "train_loss")] == [
    (10, 0.5),
    (20, 0.25),
  ]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("error", "status"), [(Stopped(10, signal.SIGINT), "KILLED"), (UserError("not finite"), "FAILED")]
)
def test_mlflow_shows_a_run_that_did_not_finish_as_such_and_a_resumed_one_as_running(
  error, status, tmp_path, monkeypatch
):
  tracking = pytest.importorskip("mlflow.tracking", reason="an extra of its own")
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
  status_of = lambda logger: tracking.MlflowClient().get_run(logger.run_id).info.status
  with (
    pytest.raises(type(error)),
    loggers.open_loggers(("mlflow",), tmp_path, "made up", CONFIG) as (logger,),
  ):
    raise error
  assert status_of(logger) == status
  with loggers.open_loggers(("mlflow",), tmp_path, "made up", CONFIG) as (resumed,):
    assert resumed.run_id == logger.run_id and status_of(logger) == "RUNNING"
  assert status_of(logger) == "FINISHED"


@pytest.mark.slow
def test_wandb_writes_a_resumed_run_as_one_without_a_server(tmp_path, monkeypatch):
  pytest.importorskip("wandb", reason="an extra of its own")
  monkeypatch.setenv("WANDB_MODE", "offline")
  (tmp_path / "run").mkdir()
  run_id = log_twice("wandb", tmp_path / "run")
  written = sorted((tmp_path / "run/wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
  assert written and all(path.stat().st_size for path in written)
  assert any(b"train_loss" in path.read_bytes() for path in written)
