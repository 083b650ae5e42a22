"""All folds: trained, resumed and pooled by launch.py, and what cannot be pooled."""

import dataclasses
import json
import pathlib
import shutil
import signal
import time

import pytest

from bt_jax.datasets import splits
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.datasets.splits import make_split
from bt_jax.datasets.store import SliceId
from bt_jax.errors import UserError
from bt_jax.evaluation.record_tables import Tables
from bt_jax.evaluation.summary_files import write_summary
from bt_jax.modes import pool
from tests.helpers.launching import launch, start, table_of, unbroken

FOLDS = (0, 7)


@pytest.fixture(scope="module")
def flags(tiny):
  return [*tiny, "--mode=crossval", "--config.train.epochs=1", "--config.crossval.folds=0,7"]


@pytest.fixture(scope="module")
def pooled(flags, once):
  """An unbroken cross-validation of two folds, read and never written to: its folder and what it printed."""
  return once("crossval", lambda folder: unbroken([*flags, "--config.eval.baselines=True"], folder)[1])


@pytest.mark.slow
def test_every_patient_once_by_a_network_that_never_saw_it(pooled):
  workdir, out = pooled
  rows = table_of(workdir / "slices.csv")
  tested = [f"{row['case']}/{row['slice']}" for row in rows]
  split_of = {fold: json.loads((workdir / f"fold_{fold:02d}" / "split.json").read_text()) for fold in FOLDS}
  assert tested == [name for fold in FOLDS for name in split_of[fold]["test"]] and len(set(tested)) == len(tested)
  for fold, split in split_of.items():
    seen = {name.split("/")[0] for part in ("train", "validation") for name in split[part]}
    assert not seen & {row["case"] for row in rows if row["split"] == f"patient_fold_{fold:02d}"}
  patients = [row["patient"] for row in table_of(workdir / "patients.csv")]
  assert sorted(patients) == sorted({row["patient"] for row in rows})
  assert "fold 0: finished in" in out and "1 of 2 folds, about" in out and "2 of 2 folds" in out


@pytest.mark.slow
def test_summary_is_that_of_one_run_and_more(pooled):
  workdir, out = pooled
  summary = json.loads((workdir / "summary.json").read_text())
  single = json.loads((workdir / "fold_00" / "summary.json").read_text())
  assert single.keys() - summary.keys() == set() and single["test"].keys() == summary["test"].keys()
  assert [fold["fold"] for fold in summary["folds"]] == list(FOLDS)
  assert summary["split"] == "2 of 22 patient folds" and "2 of 22 patient folds" in out

  def check(group):
    for name, value in group.items():
      if isinstance(value, dict):
        check(value)
      elif name.rpartition("_")[2] in ("mean", "median"):
        assert group[f"{name}_ci95"] is None and value is not None

  check(summary["test"])
  patients = len(table_of(workdir / "patients.csv"))
  assert patients == len(FOLDS) == summary["test"]["patients"]  # 22 synthetic patients in 22 folds
  assert summary["intervals"]["why"] == f"{patients} patients only: intervals are given from 5 patients on"
  # Counted anew from the rows, as a reader would.
  rows = table_of(workdir / "slices.csv")
  tp, fp, fn = (sum(int(row[name]) for row in rows) for name in ("tp", "fp", "fn"))
  assert summary["test"]["pooled"]["dice"] == pytest.approx(2 * tp / max(2 * tp + fp + fn, 1))
  healthy = [int(row["tp"]) + int(row["fp"]) > 0 for row in rows if row["label"] == "0"]
  assert summary["test"]["detection"]["false_positive_rate"] == pytest.approx(sum(healthy) / len(healthy))


@pytest.mark.slow
def test_baselines_are_on_the_same_rows(pooled):
  workdir, _ = pooled
  ours = [(row["case"], row["slice"]) for row in table_of(workdir / "slices.csv")]
  theirs = table_of(workdir / "baselines.csv")
  names = list(dict.fromkeys(row["baseline"] for row in theirs))
  assert names == ["nothing", "otsu", "kmeans", "darwinian_pso", "random_order_pso", "morphological"]
  for name in names:
    assert [(row["case"], row["slice"]) for row in theirs if row["baseline"] == name] == ours
  summary = json.loads((workdir / "summary.json").read_text())
  assert [baseline["name"] for baseline in summary["baselines"]] == names
  healthy = [row["label"] == "0" for row in table_of(workdir / "slices.csv")]
  nothing = summary["baselines"][0]["test"]
  assert nothing["slice"]["dice_empty_is_one"] == pytest.approx(sum(healthy) / len(healthy))
  assert nothing["pooled"]["dice"] == 0 and summary["baselines"][0]["title"] in (workdir / "table.txt").read_text()


