import html
import json
import re
import shutil

import numpy as np
import pytest
from scipy import stats

from bt_jax import files, metrics
from bt_jax.evaluation import aggregation, comparison, outline, records
from bt_jax.evaluation.summary_files import write_summary
from bt_jax.modes import compare
from bt_jax.reporting import console
from tests.helpers.launching import launch, printed, table_of
from tests.helpers.made_up_runs import segmentation
from tests.helpers.slices import make_slices


def test_paired_by_hand_and_by_scipy():
  rng = np.random.default_rng(0)
  before, change = rng.random(12), np.array([0.1, 0.2, -0.05, 0.0, 0.3, 0.12, -0.02, 0.07, 0.01, 0.22, 0.04, -0.11])
  first, second = ([{"dice": value} for value in values] for values in (before, before + change))
  found = comparison.paired(first, second, "dice")
  assert (found["higher"], found["equal"], found["lower"]) == (8, 1, 3)
  assert found["mean"] == pytest.approx(change.mean()) and found["median"] == pytest.approx(np.median(change))
  assert found["mean_ci95"][0] < change.mean() < found["mean_ci95"][1]
  assert found["p"] == pytest.approx(stats.wilcoxon(before + change, before).pvalue)


def test_nothing_to_test_is_said():
  same = [{"dice": 0.5}, {"dice": 0.7}]
  assert comparison.paired(same, same, "dice")["p"] is None
  assert comparison.paired(same, same, "dice")["why"] == "no patient differs"
  assert comparison.paired(same[:1], [{"dice": 1.0}], "dice")["why"] == "one patient only"


def test_patients_without_a_value_are_left_out_and_counted():
  first = [{"hd95": value} for value in (1.0, None, 3.0, 4.0)]
  second = [{"hd95": value} for value in (2.0, 5.0, None, 6.0)]
  found = comparison.paired(first, second, "hd95")
  assert found["patients"] == 2 and found["mean"] == pytest.approx(1.5) and found["higher"] == 2
  none = comparison.paired(first[1:2], second[1:2], "hd95")
  assert none["patients"] == 0 and none["p"] is None and none["why"] == "no patient has a value"


def test_differences_of_pooled_numbers_are_of_the_same_samples():
  """A run against itself with one pixel more per slice: the difference hardly varies, whatever the patients do."""
  rng = np.random.default_rng(0)
  truth = (rng.random((30, 8, 8)) < 0.4).astype(int)
  worse = (truth == 1) & (rng.random((30, 8, 8)) < np.repeat(rng.random(6), 5)[:, None, None])
  better = worse.copy()
  for mask, true in zip(better, truth, strict=True):
    mask.flat[np.flatnonzero(true)[0]] = True
  slices = make_slices(truth, "".join(letter * 5 for letter in "ABCDEF"))
  first, second = (
    aggregation.numbers_of(
      records.slice_records(
        slices, masks.any((1, 2)).astype(np.float32), masks[..., None], data="d", split="s", classes=("tumor",)
      )
    )
    for masks in (worse, better)
  )
  found = comparison.differences(first, second, 6)["pooled"]
  whole = np.arange(6)[None]
  assert found["dice"] == pytest.approx((second(whole)["pooled.dice"] - first(whole)["pooled.dice"]).item())
  low, high = found["dice_ci95"]
  apart = [
    np.quantile(numbers(rng.integers(0, 6, (500, 6)))["pooled.dice"], [0.025, 0.975]) for numbers in (first, second)
  ]
  assert 0 <= low <= found["dice"] <= high and high - low < 0.5 * np.ptp(apart[0])


def write_run(folder, table):
  """The run with other rows of slices, and patients and summary as they then are."""
  typed = [{name: int(value) if name in INTEGERS else value for name, value in row.items()} for row in table]
  files.write_csv(folder / "slices.csv", table)
  counted = {row["patient"]: row for row in records.patient_records(typed)}
  files.write_csv(folder / "patients.csv", [row | counted[row["patient"]] for row in table_of(folder / "patients.csv")])
  summary = json.loads((folder / "summary.json").read_text())
  write_summary(folder, summary | {"test": summary["test"] | {"slices": len(table)}})


INTEGERS = ("slice", "label", *metrics.Counts._fields, *outline.COLUMNS)


def test_a_comparison_has_a_page_of_its_own(tmp_path):
  first, second = (segmentation(tmp_path / name) for name in ("first", "second"))
  (first / "report.html").touch()
  compare.compare([str(first), str(second)], tmp_path / "both")
  found = json.loads((tmp_path / "both/comparison.json").read_text())
  page = html.unescape((tmp_path / "both/report.html").read_text())
  for name, row in found["headline"].items():
    assert row["difference"] == 0 and f"{row['first']:.3f}" in page and row["difference_ci95"] is None, name
  assert 'href="../first/report.html">first</a>' in page and ">second</th>" in page
  assert page.count("no test: no patient differs") == 2 and "3 patients only: intervals are given from 5" in page
  assert str(tmp_path) not in page and 'id="viewer"' not in page and "<img" in page


