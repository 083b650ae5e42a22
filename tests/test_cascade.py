import json
import re
import shutil

import numpy as np
import pytest

from bt_jax import files
from bt_jax.datasets import splits
from bt_jax.errors import UserError
from bt_jax.evaluation import aggregation, bootstrap, classifier_gate
from bt_jax.evaluation.class_statistics import summarize_classes
from bt_jax.reporting import console, text_tables
from bt_jax.reporting.text_tables import cell
from tests.helpers.launching import launch, printed, table_of


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


def of_patients(healthy_marked, tumor):
  """A healthy slice of each patient, marked or not, and a slice with a tumour of each of `tumor` that is found."""
  healthy = [row(patient, 0, fp=4 * marked) for patient, marked in healthy_marked.items()]
  return healthy + [row(patient, 1, tp=5, fn=1) for patient in tumor]


def test_shares_of_the_gate_have_intervals_over_patients():
  """Of five patients one has all of its tumour slices stopped: with 1/5 of the draws, P(3 or more of 5) is 5.8 %."""
  rows = of_patients(dict.fromkeys("ABCDE", 1) | {"C": 0}, "ABCDE" * 20)
  passes = np.array([patient != "B" for patient in classifier_gate.column(rows, "patient")])
  effect = classifier_gate.gate_effect(rows, passes, intervals=True)
  assert effect["sensitivity"] == 0.8 and effect["sensitivity_ci95"] == [pytest.approx(2 / 5), 1]
  # A segmenter's own share of healthy slices with a predicted pixel, without the gate and with it, is the same one.
  for name, of in (("", rows), ("_gated", classifier_gate.gate(rows, passes))):
    detection = aggregation.summarize(of, intervals=True)["detection"]
    for ending in ("", "_ci95"):
      assert effect[f"false_positive_rate{name}{ending}"] == detection[f"false_positive_rate{ending}"] is not None
  assert not [name for name in classifier_gate.gate_effect(rows, passes) if name.endswith("_ci95")]


def test_shares_of_none_and_of_all_have_exact_intervals_and_few_patients_none():
  rows = of_patients(dict.fromkeys("ABCDEFGHIJ", 1), "ABCDEF")
  passes = classifier_gate.column(rows, "label") == 1  # ten healthy slices stopped, and six with a tumour let through
  effect = classifier_gate.gate_effect(rows, passes, intervals=True)
  assert effect["sensitivity_ci95"] == pytest.approx([0.025 ** (1 / 6), 1])
  assert effect["false_positive_rate_gated_ci95"] == pytest.approx([0, 1 - 0.025 ** (1 / 10)])
  assert effect["false_positive_rate_ci95"] == pytest.approx([0.025 ** (1 / 10), 1])
  for patients in ("ABCD", "ABCGHIJ"):  # four patients; seven, of whom three have a tumour
    few = [index for index, record in enumerate(rows) if record["patient"] in patients]
    effect = classifier_gate.gate_effect([rows[index] for index in few], passes[few], intervals=True)
    assert effect["sensitivity"] == 1 and effect["sensitivity_ci95"] is None
  assert effect["false_positive_rate_gated_ci95"] == pytest.approx([0, 1 - 0.025 ** (1 / 7)])


def summary_of(patients):
  """The summary of a made-up cascade of so many patients, the gate of which stops the first patient's slices."""
  names = [f"patient with a long name {number}" for number in range(patients)]
  rows = of_patients({name: number % 2 for number, name in enumerate(names)}, names)
  passes = np.array([record["patient"] != names[0] for record in rows])
  classified = [record | {"prediction": int(through)} for record, through in zip(rows, passes, strict=True)]
  gated = classifier_gate.gate(rows, passes)
  chosen = {"sensitivity_asked": 0.98, "threshold": 0.25, "threshold_from": "chosen on the validation set"}
  return {
    "data": "made up", "split": "patient_fold_00", "leaky": False, "gate": chosen, "intervals": bootstrap.about(patients),
    "classifier": {"model": "cnn"}, "segmenter": {"model": "unet"},
    "test": {
      "gate": classifier_gate.gate_effect(rows, passes, intervals=True),
      "segmentation": {"alone": aggregation.summarize(rows, intervals=True), "gated": aggregation.summarize(gated, intervals=True)},
      "classification": {way: summarize_classes(classified, intervals=True) for way in classifier_gate.WAYS},
    },
  }  # fmt: skip


def check_console(summary, out, table, report):
  """The console has the verdict first, with the numbers of the summary, and nothing that the whole table lacks."""
  verdict, lines = printed(out)
  gate, masks = summary["test"]["gate"], summary["test"]["segmentation"]
  models = [summary[role]["model"] for role in ("segmenter", "classifier")]
  assert verdict.startswith("{} gated by {} on ".format(*models)) and verdict.endswith(f"; report: {report}")
  assert f"{text_tables.patients(masks['alone'])}, " in verdict
  alone, gated = (cell(masks[side]["pooled"], "dice") for side in ("alone", "gated"))
  assert f"Dice over all pixels {alone} without gate, {gated} with gate" in verdict
  false_alarms = [cell(gate, name) for name in ("false_positive_rate", "false_positive_rate_gated")]
  assert "false alarms {} without gate, {} with gate".format(*false_alarms) in verdict
  assert f"tumour slices let through {cell(gate, 'sensitivity')}; " in verdict
  others = [line for line in out.splitlines() if line != verdict and str(report.parent) not in line]
  assert set(lines) <= set(others) and max(map(len, others)) <= console.WIDTH
  numbers = re.findall(r"\d\.\d{4}(?: \[[^]]*\])?", "\n".join([verdict, *lines]))
  assert len(numbers) > 18 and not [number for number in numbers if number not in table]


@pytest.mark.parametrize("patients", [3, 6, 300])
def test_the_console_of_a_cascade_is_a_verdict_and_a_short_table(patients, tmp_path, capsys):
  summary = summary_of(patients)
  console.show(summary, [tmp_path / "table.txt", tmp_path / "report.html"])
  out = capsys.readouterr().out
  check_console(summary, out, text_tables.cascade_table(summary), tmp_path / "report.html")
  assert ("[" in printed(out)[0]) == (patients >= 5) and out.startswith("\nunet gated by cnn on made up, ")


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
  summary = json.loads((tmp_path / "cascade/summary.json").read_text())
  table = (tmp_path / "cascade/table.txt").read_text()
  assert "Cascade on the test set: phantom (synthetic), patient_fold_00" in table
  check_console(summary, out, table, tmp_path / "cascade/report.html")
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