@pytest.mark.slow
def test_a_training_may_test_several_folds(tiny, tmp_path):
  flags = [
    *tiny,
    "--mode=crossval",
    "--config.train.epochs=1",
    "--config.crossval.folds=1",
    "--config.crossval.group=2",
  ]
  workdir, out = unbroken(flags, tmp_path / "groups")
  split = json.loads((workdir / "folds_00-01" / "split.json").read_text())
  assert split["name"] == "patient_folds_00-01" and "folds 0-1: finished in" in out
  summary = json.loads((workdir / "summary.json").read_text())
  assert summary["split"] == "2 of 22 patient folds, 2 to a training"
  assert [(fold["fold"], fold["patients"]) for fold in summary["folds"]] == [("0-1", 2)]
  assert "patient folds 0-1 (of 0 to 21)" in (workdir / "folds_00-01" / "report.html").read_text()
  assert launch([*flags, f"--workdir={tmp_path / 'pooled'}", f"--runs={workdir}"])[0] == 0
  alone = [flag for flag in flags if "crossval.group" not in flag]
  _one_line([*alone, f"--workdir={tmp_path / 'alone'}", f"--runs={workdir}"], "there is no run of the folds 1: train")
  _one_line([*alone, f"--workdir={workdir}"], "differs in split.group (2 there, None now)")


@pytest.mark.slow
def test_again_trains_nothing(pooled, flags, tmp_path):
  workdir = shutil.copytree(pooled[0], tmp_path / "all")  # others read that of all
  before = (workdir / "slices.csv").read_text()
  status, out, err = launch([*flags, "--config.eval.baselines=True", f"--workdir={workdir}"])
  assert status == 0 and out.count("finished before") == 2 and "training on" not in out, err
  assert (workdir / "slices.csv").read_text() == before


@pytest.mark.slow
def test_killed_goes_on_and_ends_the_same(pooled, flags, tmp_path):
  whole, _ = pooled
  workdir = tmp_path / "broken"
  flags = [*flags, "--config.eval.baselines=True", f"--workdir={workdir}"]
  process = start(flags)
  while not (workdir / "fold_07" / "metrics.csv").exists():
    assert process.poll() is None, process.communicate()
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.communicate(timeout=60)
  assert not (workdir / "summary.json").exists()
  status, out, err = launch(flags)
  assert status == 0 and out.count("finished before") == 1, err
  for name in ("slices.csv", "patients.csv", "baselines.csv", "reliability.csv"):
    assert (workdir / name).read_text() == (whole / name).read_text()


@pytest.mark.slow
def test_folds_elsewhere_are_pooled_by_the_same_command(pooled, flags, tmp_path):
  whole, _ = pooled
  for fold in FOLDS:  # as two jobs of an array leave them, the picture of volumes aside
    shutil.copytree(whole / f"fold_{fold:02d}", tmp_path / f"job_{fold}")
  flags = [*flags, "--config.eval.baselines=True", f"--workdir={tmp_path / 'out'}"]
  assert launch([*flags, f"--runs={tmp_path}/job_*"])[0] == 0
  ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "out", whole))
  # Trained here, the true masks of the other folds are at hand too; elsewhere only what the folds resampled.
  assert len(theirs["test"]["associations"].pop("truth")) == 3 * 7
  assert ours["test"] | {"associations": None} == theirs["test"] | {"associations": None}
  assert ours["split_hash"] == theirs["split_hash"]

  missing = [*flags, "--config.crossval.folds=0,7,9-10", f"--runs={tmp_path}/job_*"]
  _one_line(missing, "there is no run of the folds 9, 10")
  _one_line([*flags, f"--runs={tmp_path}/job_*,{whole}"], "are both of fold 0")
  _one_line([*flags, "--config.train.learning_rate=0.5", f"--workdir={tmp_path / 'new'}", f"--runs={tmp_path}/job_*"],
            "job_0 is of another configuration, which differs in train.learning_rate (0.005 there, 0.5 now)")  # fmt: skip
  _one_line([*flags, f"--runs={tmp_path}/nothing"], "holds no run")
  told = json.loads((tmp_path / "job_7" / "summary.json").read_text())
  write_summary(tmp_path / "job_7", told | {"threshold_from": "from the configuration"})
  _one_line([*flags, f"--runs={tmp_path}/job_*"], "job_7 was evaluated in another way: threshold_from")
  for name in ("finished.json", "report.html"):  # the latter was the mark of a finished run before there was the former
    (tmp_path / "job_7" / name).unlink()
  _one_line([*flags, f"--runs={tmp_path}/job_*"], "the run of fold 7 in")


def _one_line(flags, message):
  status, _, err = launch(flags)
  assert status == 1 and message in err and "Traceback" not in err, err
  assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize("names", ["22", "3-1", "a", "", "0,,1"])
