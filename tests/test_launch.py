"""launch.py as a user runs it: in a process of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from bt_jax.datasets import splits
from tests.helpers.launching import ROOT, launch, start, table_of
from tests.helpers.made_up_runs import segmentation

OUTPUTS = ("config.json", "split.json", "metrics.csv", "slices.csv", "patients.csv", "summary.json", "table.txt")


def last_state(workdir):
  """The step and the hash of the newest checkpoint to resume from."""
  folder = workdir / "checkpoints" / "latest"
  step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
  return step, json.loads((folder / str(step) / "record" / "metadata").read_text())["arrays_sha256"]


def test_writes_what_it_says(run):
  workdir, out = run
  assert [int(row["epoch"]) for row in table_of(workdir / "metrics.csv")] == [1, 2, 3, 4]
  assert all(
    (workdir / name).is_file() and (name in out or name in ("config.json", "split.json", "metrics.csv"))
    for name in OUTPUTS
  )
  for name in ("curves", "overlays_tumor", "overlays_no_tumor"):
    with Image.open(workdir / "figures" / f"{name}.png") as picture:
      assert picture.format == "PNG" and min(picture.size) > 300
  assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
  assert not list(workdir.rglob("*incomplete*"))


def test_every_output_says_synthetic_and_names_the_split(run):
  workdir, out = run
  for text in (out, *((workdir / name).read_text() for name in OUTPUTS if name != "config.json")):
    assert "phantom (synthetic)" in text and "patient_fold_00" in text
  assert b"phantom (synthetic), patient_fold_00" in next((workdir / "tensorboard").iterdir()).read_bytes()
  for name in ("slices.csv", "patients.csv", "metrics.csv"):
    assert {(row["data"], row["split"]) for row in table_of(workdir / name)} == {
      ("phantom (synthetic)", "patient_fold_00")
    }


def test_rows_are_the_splits_slices_and_the_summary_follows_from_them(run):
  workdir, _ = run
  split = json.loads((workdir / "split.json").read_text())
  rows = table_of(workdir / "slices.csv")
  assert [f"{row['case']}/{row['slice']}" for row in rows] == split["test"]
  assert {sum(int(row[name]) for name in ("tp", "fp", "fn", "tn")) for row in rows} == {256 * 256}
  summary = json.loads((workdir / "summary.json").read_text())
  assert (
    summary["data"] == "phantom (synthetic)"
    and summary["split"] == "patient_fold_00"
    and summary["split_hash"] == split["hash"]
  )
  tp, fp, fn = (sum(int(row[name]) for row in rows) for name in ("tp", "fp", "fn"))
  assert summary["test"]["pooled"]["dice"] == pytest.approx(2 * tp / max(2 * tp + fp + fn, 1))
  patients = table_of(workdir / "patients.csv")
  assert summary["test"]["patients"] == len(patients) == len({row["patient"] for row in rows})
  assert summary["test"]["patient"]["dice_mean"] == pytest.approx(
    sum(float(row["dice"]) for row in patients) / len(patients)
  )
  assert summary["test"]["slices"] == len(rows)
  for rule in ("dice_empty_is_one", "dice_nonempty_truth"):
    assert 0 <= summary["test"]["slice"][rule] <= 1
  assert summary["threshold_from"] == "chosen on the validation set"


@pytest.fixture
def workdir(run, tmp_path):
  """A finished run that may be written to."""
  return shutil.copytree(run[0], tmp_path / "copy")


def test_finished_run_trains_nothing_and_says_so(workdir, tiny):
  before = last_state(workdir)
  status, out, err = launch([*tiny, f"--workdir={workdir}"])
  assert status == 0 and "trained already (4 epochs): nothing to train" in out, err
  assert last_state(workdir) == before


@pytest.mark.slow
def test_stopped_run_goes_on_to_the_same_bits(run, tiny, tmp_path):
  """Stopped three times, each after another epoch."""
  whole, _ = run
  workdir = tmp_path / "broken"
  flags = [*tiny, f"--workdir={workdir}"]
  for epochs, how in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT), 1):
    process = start(flags)
    while not (workdir / "metrics.csv").exists() or len(table_of(workdir / "metrics.csv")) < epochs:
      assert process.poll() is None, process.communicate()
      time.sleep(0.002)
    process.send_signal(how)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == (-how if how == signal.SIGKILL else 128 + how)
    if how != signal.SIGKILL:
      assert "saved; the same command resumes from there" in out
    if epochs > 1:
      assert "resuming from step" in out
    assert not (workdir / "summary.json").exists()
  status, out, err = launch(flags)
  assert status == 0 and "resuming from step" in out, err
  assert last_state(workdir) == last_state(whole)
  assert (workdir / "slices.csv").read_text() == (whole / "slices.csv").read_text()
  columns = ("epoch", "step", "learning_rate", "train_loss", "validation_loss", "validation_score")
  assert [[row[name] for name in columns] for row in table_of(workdir / "metrics.csv")] == [
    [row[name] for name in columns] for row in table_of(whole / "metrics.csv")
  ]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_processes_that_read_a_stream_end_with_the_run_and_not_before(tiny, tmp_path, how):
  """A cluster's SIGTERM goes to all of them; a SIGKILL to the one that trains."""
  flags = [*tiny, f"--workdir={tmp_path / 'run'}", "--config.feed=stream", "--config.data.workers=2"]
  process = start(flags, start_new_session=True)
  while not (tmp_path / "run" / "metrics.csv").exists():
    assert process.poll() is None, process.communicate()
    time.sleep(0.002)
  (os.kill if how == signal.SIGKILL else os.killpg)(process.pid, how)
  # Ends when all that hold its pipes have ended, so also those that read.
  out, err = process.communicate(timeout=60)
  assert "Traceback" not in err and (how == signal.SIGKILL or "saved; the same command resumes" in out), err
  deadline = time.monotonic() + 20
  with pytest.raises(ProcessLookupError):  # of the group nobody is left, Python's own resource tracker at last
    while time.monotonic() < deadline:
      os.killpg(process.pid, 0)
      time.sleep(0.1)


