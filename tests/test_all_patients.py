"""A network trained on every slice: from its training to a file of weights, by the command line."""

import json

import pytest

from bt_jax.datasets.lgg_mri import phantom
from bt_jax.runs import transfer
from bt_jax.training import network_file
from tests.helpers.launching import launch, unbroken

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def everyone(once, tiny):
  """The run of `tiny` on all slices: its folder and what it printed."""
  return once("everyone", lambda folder: unbroken([*tiny, "--config.split.kind=all"], folder)[1])


def test_it_trains_on_all_and_is_tested_on_none(everyone, tiny):
  folder, out = everyone
  split = json.loads((folder / "split.json").read_text())
  assert (split["validation"], split["test"]) == ([], []) and len(split["train"]) > 80
  assert "tested on none" in out and "validation score" not in out
  assert not (folder / "summary.json").exists()
  flags = [*tiny, "--config.split.kind=all", f"--workdir={folder}"]
  status, _, err = launch([*flags, "--mode=evaluate"])
  assert status == 1 and "none is left to test" in err and "--mode=crossval" in err
  status, out, err = launch(flags)
  assert status == 0 and "is trained already" in out, err


def test_it_predicts_with_a_threshold_that_is_named_or_chosen_by_folds(everyone, run, phantom_root, tmp_path):
  scan = next(phantom_root.glob("kaggle_3m/*/"))
  predict = ["--mode=predict", f"--input={scan}", f"--output={tmp_path / 'out'}"]
  status, _, err = launch([*predict, f"--checkpoint={everyone[0]}"])
  assert status == 1 and "no threshold was chosen for it" in err
  file = tmp_path / "everyone.safetensors"
  export = ["--mode=export", f"--checkpoint={everyone[0]}", f"--output={file}"]
  status, _, err = launch(export)
  assert status == 1 and "no threshold was chosen for it" in err and not file.exists()
  status, _, err = launch([*export, f"--runs={run[0]}"])
  assert status == 0, err
  summary = json.loads((run[0] / "summary.json").read_text())
  _, record = network_file.read(file)
  assert record["decision"]["threshold"] == summary["threshold"]
  assert record["decision"]["temperature"] == summary["temperatures"]["slices"]
  assert record["chosen_by"] == {"splits": ["patient_fold_00"], "patients": summary["test"]["patients"]}
  status, _, err = launch([*predict, f"--checkpoint={file}"])
  assert status == 0, err
  assert json.loads((tmp_path / "out" / "prediction.json").read_text())["threshold"] == summary["threshold"]


def test_a_run_that_starts_from_it_remembers_whom_it_learned_from(everyone, run, tiny, tmp_path):
  """So that a third run, from the second, does not test patients that only the first learned from."""
  file = tmp_path / "everyone.safetensors"
  assert launch(["--mode=export", f"--checkpoint={everyone[0]}", f"--output={file}", f"--runs={run[0]}"])[0] == 0
  second, few = tmp_path / "second", phantom.write_tree(tmp_path / "few", patients=3, slices=4, seed=2).parent
  data = [f"--config.data.root={few}", f"--config.data.dir={tmp_path / 'data'}"]
  flags = [*tiny, *data, "--config.train.epochs=1", "--config.split.kind=all"]
  status, out, err = launch([*flags, f"--config.model.pretrained={file}", f"--workdir={second}"])
  assert status == 0 and "arrays are taken over" in out, err
  learned = transfer.load(file).patients["train"]
  assert len(learned) == 22
  assert set(learned) <= set(transfer.load(second).patients["train"])
  status, _, err = launch([*tiny, f"--config.model.pretrained={second}", f"--workdir={tmp_path / 'third'}"])
  assert status == 1 and "that leaks" in err


def test_what_belongs_to_predictions_is_refused_for_weights(everyone, run, tmp_path):
  export = ["--mode=export", f"--checkpoint={run[0]}", f"--output={tmp_path / 'run.safetensors'}"]
  for flag in ("--tta", "--threshold=0.4", "--sensitivity=0.9", f"--runs={run[0]}"):
    status, _, err = launch([*export, flag])
    assert status == 1 and "Traceback" not in err and len(err.strip().splitlines()) == 1, err
  assert not (tmp_path / "run.safetensors").exists()
  status, _, err = launch([*export, f"--output={tmp_path / 'run.bin'}", f"--runs={run[0]}"])
  assert status == 1 and "only for weights" in err
  assert launch(export)[0] == 0
  bytes_of_run = sum(path.stat().st_size for path in (run[0] / "checkpoints").rglob("*") if path.is_file())
  assert (tmp_path / "run.safetensors").stat().st_size < bytes_of_run


def test_a_run_with_the_published_normalisation_trains_evaluates_and_predicts(tiny, phantom_root, tmp_path):
  flags = [*tiny, "--config.train.epochs=1", "--config.data.normalize=percentiles", "--config.feed=stream"]
  status, _, err = launch([*flags, f"--workdir={tmp_path / 'run'}"])
  assert status == 0, err
  scan = next(phantom_root.glob("kaggle_3m/*/"))
  status, _, err = launch(
    ["--mode=predict", f"--checkpoint={tmp_path / 'run'}", f"--input={scan}", f"--output={tmp_path / 'out'}"]
  )
  assert status == 0 and (tmp_path / "out" / "prediction.json").is_file(), err
