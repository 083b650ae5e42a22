"""What a run prints where no terminal is: a line an epoch, a verdict, a short table; and exit statuses."""

import ast
import json

import pytest

from bt_jax.datasets import samples
from bt_jax.reporting import console
from tests.helpers.launching import ROOT, launch, printed


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["run", "classifier"])
def test_a_run_prints_its_verdict_and_a_table_that_fits_a_terminal(fixture, request):
  workdir, out = request.getfixturevalue(fixture)
  summary = json.loads((workdir / "summary.json").read_text())
  verdict, table = printed(out)
  test = summary["test"]
  score = test["accuracy"] if fixture == "classifier" else test["pooled"]["dice"]
  assert f"{summary['model']} on phantom (synthetic), patient_fold_00, {test['patients']} patient" in verdict
  assert f" {score:.4f}" in verdict and verdict.endswith(f"; report: {workdir / 'report.html'}")
  assert table and max(map(len, table)) <= console.WIDTH
  names = ("accuracy", "ROC-AUC") if fixture == "classifier" else ("dice", "iou", "precision", "recall")
  assert set(names) <= {line.split()[0] for line in table if line.strip()}


def test_an_epoch_is_one_line_where_no_terminal_is(run):
  workdir, out = run
  epochs = [line for line in out.splitlines() if line.startswith("epoch ")]
  rows = (workdir / "metrics.csv").read_text().splitlines()[1:]
  assert [line.split(":")[0] for line in epochs] == [f"epoch {number} of 4" for number in range(1, len(rows) + 1)]
  assert "(the best so far)" in epochs[0] and "it/s" not in out and "\r" not in out


def test_several_classes_have_a_row_each_and_long_names_are_cut():
  cell = {"dice": 0.5, "dice_mean": 0.25, "dice_median": 0.125, "sensitivity": 1.0, "false_positive_rate": 0.0}
  numbers = {"pooled": cell, "patient": cell, "detection": cell}
  long = "a class with a name that no column of a terminal can hold whole"
  test = {**numbers, "classes": {"core": numbers, long: numbers}, "patients": 5, "slices": 9, "tumor_slices": 4}
  summary = {
    "task": "segmentation", "model": "unet", "data": "made up", "split": "fold", "leaky": False, "test": test,
    "threshold": 0.5, "threshold_from": "chosen", "largest_component": False, "intervals": {"why": None},
  }  # fmt: skip
  lines = console.short_table(summary).splitlines()
  assert max(map(len, lines)) <= console.WIDTH
  rows = [line for line in lines if line.split()[-3:] == ["0.5000", "0.2500", "0.1250"]]
  assert [row[:25].strip()[:8] for row in rows] == ["dice of ", "dice of ", "mean ove"]
  assert rows[1][:25].rstrip().endswith("...")


def test_help_is_no_failure():
  status, out, err = launch(["--help"])
  assert status == 0 and "--checkpoint" in out and not err


@pytest.mark.slow
def test_a_study_that_fails_among_others_has_a_status_of_its_own(run, tmp_path):
  samples.write(tmp_path / "in")
  (tmp_path / "in/broken").mkdir()
  (tmp_path / "in/broken/slice_1.tif").write_bytes(b"II*\0 not an image")
  flags = ["--mode=predict", f"--checkpoint={run[0]}", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
  status, _, err = launch(flags)
  assert status == 2 and err.splitlines()[-1].startswith("error: 1 of "), err
  assert launch([*flags[:-1], f"--output={tmp_path / 'in/broken/slice_1.tif'}"])[0] == 1


def test_no_progress_bar_fills_a_log():
  calls = [
    (path.name, {keyword.arg for keyword in node.keywords})
    for path in (ROOT / "bt_jax").rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "tqdm"
  ]
  assert len(calls) > 5 and not [name for name, keywords in calls if "disable" not in keywords]
