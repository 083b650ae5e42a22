"""Loggers besides metrics.csv and TensorBoard, each against its own package without a server."""

import pytest

from bt_jax.errors import UserError
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
    UserError, match=rf"log={name} needs {name}, which is not installed: pip install .bt_jax\[{name}\]"
  ) as error:
    loggers.parse(name)
  assert len(str(error.value).splitlines()) == 1


def test_what_a_logger_raises_is_one_line(monkeypatch, tmp_path):
  def refuse(*_):
    raise ConnectionError("no server\nthere")

  monkeypatch.setitem(loggers.LOGGERS, "mlflow", refuse)
  with pytest.raises(UserError, match="log=mlflow failed .*no server.*start the command again") as error:
    loggers.open_loggers(("mlflow",), tmp_path, "made up", CONFIG)
  assert len(str(error.value).splitlines()) == 1 and not list(tmp_path.iterdir())


def log_twice(name, folder):
  """Two epochs, with a stop and another start in between."""
  for epoch in (1, 2):
    (logger,) = loggers.open_loggers((name,), folder, "made up, fold 0", CONFIG)
    logger.add({"epoch": epoch, "train_loss": 0.5 / epoch}, 10 * epoch)
    logger.close()
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
def test_wandb_writes_a_resumed_run_as_one_without_a_server(tmp_path, monkeypatch):
  pytest.importorskip("wandb", reason="an extra of its own")
  monkeypatch.setenv("WANDB_MODE", "offline")
  (tmp_path / "run").mkdir()
  run_id = log_twice("wandb", tmp_path / "run")
  written = sorted((tmp_path / "run/wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
  assert written and all(path.stat().st_size for path in written)
  assert any(b"train_loss" in path.read_bytes() for path in written)
