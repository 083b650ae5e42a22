"""From tables to a whole summary and its printed table."""

import re

import numpy as np
import pytest

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import UserError
from bt_jax.evaluation import calibration, class_statistics, records
from bt_jax.evaluation.record_tables import Tables
from bt_jax.evaluation.volumes import volume_columns
from bt_jax.reporting.run_summary import summarize
from bt_jax.reporting.text_tables import OF_TASK
from bt_jax.tasks import TASKS
from tests.helpers.made_up_runs import CLINICAL as EMPTY_CLINICAL
from tests.helpers.slices import make_slices

CLINICAL = {"site": "CS", "has_pre": True, "has_post": False, "neoplasm_histologic_grade": 1, "RNASeqCluster": -1}


def segmented(truth, masks, cases, leaky=False):
  """The summary and its table of these masks, their pixels' probability .9 or .1."""
  slices = make_slices(truth, cases)
  masks = masks[..., None]
  probability = np.where(masks, 0.9, 0.1).astype(np.float32)
  names = {"data": "made up", "split": "random_slices_leaky" if leaky else "patient_fold_00"}
  table = records.slice_records(slices, probability.max((1, 2, 3)), masks, **names, classes=("tumor",))
  table = [row | {calibration.CALIBRATED: row["probability"]} for row in table]
  whole = {} if leaky else volume_columns(slices, masks, spacing_mm={}, classes=("tumor",))
  patients = [row | whole.get((row["patient"], None), {}) | CLINICAL for row in records.patient_records(table)]
  pixels = calibration.pixel_rows(slices, probability, 1.0, **names)
  rival = records.slice_records(slices, np.zeros(len(slices)), np.zeros_like(masks), **names, classes=("tumor",))
  tables = Tables(table, patients, pixels, [{"baseline": "nothing", **row} for row in rival])
  return finish(tables, "segmentation", leaky, {"pixels": 1.0, "slices": 1.0}, names)


def classified(label, probability, cases):
  slices = make_slices(np.repeat(label, 4).reshape(-1, 2, 2), cases)
  names = {"data": "made up", "split": "patient_fold_00"}
  table = class_statistics.class_rows(slices, probability, probability >= 0.5, **names)
  table = [row | {calibration.CALIBRATED: row["probability"]} for row in table]
  patients = [row | CLINICAL for row in class_statistics.patient_class_rows(table)]
  return finish(Tables(table, patients, [], []), "classification", False, {"slices": 1.0}, names)


def finish(tables, task, leaky, temperatures, names):
  about = {**names, "leaky": leaky, "temperatures": temperatures, "threshold": 0.5, "model": "net", "task": task}
  about |= {"threshold_from": "from the configuration", "largest_component": False}
  summary = summarize(tables, TASKS[task], about, groupings=("site", "sequences"))
  return summary, OF_TASK[task](summary)


def numbers_in(group):
  for value in group.values() if isinstance(group, dict) else group:
    if isinstance(value, dict | list):
      yield from numbers_in(value)
    elif isinstance(value, float):
      yield value


TRUTH = np.zeros((9, 16, 16), int)
TRUTH[[1, 2, 4, 7], 4:10, 4:10] = 1
RIGHT = TRUTH == 1
CASES = "AAABBBCCC"
SIX = "AABBBCDEF"  # enough patients for intervals


def test_perfect_masks():
  summary, table = segmented(TRUTH, RIGHT, SIX)
  test = summary["test"]
  assert test["pooled"]["dice"] == 1 and test["pooled"]["dice_ci95"] == [1, 1]
  assert test["surface"]["hd95_mean"] == 0 and test["volume"]["error_mean"] == 0
  assert test["detection"]["sensitivity"] == 1 and test["detection"]["false_positive_rate"] == 0
  assert test["subgroups"]["site"][0]["group"] == "CS" and test["subgroups"]["site"][0]["patients"] == 6
  assert "of 6 patients: expected 20" in test["associations"]["why"]
  assert test["calibration"]["pixels"]["ece"] == pytest.approx(0.1)  # .9 where 1 is right, .1 where 0 is
  assert "1.0000 [1.000, 1.000]" in table and "Empty mask" in table and "pixels" in table


def test_volume_error_and_limits_by_hand():
  masks = RIGHT.copy()
  masks[1, 0, :5] = True  # A: 5 voxels too many
  masks[4, 4, 4:7] = False  # B: 3 too few
  volume = segmented(TRUTH, masks, SIX)[0]["test"]["volume"]
  errors = np.array([5, -3, 0, 0, 0, 0])
  assert volume["error_mean"] == pytest.approx(errors.mean()) and volume["absolute_error_mean"] == pytest.approx(8 / 6)
  assert volume["limits_low"] == pytest.approx(errors.mean() - 1.96 * errors.std(ddof=1))
  assert volume["limits_high"] == pytest.approx(errors.mean() + 1.96 * errors.std(ddof=1))
  assert volume["absolute_error_of_total"] == pytest.approx(8 / RIGHT.sum())