@pytest.mark.slow
def test_corrupt_last_checkpoint_falls_back_and_ends_the_same(run, workdir, tiny):
  whole, _ = run
  step, _ = last_state(workdir)
  for path in (workdir / "checkpoints" / "latest" / str(step) / "arrays").rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:20])
  status, out, err = launch([*tiny, f"--workdir={workdir}"])
  assert status == 0, err
  assert f"{step} is corrupt" in out and "resuming from step" in out
  assert last_state(workdir) == last_state(whole)


def test_another_configurations_run_is_refused_with_the_fields(workdir, tiny):
  status, _, err = launch([*tiny, f"--workdir={workdir}", "--config.train.learning_rate=0.5", "--config.split.fold=3"])
  assert status == 1
  assert "split.fold (0 there, 3 now), train.learning_rate (0.005 there, 0.5 now)" in err and "Traceback" not in err
  status, _, err = launch([*tiny, f"--workdir={workdir}", "--config.eval.threshold=0.25"])
  assert status == 1 and "eval.threshold (None there, 0.25 now): evaluate it again (--mode=evaluate)" in err


def test_evaluate_again_with_other_evaluation_fields(workdir, tiny):
  before = last_state(workdir)
  flags = [*tiny, f"--workdir={workdir}", "--mode=evaluate"]
  status, out, err = launch([*flags, "--config.eval.threshold=0.25", "--config.eval.largest_component=True"])
  assert status == 0, err
  assert "threshold 0.25 (from the configuration); largest 3-D component only: True" in out
  assert json.loads((workdir / "summary.json").read_text())["threshold"] == 0.25
  assert last_state(workdir) == before


