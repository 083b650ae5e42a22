import json
import shutil

import numpy as np
import pytest

from bt_jax import files
from bt_jax.datasets import splits
from bt_jax.errors import UserError
from bt_jax.evaluation import classifier_gate
from tests.helpers.launching import launch, table_of


def row(patient, label, tp=0, fp=0, fn=0, probability=0.5):
  return {
      "patient": patient, "label": label, "tp": tp, "fp": fp, "fn": fn, "tn": 100 - tp - fp - fn, "probability": probability,
  }  # fmt: skip


# Two patients: A with two tumours and a healthy slice that the segmenter marks, B with one tumour and one clean slice.
ROWS = [
  row("A", 1, tp=10, fn=2),
  row("A", 1, fn=5),
  row("A", 0, fp=7),
  row("B", 1, tp=3, fp=1),
  row("B", 0),
]


def test_gate_by_hand():
  passes = np.array([True, False, False, False, True])
  gated = classifier_gate.gate(ROWS, passes)
  assert gated[0] is ROWS[0]
  assert [(r["tp"], r["fp"], r["fn"], r["tn"]) for r in gated] == [
    (10, 0, 2, 88),
    (0, 0, 5, 95),
    (0, 0, 0, 100),
    (0, 0, 3, 97),
    (0, 0, 0, 100),
  ]
  effect = classifier_gate.gate_effect(ROWS, passes)
  assert (effect["healthy_slices"], effect["false_positives"], effect["false_positives_gated"]) == (2, 1, 0)
  assert (effect["tumor_slices"], effect["tumor_slices_missed_by_gate"], effect["of_these_found_by_segmenter"]) == (
    3,
    2,
    1,
  )
  assert effect["patients_missed_by_gate"] == ["B"] and effect["sensitivity"] == pytest.approx(1 / 3)
  assert effect["false_positive_rate"] == 0.5 and effect["false_positive_rate_gated"] == 0


@pytest.mark.parametrize(("sensitivity", "expected"), [(1.0, 0.1), (0.75, 0.3), (0.7, 0.3), (0.5, 0.6), (0.01, 0.9)])
def test_gate_threshold_is_the_highest_that_keeps_the_share(sensitivity, expected):
  probability = np.array([0.9, 0.1, 0.6, 0.3, 0.95, 0.2])
  label = np.array([1, 1, 1, 1, 0, 0])
  threshold = classifier_gate.gate_threshold(probability, label, sensitivity)
  assert threshold == pytest.approx(expected)
  assert np.mean(probability[label == 1] >= threshold) >= sensitivity
  with pytest.raises(UserError, match="no slice with a tumour"):
    classifier_gate.gate_threshold(probability, np.zeros(6, int), 0.9)


def made_up(rng, count, informative):
  """Rows of a segmenter and a classifier; `informative` names which of them knows the truth."""
  label = rng.integers(0, 2, count)
  noise = rng.integers(0, 2, count)
  area = 50 * (label if "mask" in informative else noise)
  sure = label if "classifier" in informative else noise
  segmented = [row("A", int(y), tp=int(a), probability=0.9 if a else 0.1) for y, a in zip(label, area, strict=True)]
  probability = np.clip(0.5 + 0.3 * (2 * sure - 1) + 0.05 * rng.standard_normal(count), 0, 1)
  classified = [{"label": int(y), "probability": float(p)} for y, p in zip(label, probability, strict=True)]
  return segmented, classified


@pytest.mark.parametrize(("informative", "right"), [("mask", {"mask", "both"}), ("classifier", {"classifier", "both"})])
def test_each_way_knows_what_its_source_knows(informative, right):
  rng = np.random.default_rng(0)
  validation, test = made_up(rng, 60, informative), made_up(rng, 200, informative)
  label = classifier_gate.column(test[0], "label")
  ways = classifier_gate.classify_slices(validation, test, 0.5)
  assert tuple(ways) == ("classifier", "mask", "both", "paper_rule")
  accuracy = {name: np.mean((probability >= threshold) == label) for name, (probability, threshold) in ways.items()}
  assert {name for name in ("classifier", "mask", "both") if accuracy[name] > 0.95} == right