def test_the_console_of_a_comparison_is_a_verdict_and_a_short_table(tmp_path, capsys):
  first, second = (segmentation(tmp_path / name / "run", dict.fromkeys("ABCDEF", 4)) for name in ("one", "two"))
  compare.compare([str(first), str(second)], tmp_path / "both")
  verdict, lines = printed(out := capsys.readouterr().out)
  found = json.loads((tmp_path / "both/comparison.json").read_text())
  assert out.startswith(f"\n{verdict}\n\n") and verdict.endswith(f"; report: {tmp_path / 'both/report.html'}")
  assert verdict.startswith("two/run (unet) minus one/run (unet) on made up, patient_fold_00, 6 patients, 24 slices: ")
  assert "difference of pooled dice 0.0000 [0.000, 0.000], an interval that includes 0" in verdict
  assert max(map(len, lines)) <= console.WIDTH and "Wilcoxon p - (no patient differs)" in "\n".join(lines)
  table = (tmp_path / "both/comparison.txt").read_text()
  for name, row in found["headline"].items():
    (line,) = (line for line in lines if line.startswith(name.replace("_", " ")))
    assert re.findall(r"\d\.\d{4}", line) == [f"{row[side]:.4f}" for side in ("first", "second", "difference")]
    assert not [number for number in re.findall(r"\d\.\d{4}(?: \[[^]]*\])?", line) if number not in table]


@pytest.mark.parametrize(
  ("interval", "words"),
  [
    (None, "0.1500, without an interval"),
    ([-0.1, 0.2], "0.1500 [-0.100, 0.200], an interval that includes 0"),
    ([0.0, 0.2], "0.1500 [0.000, 0.200], an interval that includes 0"),
    ([0.1, 0.2], "0.1500 [0.100, 0.200], an interval that excludes 0"),
    ([-0.2, -0.1], "0.1500 [-0.200, -0.100], an interval that excludes 0"),
  ],
)
def test_the_verdict_of_a_comparison_says_whether_its_interval_excludes_0(interval, words, tmp_path):
  row = {"first": 0.5, "second": 0.65, "difference": 0.15, "difference_ci95": interval}
  summary = {"data": "made up", "split": "fold", "leaky": False, "headline": {"accuracy": row}, "slices": 9,
             "intervals": {"patients": 1}, "first": {"run": "/a/x", "model": "cnn"}, "second": {"run": "/a/x", "model": "cnn"}}  # fmt: skip
  verdict = console.verdict(summary, tmp_path / "report.html")
  assert verdict.startswith("x (cnn) minus x (cnn) on made up, fold, 1 patient, 9 slices: difference of accuracy ")
  assert f"accuracy {words}; report: " in verdict


def test_two_runs_of_one_split(run, classifier, tmp_path):
  first, second = run[0], tmp_path / "second"
  shutil.copytree(first, second)
  table = table_of(second / "slices.csv")
  at = next(at for at, row in enumerate(table) if row["label"] == "1")
  table[at] |= {
    "tp": int(table[at]["tp"]) + int(table[at]["fn"]),
    "fn": 0,
    "fn_outline": 0,
  }  # that slice's tumour found whole
  write_run(second, table)
  flags = ["--mode=compare", f"--workdir={tmp_path / 'out'}"]
  status, out, err = launch([*flags, f"--runs={first},{second}"])
  assert status == 0 and "Wilcoxon" in out and "one patient only" in out, err
  found = json.loads((tmp_path / "out" / "comparison.json").read_text())
  tp, fp, fn = (sum(int(row[name]) for row in table) for name in ("tp", "fp", "fn"))
  before = json.loads((first / "summary.json").read_text())["test"]["pooled"]["dice"]
  assert found["differences"]["pooled"]["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn) - before)
  page = (tmp_path / "out/report.html").read_text()
  assert f"{found['headline']['pooled_dice']['second']:.3f}" in page and "from 5 patients on" in page
  assert found["data"] == "phantom (synthetic)" and found["split"] == "patient_fold_00"

  def refused(runs, message):
    status, _, err = launch([*flags, f"--runs={runs}"])
    assert status == 1 and message in err and len(err.splitlines()) == 1, err

  refused(f"{first},{classifier[0]}", "are not of the same task")
  summary = json.loads((second / "summary.json").read_text())
  write_summary(second, summary | {"split_hash": "0", "split": "patient_fold_07"})
  refused(f"{first},{second}", "are not of the same split")
  files.write_json(second / "summary.json", summary)
  files.write_csv(second / "slices.csv", table[1:])
  refused(f"{first},{second}", "patients.csv is damaged or of another version (slices of")
  write_run(second, table[::-1])
  refused(f"{first},{second}", "differ in their slices or their order")
  (second / "slices.csv").write_text("case,slice\n")
  refused(f"{first},{second}", "slices.csv is damaged or of another version (it lacks data, split, patient")