@pytest.mark.slow
def test_no_image_of_a_slice_where_none_may_be_shown(run, workdir, tiny, tmp_path):
  flags = [*tiny, f"--workdir={workdir}", "--mode=evaluate"]
  assert list(workdir.glob("volumes/*/flair.png")) and "data:image/png" in (workdir / "report.html").read_text()
  assert launch([*flags, "--config.report.show_slices=False"])[0] == 0
  assert not (workdir / "volumes").exists() and not list(workdir.glob("figures/overlays*"))
  assert "data:image/png" not in (workdir / "report.html").read_text()
  shutil.copytree(run[0], tmp_path / "again")
  status, out, err = launch(["--mode=report", f"--workdir={tmp_path / 'again'}", "--noshow_slices"])
  assert status == 0 and f"{tmp_path}/again/report.html" in out, err
  assert "data:image/png" not in (tmp_path / "again" / "report.html").read_text()


@pytest.mark.slow
def test_a_best_checkpoint_that_is_damaged_or_gone_is_refused_and_no_table_changes(workdir, tiny):
  flags = [*tiny, f"--workdir={workdir}"]
  tables = {path.name: path.read_bytes() for path in workdir.glob("*.*")}
  best = workdir / "checkpoints" / "best"
  newest = max(best.iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else -1)
  record = newest / "record" / "metadata"
  record.write_text(record.read_text()[:-20])
  for prepare, said in (
    (lambda: None, f"checkpoint {newest} is corrupt"),
    (lambda: shutil.rmtree(newest), "put it back from a copy"),
    (
      lambda: shutil.rmtree(best),
      f"{best} holds no checkpoint, although {workdir} was trained: put it back from a copy",
    ),
  ):
    prepare()
    status, _, err = launch(flags)
    assert status == 1 and said in err and len([line for line in err.splitlines() if "error:" in line]) == 1, err
    assert "Traceback" not in err
    assert tables == {path.name: path.read_bytes() for path in workdir.glob("*.*")}


@pytest.mark.slow
def test_a_folder_that_is_removed_while_it_is_trained_in_is_an_error_and_does_not_come_back(tiny, tmp_path):
  workdir = tmp_path / "run"
  process = start([*tiny, f"--workdir={workdir}", "--config.train.epochs=500"])
  latest = workdir / "checkpoints" / "latest"
  while process.poll() is None and not (latest.is_dir() and any(path.name.isdigit() for path in latest.iterdir())):
    time.sleep(0.1)
  shutil.move(workdir, tmp_path / "moved")
  _, err = process.communicate(timeout=120)
  assert process.returncode == 1 and "was removed" in err and "Traceback" not in err, err
  assert not (workdir / "checkpoints").exists()


def test_evaluate_needs_a_run(tiny, tmp_path):
  status, _, err = launch([*tiny, f"--workdir={tmp_path / 'none'}", "--mode=evaluate"])
  assert status == 1 and "holds no run" in err and not (tmp_path / "none").exists()


@pytest.mark.slow
def test_loss_that_is_not_finite_stops_with_the_step(tiny, tmp_path):
  workdir = tmp_path / "run"
  flags = [*tiny, f"--workdir={workdir}", "--config.train.optimizer=sgd"]
  status, _, err = launch([*flags, "--config.train.learning_rate=1e15", "--config.train.epochs=6"])
  assert status == 1
  assert "not finite at step" in err and "Traceback" not in err
  assert not (workdir / "summary.json").exists()


@pytest.mark.slow
def test_another_fold_compiles_no_step_anew(run, tiny, tmp_path):
  """Of another size, with other epochs: the program is the same, and comes from the folder of the cache."""
  flags = [*tiny, f"--workdir={tmp_path / 'run'}", "--config.split.fold=5", "--config.train.epochs=1"]
  # JAX reports what it finds there by warnings.
  process = start([*flags, "--verbosity=-1"], variables={"JAX_LOG_COMPILES": "1", "JAX_EXPLAIN_CACHE_MISSES": "1"})
  _, err = process.communicate(timeout=300)
  assert process.returncode == 0, err
  looked_up = re.findall(r"compilation cache (\w+) for 'jit_([\w]*train_step)'", err, re.IGNORECASE)
  assert {how for how, _ in looked_up} == {"hit"}, looked_up