def test_an_empty_mask_turns_the_papers_rule_to_no_tumour_and_nothing_of_test_is_fitted():
  rng = np.random.default_rng(1)
  validation, test = made_up(rng, 60, "classifier"), made_up(rng, 50, "classifier")
  ways = classifier_gate.classify_slices(validation, test, 0.5)
  empty = classifier_gate.area(test[0]) == 0
  assert (ways["paper_rule"][0][empty] == 0).all()
  np.testing.assert_array_equal(ways["paper_rule"][0][~empty], ways["classifier"][0][~empty])
  flipped = tuple([{**r, "label": 1 - r["label"]} for r in rows] for rows in test)
  for name, (probability, threshold) in classifier_gate.classify_slices(validation, flipped, 0.5).items():
    np.testing.assert_array_equal(probability, ways[name][0])
    assert threshold == ways[name][1]
  one_class = tuple([r for r in rows if r["label"]] for rows in validation)
  with pytest.raises(UserError, match="slices of one class only"):
    classifier_gate.classify_slices(one_class, test, 0.5)


def test_cascade_of_two_runs_of_one_split(classifier, run, tiny_cls, tmp_path):
  flags = ["--mode=cascade", f"--classifier={classifier[0]}", f"--workdir={tmp_path / 'cascade'}"]
  status, out, err = launch([*flags, f"--segmenter={run[0]}", "--sensitivity=1.0"])
  assert status == 0, err
  assert "Cascade on the test set: phantom (synthetic), patient_fold_00" in out
  summary = json.loads((tmp_path / "cascade/summary.json").read_text())
  own = {
    role: json.loads((folder / "summary.json").read_text())["test"]
    for role, folder in (("s", run[0]), ("c", classifier[0]))
  }
  ways = summary["test"]["classification"]
  for name in ("pooled", "patient", "slice", "detection"):  # the segmenter's own numbers, again
    assert summary["test"]["segmentation"]["alone"][name] == own["s"][name]
  assert {name: own["c"][name] for name in ways["classifier"]} == ways["classifier"]
  assert summary["gate"]["validation"]["tumor_slices_missed_by_gate"] == 0  # sensitivity 1 on validation
  assert table_of(tmp_path / "cascade/slices.csv")[0].keys() >= {
    "gate_passes",
    "both_probability",
    "paper_rule_prediction",
  }
  for wrong, said in (
    ([], "--segmenter=RUN"),
    ([f"--segmenter={classifier[0]}"], "is of classification, expected segmentation"),
    ([f"--segmenter={tmp_path}"], "holds no run"),
    ([f"--segmenter={run[0]}", "--sensitivity=0"], "--sensitivity is 0.0"),
    ([f"--segmenter={run[0]}", "--config=configs/seg.py"], "takes no --config"),
  ):
    status, _, err = launch([*flags, *wrong])
    assert status == 1 and said in err and len(err.splitlines()) == 1, err
  other = tmp_path / "other"
  shutil.copytree(run[0], other)
  split = json.loads((other / "split.json").read_text())
  parts = (tuple(split[subset]) for subset in splits.SUBSETS)
  files.write_json(other / "split.json", splits.Split("patient_fold_07", False, *parts).to_json(split["data"]))
  status, _, err = launch([*flags, f"--segmenter={other}"])
  assert status == 1 and "not of the same split" in err and "patient_fold_07" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
  ("section", "change"), [("loss", {"smxoth": 1.0}), ("eval", {"threshold": 0.9}), ("data", {"size": 64})]
)
def test_a_configuration_that_its_checkpoint_was_not_trained_with(classifier, run, section, change, tmp_path):
  edited = shutil.copytree(classifier[0], tmp_path / "edited")
  config = json.loads((edited / "config.json").read_text())
  files.write_json(edited / "config.json", config | {section: config[section] | change})
  status, _, err = launch(
    ["--mode=cascade", f"--classifier={edited}", f"--segmenter={run[0]}", f"--workdir={tmp_path / 'cascade'}"]
  )
  assert status == 1 and len(err.splitlines()) == 1
  name = f"{section}.{next(iter(change))}"
  assert f"edited/config.json is damaged or of another version (its checkpoint was trained with another {name}" in err
  assert not (tmp_path / "cascade").exists()