@pytest.mark.parametrize(
  ("truth", "masks", "cases"),
  [
    (TRUTH, np.zeros_like(RIGHT), CASES),  # nothing is predicted
    (np.zeros_like(TRUTH), np.zeros_like(RIGHT), CASES),  # and there is nothing
    (np.zeros_like(TRUTH), RIGHT, CASES),
    (np.ones_like(TRUTH), np.ones_like(RIGHT), CASES),
    (TRUTH, RIGHT, "A" * 9),  # one patient
  ],
)
def test_no_number_is_nan_and_the_table_has_none(truth, masks, cases):
  summary, table = segmented(truth, masks, cases)
  assert np.isfinite(list(numbers_in(summary))).all()
  assert not re.search(r"\b(nan|NaN|None)\b", table), table
  counted = "one patient" if len(set(cases)) == 1 else "3 patients"
  assert f"{counted} only: intervals are given from 5 patients on" in table and "[" not in table
  assert "95 %" not in table  # neither intervals nor limits of agreement
  if not masks.any() and truth.any():
    assert summary["test"]["surface"]["hd95_mean"] == pytest.approx(np.linalg.norm([3, 16, 16]))


@pytest.mark.parametrize("label", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])
def test_constant_probabilities_of_a_classifier(label):
  summary, table = classified(np.array(label), np.full(4, 0.3, np.float32), "AABB")
  assert np.isfinite(list(numbers_in(summary))).all() and not re.search(r"\b(nan|NaN|None)\b", table)
  assert (summary["test"]["roc_auc"] is None) == (len(set(label)) == 1)


def test_a_leaky_split_says_why_whole_volumes_are_not_measured():
  summary, table = segmented(TRUTH, RIGHT, CASES, leaky=True)
  for name in ("volume", "surface", "associations"):
    assert "cuts volumes" in summary["test"][name]["why"]
  assert "one patient in training and test" in table and "volumes and surfaces: - (the random split cuts" in table


def test_table_says_data_split_aggregation_rule_and_counts():
  masks = RIGHT.copy()
  masks[1] = False  # of A half is found
  _summary, table = segmented(TRUTH, masks, CASES)
  for words in ("made up, patient_fold_00", "3 patients, 9 slices, 4 of them", "threshold 0.50", "pixels pooled",
                "volume mean", "volume median", "counts 1", "slices with a tumour only", "never clinical"):  # fmt: skip
    assert words in table, table
  (line,) = [line for line in table.splitlines() if line.startswith("dice ")]
  assert re.sub(r"\[.*?\]", "", line).split()[1:] == ["0.8571", "0.8889", "1.0000", "0.8889", "0.7500"]


def test_table_is_laid_out_as_table_2_with_the_printed_values():
  _, table = classified(np.array([0, 0, 1, 1, 1, 0]), np.array([0.1, 0.6, 0.8, 0.4, 0.9, 0.2], np.float32), "ABABAB")
  for words in (
    "made up, patient_fold_00",
    "6 slices",
    "roc_auc",
    "paper, CNN",
    "371",
    "219",
    "DSC is another name for F1",
  ):
    assert words in table, table
  (line,) = [line for line in table.splitlines() if line.startswith("precision   ")]
  assert line.split()[1:] == ["0.6667", "0.6667", ".90", ".94", ".93", ".96"]


def test_tables_come_back_from_their_files_as_they_were(tmp_path):
  read = lambda: Tables.read(tmp_path, "classification", leaky=True, info=INFO)
  row = {
    **{"data": "made up", "split": "s", "case": "TCGA_CS_4941_19960909", "patient": "1.0", "slice": 3},
    **{"label": 1, "probability": 0.1 + 0.2, "probability_calibrated": 0.5, "prediction": 0},
  }
  baseline = {"baseline": "nothing", **{name: row[name] for name in row if name != "probability_calibrated"}}
  patient = {
    "data": "made up",
    "split": "s",
    "patient": "1.0",
    "slices": 1,
    "tumor_slices": 1,
    "accuracy": 1e-300,
    "hd95": None,
  }
  patient |= {**dict.fromkeys(("tp", "fp", "fn", "tn"), 2**53), **EMPTY_CLINICAL, "has_pre": False}
  tables = Tables([row], [patient], [], [baseline])
  tables.write(tmp_path)
  assert read() == tables
  (tmp_path / "slices.csv").write_text("case,tp\na,1,2\n")
  with pytest.raises(UserError, match="slices.csv is damaged"):
    read()
  (tmp_path / "slices.csv").unlink()
  with pytest.raises(UserError, match="slices.csv is missing or has no rows"):
    read()