@pytest.mark.slow
def test_early_stopping_stops_and_stays_stopped(tiny, tmp_path):
  workdir = tmp_path / "run"
  # A learning rate of nothing: no score is better than the first.
  flags = [*tiny, f"--workdir={workdir}", "--config.train.patience=2", "--config.train.learning_rate=0"]
  status, _, err = launch(flags)
  assert status == 0, err
  assert [row["epoch"] for row in table_of(workdir / "metrics.csv")] == ["1", "2", "3"]
  assert json.loads((workdir / "summary.json").read_text())["epochs"] == {"trained": 3, "planned": 4}
  (workdir / "metrics.csv").unlink()
  assert "trained already (3 epochs)" in launch(flags)[1]
  assert len(table_of(workdir / "metrics.csv")) == 3


@pytest.mark.slow
def test_random_split_is_called_leaky_in_every_output(tiny, tmp_path):
  workdir = tmp_path / "run"
  flags = [
    *tiny,
    f"--workdir={workdir}",
    "--config.split.kind=random",
    "--config.train.epochs=1",
    "--config.train.ema_decay=0.9",
  ]
  status, out, err = launch(flags)
  assert status == 0, err
  for text in (out, *((workdir / name).read_text() for name in OUTPUTS if name != "config.json")):
    assert splits.RANDOM_NAME in text
  assert "slices of one patient in training and test" in out


def test_build_mode_and_help(tiny, data_dir):
  status, out, err = launch([*tiny, "--mode=build"])
  assert status == 0 and f"built in {data_dir}/lgg_mri/phantom/1.0.0" in out, err
  status, out, err = launch(["--help"])
  for words in (
    "--config",
    "--workdir",
    "--mode",
    "build|train|evaluate|crossval|convert|cascade|compare|report",
    "configs/seg.py:phantom",
    "configs/common.py",
  ):
    assert words in out + err


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    ([], "no configuration: pass e.g. --config=configs/seg.py:phantom"),
    (["--config=configs/seq.py"], "configs/seq.py"),
    (["--config=configs/seg.py:tiny"], "no preset 'tiny': there are small, own, phantom"),
    (
      ["--config=configs/seg.py:phantom", "--config.train.epoch=3"],
      "no field 'train.epoch' in the configuration: did you mean train.epochs?",
    ),
    (
      ["--config=configs/seg.py:phantom", "--config.trian.epochs=3"],
      "no field 'trian.epochs' in the configuration: did you mean train.epochs?",
    ),
    (["--config", "configs/seg.py:phantom", "--config.train.epoch=3"], "no field 'train.epoch' in the configuration"),
    (
      ["--config=configs/seg.py:phantom", "--config.qq=3"],
      "no field 'qq' in the configuration: all of them are in configs/common.py",
    ),
    (["--config=configs/seg.py:phantom", "--config.train.epochs=many"], "epochs"),
    (["--config=configs/seg.py:phantom", "--mode=fly"], "mode"),
    (["--config=configs/seg.py:phantom", "--wrokdir=x"], "wrokdir"),
    (["--config=configs/seg.py:phantom", "train"], "'train' is not a flag"),
    (
      ["--config=configs/seg.py:phantom", "--mode=convert", "--hosts=2"],
      "--mode=convert takes no --hosts: it is for --mode=train",
    ),
    (
      ["--config=configs/seg.py:phantom", "--runs=a,b"],
      "--mode=train takes no --runs: it is for --mode=crossval, --mode=compare",
    ),
    (["--config=configs/seg.py:phantom", "--config.report.subgroups=hospital"], "report.subgroups has 'hospital'"),
    (["--config=configs/seg.py:phantom", "--mode=crossval", "--config.crossval.folds=22"], "crossval.folds is '22'"),
    (["--config=configs/seg.py:phantom", "--mode=crossval", "--config.split.kind=random"], "goes over patient folds"),
    (["--config=configs/seg.py:phantom", "--config.train.epochs=None"], "epochs"),
    (
      ["--config=configs/seg.py:phantom", "--workdir=gs://bucket/run"],
      "gs://bucket/run is an address ... (--workdir)",
    ),
    (
      ["--config=configs/seg.py:phantom", "--config.data.dir=s3://b/d"],
      "s3://b/d is an address ... (--config.data.dir)",
    ),
    (["--mode=predict", "--checkpoint=a,hdfs://b", "--output=c"], "hdfs://b is an address ... (--checkpoint)"),
    (["--mode=export", "--checkpoint=a", "--output=gs://b/c.bin"], "gs://b/c.bin is an address ... (--output)"),
    (["--config=gs://b/seg.py"], "gs://b/seg.py is an address ... (--config)"),
    (["--mode=crossval"], "no configuration"),
    (["--mode=report"], "needs the folder of a finished run"),
    (["--mode=report", "--workdir=/nowhere/at/all"], "holds no finished run"),
    (["--mode=compare", "--runs=/nowhere"], "takes two runs, not 1"),
    (["compare", "--runs=/nowhere"], "takes two runs, not 1"),  # a first word is the mode
    (["--mode=compare", "--runs=/nowhere,/neither"], "/nowhere holds no finished run"),
    (["--config=configs/seg.py:phantom", "--hosts=2", "--host=0"], "coordinator must be given too ... (--coordinator)"),
  ],
)
def test_wrong_flags_are_refused_in_one_line(flags, said):
  status, out, err = launch(flags)
  lines = [line for line in err.splitlines() if line]
  assert status == 1 and len(lines) == 1 and lines[0].startswith("error: "), (out, err)
  assert all(words in lines[0] for words in said.split(" ... ")), err