def test_no_such_folds(names):
  with pytest.raises(UserError, match="crossval.folds is"):
    splits.parse_folds("crossval.folds", names, 22)


def test_folds_by_name():
  parse = lambda names: splits.parse_folds("crossval.folds", names, 22)
  assert parse("all") == tuple(range(22)) and parse("0, 3-5,4") == (0, 3, 4, 5)
  for folds in ((7,), (0, 1, 2, 3, 4), (0, 3, 4, 9)):
    assert parse(splits.format_folds(folds)) == folds
  assert splits.folds_name((7,)) == "patient_fold_07" and splits.folds_name((0, 1, 2)) == "patient_folds_00-02"


def test_all_22_folds_have_each_of_110_patients_once_or_are_refused():
  index = [
    SliceId(fold, "s", number, f"TCGA_XX_{fold}{member}", f"TCGA_XX_{fold}{member}_20000101", f"TCGA_XX_{fold}{member}_20000101/{number}", 1)
    for fold in range(22) for member in range(5) for number in (1, 2)
  ]  # fmt: skip
  split_of = {
    (fold,): make_split(index, kind="fold", fold=fold, seed=0, count=22).to_json("made up") for fold in range(22)
  }

  def check():
    patient = lambda name: name.rpartition("_")[0]
    rows_of = lambda ids: [
      {"case": name.split("/")[0], "patient": patient(name), "slice": int(name.split("/")[1])} for name in ids
    ]
    tables = {fold: Tables(rows_of(split["test"]), [], [], []) for fold, split in split_of.items()}
    pool.check({fold: pathlib.Path(splits.folder_name(fold)) for fold in split_of}, split_of, tables, complete=True)
    return {name.rpartition("_")[0] for split in split_of.values() for name in split["test"]}

  assert len(check()) == 110
  lost = split_of[3,]["test"][:2]
  split_of[3,] |= {"test": split_of[3,]["test"][2:], "train": (*split_of[3,]["train"], *lost)}
  with pytest.raises(UserError, match="TCGA_XX_30_20000101 is tested in none of the 22 folds"):
    check()


@pytest.mark.slow
def test_what_cannot_be_pooled(pooled, tmp_path):
  workdir, _ = pooled
  folders = {(fold,): workdir / f"fold_{fold:02d}" for fold in FOLDS}
  split_of = {(fold,): splits.read(folder) for (fold,), folder in folders.items()}
  tables = {(fold,): Tables.read(folder, "segmentation", leaky=False, info=INFO) for (fold,), folder in folders.items()}
  pool.check(folders, split_of, tables, complete=False)

  def refused(message, *, split=None, rows=None):
    changed = dataclasses.replace(tables[7,], slices=tables[7,].slices if rows is None else rows)
    with pytest.raises(UserError, match=message):
      pool.check(folders, split_of | {(7,): split_of[7,] | (split or {})}, tables | {(7,): changed}, complete=False)

  rows = tables[7,].slices
  refused(r"fold_07/slices.csv has no row of .* \(1 such slices\)", rows=rows[1:])
  refused(r"has more than one row of", rows=[*rows, rows[0]])
  refused(r"has a row of the foreign slice", rows=[*rows, tables[0,].slices[0]])
  refused(
    r"its network saw .*, which it is evaluated on: that leaks",
    split={"train": split_of[7,]["train"] + split_of[7,]["test"][:1]},
  )
  refused(r"is of other data than .* \(1 slices are in one only\)", split={"train": split_of[7,]["train"][1:]})
  refused(r"is of the split random_slices_leaky, expected patient_fold_07", split={"name": "random_slices_leaky"})
  first = split_of[0,]["test"]
  twice = {"test": split_of[7,]["test"] + first, "train": [name for name in split_of[7,]["train"] if name not in first]}
  refused(r"is in the folds 0 and 7: expected once", split=twice, rows=rows + tables[0,].slices)
  for field, value in (("name", "other"), ("patient_fields", ["site"])):
    other = shutil.copytree(folders[7,], tmp_path / field)
    content = json.loads((other / "summary.json").read_text())
    write_summary(other, content | {"info": content["info"] | {field: value}})
    with pytest.raises(UserError, match=f"summary.json is damaged .*info.{field} is not that of {folders[0,]}"):
      pool.pool(folders | {(7,): other}, groupings=("site", "size"))
  empty = tmp_path / "empty"
  shutil.copytree(folders[0,], empty)
  (empty / "slices.csv").write_text((empty / "slices.csv").read_text().splitlines()[0] + "\n")
  with pytest.raises(UserError, match="slices.csv is missing or has no rows"):
    Tables.read(empty, "segmentation", leaky=False, info=INFO)
