import json

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as peer

from bt_jax.evaluation import class_statistics
from bt_jax.paper import published_values
from tests.helpers.class_rows import PROBABILITY, rows_of
from tests.helpers.launching import table_of
from tests.helpers.slices import make_slices


def test_rows_and_patients_by_hand():
  rows = rows_of()
  assert [(row["label"], row["prediction"]) for row in rows] == [(0, 0), (0, 1), (1, 1), (1, 0), (1, 1), (0, 0)]
  assert [row["probability"] for row in rows] == pytest.approx(PROBABILITY.tolist())
  first, second = class_statistics.patient_class_rows(rows)
  assert (first["patient"], first["tp"], first["fp"], first["fn"], first["tn"]) == ("TCGA_XX_A", 2, 0, 0, 1)
  assert (second["tp"], second["fp"], second["fn"], second["tn"], second["accuracy"]) == (
    0,
    1,
    1,
    1,
    pytest.approx(1 / 3),
  )


def test_summary_by_hand():
  summary = class_statistics.summarize_classes(rows_of())
  assert summary["confusion"] == {"tn": 2, "fp": 1, "fn": 1, "tp": 2}
  assert summary["accuracy"] == pytest.approx(4 / 6)
  assert summary["per_class"]["tumor"]["precision"] == summary["per_class"]["tumor"]["recall"] == pytest.approx(2 / 3)
  assert summary["per_class"]["no_tumor"]["iou"] == pytest.approx(2 / 4)
  assert (summary["slices"], summary["tumor_slices"], summary["patients"]) == (6, 3, 2)
  # Of the nine pairs of a tumour and none, .4 < .6 alone is the wrong way round.
  assert summary["roc_auc"] == pytest.approx(8 / 9)
  # Bins of a tenth: each slice alone, so the mean distance from its label.
  assert summary["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.6 + 0.1 + 0.2) / 6)


def test_summary_agrees_with_scikit_learn():
  rng = np.random.default_rng(0)
  label = rng.integers(0, 2, 300)
  probability = np.clip(0.3 * label + 0.7 * rng.random(300), 0, 1).astype(np.float32)
  slices = make_slices(np.repeat(label, 4).reshape(-1, 2, 2), "A" * 300)
  predictions = probability >= 0.55
  rows = class_statistics.class_rows(slices, probability, predictions, data="d", split="s")
  summary = class_statistics.summarize_classes(rows)
  report = peer.classification_report(label, predictions, output_dict=True)
  for place, name in enumerate(class_statistics.CLASSES):
    for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score"), ("support", "support")):
      assert summary["per_class"][name][ours] == pytest.approx(report[str(place)][theirs])
    other = class_statistics.CLASSES[1 - place]
    assert summary["per_class"][name]["specificity"] == pytest.approx(summary["per_class"][other]["recall"])
  assert summary["macro"]["f1"] == pytest.approx(report["macro avg"]["f1-score"])
  assert summary["accuracy"] == pytest.approx(peer.accuracy_score(label, predictions))
  counts = summary["confusion"]
  assert [[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]] == peer.confusion_matrix(
    label, predictions
  ).tolist()


def test_one_class_only_and_constant_probabilities():
  summary = class_statistics.summarize_classes(rows_of(np.zeros(4, int), np.full(4, 0.2, np.float32)))
  assert summary["roc_auc"] is None and summary["average_precision"] is None and summary["accuracy"] == 1
  assert summary["per_class"]["tumor"]["f1"] is None and summary["per_class"]["no_tumor"]["f1"] == 1
  summary = class_statistics.summarize_classes(rows_of(np.array([0, 1, 0, 1]), np.full(4, 0.2, np.float32)))
  assert summary["roc_auc"] == 0.5 and summary["per_class"]["tumor"]["precision"] == 0


def test_threshold_is_the_most_accurate_and_of_equals_the_middle():
  label = np.array([0, 0, 1, 1])
  assert class_statistics.choose_threshold(np.array([0.1, 0.305, 0.695, 0.9]), label) == pytest.approx(0.5)
  assert class_statistics.choose_threshold(np.array([0.1, 0.605, 0.615, 0.9]), label) == pytest.approx(0.61)


def test_what_the_paper_prints_and_what_cannot_hold():
  # (360, 11, 38, 181) is one of the two matrices that fit the CNN's precision and recall over 371 and 219 slices.
  tn, fp, fn, tp = 360, 11, 38, 181
  values = {
    "support": (tn + fp, fn + tp),
    "precision": (tn / (tn + fn), tp / (tp + fp)),
    "recall": (tn / (tn + fp), tp / (tp + fn)),
  }
  for name, pair in values.items():
    printed = published_values.PRINTED[name][0]
    assert [float(text) for text in printed] == [round(value, 2) for value in pair]
  assert round((tn + tp) / 590, 2) == 0.92  # so not .96 for one class
  assert (
    round(2 * tp / (2 * tp + fp + fn), 2)
    == float(published_values.PRINTED["f1"][0][1])
    != float(published_values.PRINTED["dsc"][0][1])
  )
  assert round(0.97 / (2 - 0.97), 2) == 0.94 and round(0.88 / (2 - 0.88), 2) == 0.79
  assert set(published_values.CANNOT_HOLD) == {"accuracy", "dsc", "iou", "si"}


def test_classifier_writes_records_table_and_figures(classifier):
  workdir, _ = classifier
  split = json.loads((workdir / "split.json").read_text())
  rows = table_of(workdir / "slices.csv")
  assert [f"{row['case']}/{row['slice']}" for row in rows] == split["test"]
  test = json.loads((workdir / "summary.json").read_text())["test"]
  right = sum(row["label"] == row["prediction"] for row in rows)
  assert test["accuracy"] == pytest.approx(right / len(rows)) and sum(test["confusion"].values()) == len(rows)
  for name in ("tumor", "no_tumor"):
    assert {"precision", "recall", "f1"} <= test["per_class"][name].keys()
  assert "roc_auc" in test and "average_precision" in test and "contradictions" in (workdir / "table.txt").read_text()
  for name in ("curves", "confusion"):
    with Image.open(workdir / "figures" / f"{name}.png") as picture:
      assert min(picture.size) > 300
  assert {"train_accuracy", "validation_accuracy"} <= table_of(workdir / "metrics.csv")[0].keys()


def many_rows():
  """Eight patients of nine slices, probabilities with ties."""
  rng = np.random.default_rng(0)
  label = rng.integers(0, 2, 72)
  score = np.round(np.clip(0.4 * label + 0.7 * rng.random(72), 0, 1), 1)
  names = np.repeat(list("ABCDEFGH"), 9)
  return [
    {
      "patient": name,
      "case": name,
      "slice": at,
      "label": int(truth),
      "probability": float(value),
      "prediction": int(value >= 0.5),
    }
    for at, (name, truth, value) in enumerate(zip(names, label, score, strict=True))
  ]


def test_curves_are_scikit_learns_and_their_bands_are_of_drawn_patients():
  rows = many_rows()
  label, score = ([row[name] for row in rows] for name in ("label", "probability"))
  curves = class_statistics.curves(rows)
  fpr, tpr, _ = peer.roc_curve(label, score, drop_intermediate=False)
  np.testing.assert_allclose((curves["roc"]["x"], curves["roc"]["y"]), (fpr, tpr))
  precision, recall, _ = peer.precision_recall_curve(label, score)
  np.testing.assert_allclose(curves["precision_recall"]["x"], recall[-2::-1])
  np.testing.assert_allclose(curves["precision_recall"]["y"], precision[-2::-1])
  for curve, expected in (
    (curves["roc"], lambda drawn, x: np.interp(x, *peer.roc_curve(*drawn)[:2])),
    (curves["precision_recall"], lambda drawn, x: precision_at(*peer.precision_recall_curve(*drawn)[:2], x)),
  ):
    rng, x = np.random.default_rng(1), curve["grid"][20]
    assert curve["on_grid"][20] == pytest.approx(expected((label, score), x))
    samples = []
    for _ in range(2000):
      members = [row for name in rng.choice(list("ABCDEFGH"), 8) for row in rows if row["patient"] == name]
      samples.append(expected(([row["label"] for row in members], [row["probability"] for row in members]), x))
    np.testing.assert_allclose(curve["intervals"][20], np.quantile(samples, [0.025, 0.975]), atol=0.05)


def precision_at(precision, recall, least):
  """That of the highest threshold whose recall is at least this; scikit-learn goes from the lowest on."""
  return precision[np.flatnonzero(recall >= least - 1e-12)[-1]]


def test_curves_need_both_classes_and_their_bands_five_patients():
  rows = many_rows()
  assert class_statistics.curves([row for row in rows if row["label"]]) == {}
  few = class_statistics.curves([row for row in rows if row["patient"] in "ABCD"])
  assert set(few["roc"]["intervals"]) == {None} and few["roc"]["y"][-1] == 1


def test_the_most_confident_errors_come_first():
  rows = [
    {"label": label, "prediction": prediction, "probability": probability}
    for label, prediction, probability in (
      (1, 0, 0.3),
      (0, 1, 0.9),
      (1, 1, 0.99),
      (1, 0, 0.05),
      (0, 1, 0.6),
      (0, 0, 0.01),
    )
  ]
  found = class_statistics.confident_errors(rows, 3)
  assert [row["probability"] for row in found] == [0.05, 0.9, 0.3]