@pytest.mark.slow
def test_a_full_disk_and_a_reader_that_goes_are_two_things(tmp_path):
  folder = segmentation(tmp_path / "run")
  (folder / ".report.html.incomplete").symlink_to("/dev/full")
  status, _, err = launch(["--mode=report", f"--workdir={folder}"])
  assert status == 1 and len(err.splitlines()) == 1 and "No space left on device): free some space" in err
  assert not (folder / "report.html").exists() and not list(folder.glob(".*incomplete"))
  for flags in (["--mode=report", f"--workdir={folder}"], ["--help"]):
    process = start(flags)
    process.stdout.close()  # as `| true` does
    assert process.stderr.read() == "" and process.wait() == 128 + signal.SIGPIPE
  assert (folder / "report.html").is_file()


def test_no_data_names_layout_command_and_phantom(tmp_path):
  flags = ["--config=configs/seg.py:small", "--config.model.pretrained=", f"--config.data.dir={tmp_path / 'data'}",
           f"--workdir={tmp_path / 'run'}"]  # fmt: skip
  for more in ([], [f"--config.data.root={tmp_path / 'missing'}"]):
    status, _, err = launch([*flags, *more])
    assert status == 1 and len(err.splitlines()) == 1
    for words in (
      "kaggle_3m/<case>",
      "kaggle datasets download mateuszbuda/lgg-mri-segmentation",
      "(--config.data.root=DIR, --config=configs/seg.py:phantom)",
    ):
      assert words in err


@pytest.mark.parametrize(
  ("flag", "error"),
  [
    ("--config=seg.py:nix", "configs/seg.py has no preset 'nix': there are small, own, phantom, paper, or none at all"),
    (
      "-config=configs/seg.py:nix",
      "configs/seg.py has no preset 'nix': there are small, own, phantom, paper, or none at all",
    ),
    ("--config=mine/seg.py:small", "there is no configuration mine/seg.py: ours are configs/seg.py and configs/cls.py"),
  ],
)
def test_a_configuration_is_found_from_any_folder(flag, error, tmp_path):
  """By the function that the console script is."""
  variables = {**os.environ, "PYTHONPATH": str(ROOT)}
  command = [sys.executable, "-c", "from bt_jax.cli import main; main()", flag]
  process = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
  assert process.stderr == f"error: {error}\n"
