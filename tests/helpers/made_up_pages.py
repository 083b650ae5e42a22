"""The page of each kind of run, of made-up results."""

from PIL import Image

from bt_jax import files
from bt_jax.evaluation.classifier_gate import WAYS
from bt_jax.evaluation.record_tables import kind_of
from bt_jax.modes.compare import compare
from bt_jax.reporting.page import html
from tests.helpers.made_up_runs import CHECKPOINT, KINDS, NAMES, estimates, segmentation


def cascade(folder):
  """A cascade beside its segmenter's run, whose gate stops the slices of odd number; the classifier's is elsewhere.

  Returns its folder, and its results on the test set.
  """
  segmenter = segmentation(folder / "segmenter")
  html.write_report(segmenter, show_slices=True)
  folder = folder / "cascade"
  rows = files.read_csv(segmenter / "slices.csv", kind_of)
  gated = [row | {"classifier_probability": 0.25, "gate_passes": 1 - row["slice"] % 2} for row in rows]
  files.write_csv(folder / "slices.csv", gated)
  gate = {"healthy_slices": 40, "false_positives": 9, "false_positives_gated": 4, "tumor_slices": 21, "tumor_slices_missed_by_gate": 2,
          "sensitivity": 19 / 21, "false_positive_rate": 9 / 40, "false_positive_rate_gated": 4 / 40, "patients_missed_by_gate": ["patient P"],
          "sensitivity_ci95": [0.711, 0.987], "false_positive_rate_ci95": [0.123, 0.345], "false_positive_rate_gated_ci95": [0.021, 0.199]}  # fmt: skip
  alone, with_gate = (
    {"slices": 61, "patients": 3, "pooled": estimates("dice"), "patient": estimates("dice_mean")} for _ in range(2)
  )
  runs = {
    "classifier": {"run": "/secret/a", "model": "cnn"},
    "segmenter": {"run": "/moved/since/segmenter", "model": "unet", "checkpoint": CHECKPOINT},
  }
  classified = {way: estimates("accuracy", "ece") | {"per_class": {"tumor": estimates("recall")}} for way in WAYS}
  summary = {**NAMES, "leaky": False, "synthetic": True, **runs, "intervals": {"level": 0.95, "method": "m", "resamples": 9, "patients": 9, "why": None},
             "versions": {"bt_jax": "0.1.0"}, "gate": {"threshold": 0.1234, "threshold_from": "chosen"},
             "test": {"gate": gate, "segmentation": {"alone": alone, "gated": with_gate}, "classification": classified}}  # fmt: skip
  files.write_json(folder / "summary.json", summary)
  (folder / "figures").mkdir()
  Image.new("L", (20, 10)).save(folder / "figures/gate.png")
  return folder, summary["test"]


def _compared(folder):
  runs = [segmentation(folder / name) for name in ("first", "second")]
  compare([str(run) for run in runs], folder / "both")
  return folder / "both/report.html"


def _page_of(make):
  return lambda folder: html.write_report(make(folder), show_slices=True)


# Each writes a page in a folder, and returns its path.
PAGES = {
  **{name: _page_of(make) for name, make in KINDS.items()},
  "cascade": _page_of(lambda folder: cascade(folder)[0]),
  "comparison": _compared,
}
