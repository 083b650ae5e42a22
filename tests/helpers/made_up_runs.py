"""Folders of finished runs, made up: three patients, a square tumour that grows from slice to slice, no two numbers alike."""

import itertools
import shutil

import numpy as np
from PIL import Image

from bt_jax import files
from bt_jax.datasets.lgg_mri.constants import CLINICAL_FIELDS, INFO
from bt_jax.evaluation import aggregation
from bt_jax.evaluation.class_statistics import class_rows, patient_class_rows, summarize_classes
from bt_jax.evaluation.records import patient_records, slice_records
from bt_jax.evaluation.shape import FEATURES
from bt_jax.evaluation.summary_files import write_summary
from bt_jax.reporting.page import sprites
from bt_jax.schema import Slices
from configs.common import get_config

EVIL = "<b>x"  # a case that would be markup if it were not escaped
NAMES = {"data": "made up", "split": "patient_fold_00"}


def make_slices(counts, size=8, noise=False):
  """Volumes of so many slices by case; every slice but the first has a square tumour, the larger the later."""
  rng = np.random.default_rng(0)
  total = sum(counts.values())
  image = np.zeros((total, 256, 256, 3), np.uint8)
  mask = np.zeros((total, 256, 256, 1), np.uint8)
  case = np.repeat(list(counts), list(counts.values()))
  number = np.concatenate([np.arange(count) + 1 for count in counts.values()])
  for at in range(total):
    image[at, ..., 1] = rng.integers(0, 256, (256, 256)) if noise else 10 * number[at]
    edge = 100 + size * (number[at] - 1)
    mask[at, 100:edge, 100:edge] = 1
  stats = np.ones((total, 3), np.float32)
  patient = np.array([f"patient {name}" for name in case])
  return Slices(case, patient, number, image, mask, stats, stats)


def shifted(slices):
  """Predictions: the truth moved right, by one pixel in the first case, two in the second, and so on."""
  order = {case: at for at, case in enumerate(dict.fromkeys(slices.case), start=1)}
  return np.stack([np.roll(mask == 1, order[case], 1) for case, mask in zip(slices.case, slices.mask, strict=True)])


_SEEN = itertools.count(1)


def estimates(*names):
  """A value of its own, with an interval of its own, for each name."""
  found = {}
  for name in names:
    at = 0.1 + 0.0035 * next(_SEEN) % 0.8
    found |= {name: at, f"{name}_ci95": [at - 0.0611, at + 0.0622]}
  return found


def hollow(group):
  """The same groups and names, with intervals, without a value."""
  numbers = {name: value for name, value in group.items() if not isinstance(value, dict)}
  empty = {f"{name}{ending}": None for name in numbers for ending in ("", "_ci95")}
  return empty | {name: hollow(value) for name, value in group.items() if isinstance(value, dict)}


def overlaid(under, over):
  """Nested dictionaries, the second over the first."""
  merged = {
    name: overlaid(under[name], value) if isinstance(under.get(name), dict) else value for name, value in over.items()
  }
  return under | merged


# What is known of a patient whose data.csv is empty.
CLINICAL = {"site": "XY", "has_pre": True, "has_post": True, **dict.fromkeys(CLINICAL_FIELDS, -1)}


CHECKPOINT = {"step": 3101, "arrays_sha256": "d4e5f6"}


def common(slices, **changes):
  return {
    **NAMES, "leaky": False, "synthetic": False, "split_hash": "a1b2c3", "parts": {"train": 3543, "validation": 186, "test": len(slices)},
    "normalize": "volume", "threshold": 0.45, "threshold_from": "chosen on the validation set", "largest_component": False,
    "checkpoint": CHECKPOINT, "epochs": {"trained": 2, "planned": 60},
    "versions": {"bt_jax": "0.1.0", "jax": "0.9.1"}, "devices": "1 x cpu", "commit": "c0ffee", "finished": "2025-01-02T03:04:05+00:00",
    "seconds": 3723.4, "machine": "8 cores of a made-up machine", "temperatures": {"slices": 1.5, "pixels": 1.75}, "baselines": [],
    "intervals": {"level": 0.95, "method": "percentile bootstrap over patients", "resamples": 2000, "patients": 7, "why": "7 patients only"},
  } | changes  # fmt: skip


CLUSTERS = {"clusters": [1, 4], "above": [0, 2], "not_above": [1, 0]}
COUNTED = {"pixels": 1000, "probability_sum": 625.0, "tumor_pixels": 375}
METRICS = ("dice", "iou", "precision", "recall", "accuracy")


def segmentation(folder, counts=None, masks=True, **changes):
  slices = make_slices(counts or {"case A": 9, EVIL: 3, "case C": 4})
  predicted = shifted(slices)
  rows = slice_records(slices, predicted.any((1, 2, 3)) * 0.9, predicted, **NAMES, classes=INFO.classes)
  rows = [row | {"probability_calibrated": row["probability"] * 0.8} for row in rows]
  shapes = {"truth_voxels": 1, **{f"{kind}_{name}": None for kind in ("truth", "predicted") for name in FEATURES}}
  patients = [
    row | shapes | {"unit": "pixels", "hd95": at + 0.25, "assd": at + 0.5} | CLINICAL
    for at, row in enumerate(patient_records(rows))
  ]
  patients[0]["hd95"] = float("nan")
  reliability = [
    {**NAMES, "patient": row["patient"], "calibrated": kind, "bin": place}
    | {name: value * ((place, row) == (9 * kind, patients[0])) for name, value in COUNTED.items()}
    for row in patients for kind in (0, 1) for place in range(10)
  ]  # fmt: skip
  means, medians = ([f"{name}_{ending}" for name in METRICS] for ending in ("mean", "median"))
  skeleton = hollow(aggregation.summarize(rows)) | {
    "surface": hollow(aggregation.summarize_distances(patients, intervals=False)),
    "outline": hollow(aggregation.summarize_outline(rows, intervals=False)),
  }
  test = {
    "slices": len(slices), "tumor_slices": int(slices.label.sum()), "patients": len(patients),
    "pooled": estimates(*METRICS), "patient": estimates(*means, *medians) | {"dice_std": 0.0123, "dice_q25": 0.2345, "dice_q75": 0.3456},
    "slice": estimates(*(f"{name}_{rule}" for name in METRICS for rule in ("empty_is_one", "nonempty_truth"))),
    "detection": estimates("sensitivity", "false_positive_rate", "accuracy"),
    "volume": {"unit": "voxels", "error_mean": -1234.0, "error_mean_ci95": [-2345.0, 67.0], "limits_low": -4567.0, "limits_high": 2099.0},
    "surface": {"unit": "pixels", "empty": "both empty: 0", "hd95_mean": None, "hd95_mean_ci95": None, "assd_mean": 5.4321, "assd_mean_ci95": None},
    "outline": {"patients": len(patients), "why": None, **estimates("error_share", "dice_without_others")},
    "calibration": {"pixels": {"temperature": 1.75, "why": None, **estimates("ece", "ece_calibrated")}, "slices": {"temperature": 0.05, "why": "held at its limit", **estimates("ece", "ece_calibrated")}},
    "subgroups": {"site": [{"group": "XY", "patients": 6, "slices": 12, **estimates("dice_mean")}, {"group": "Z", "patients": 1, "slices": 4, "dice_mean": 0.777, "dice_mean_ci95": None}]},
    "associations": {"truth": [{"feature": "angular_std", "grouping": "RNASeqCluster", "patients": 3, "p": 0.0001, "p_holm": 0.0456, "why": None, **CLUSTERS}],
                     "predicted": [{"feature": "angular_std", "grouping": "RNASeqCluster", "patients": 3, "p": None, "p_holm": None, "why": "one cluster only", **CLUSTERS}]},
  }  # fmt: skip
  test = overlaid(skeleton, test)
  baselines = [
    {"baseline": "otsu", **{name: value for name, value in row.items() if name != "probability_calibrated"}}
    for row in rows
  ]
  otsu = {"name": "otsu", "title": "Otsu's threshold", "parameters": {"classes": 4},
          "test": overlaid(skeleton, {"pooled": estimates("dice", "iou"), "patient": estimates("dice_mean")})}  # fmt: skip
  config = get_config().to_dict()
  config["loss"] |= {"name": "focal_tversky", "exponent": 0.5}
  summary = common(slices, task="segmentation", model="unet", test=test, baselines=[otsu]) | changes
  return write(folder, summary, config, rows, patients, reliability, baselines, (slices, predicted if masks else None))


def classification(folder, **changes):
  slices = make_slices({"case A": 3, "case B": 4})
  probability = np.linspace(0, 1, len(slices))
  rows = class_rows(slices, probability, probability >= 0.5, **NAMES)
  rows = [row | {"probability_calibrated": row["probability"] * 0.8} for row in rows]
  test = overlaid(hollow(summarize_classes(rows)), summarize_classes(rows)) | {
    "accuracy_ci95": [0.5011, 0.9022],
    "subgroups": {},
    "associations": {"why": "7 slices"},
  }
  test["calibration"] = {"slices": {"temperature": 1.5, "why": None, **estimates("ece", "ece_calibrated")}}
  config = get_config().to_dict() | {"task": "classification"}
  config["loss"]["name"], config["train"]["score"] = "cross_entropy", "loss"
  shapes = {"truth_voxels": 1, **dict.fromkeys([f"truth_{name}" for name in FEATURES])}
  patients = [row | shapes | CLINICAL for row in patient_class_rows(rows)]
  summary = common(slices, task="classification", model="cnn", test=test, **changes)
  return write(folder, summary, config, rows, patients, [], [], (slices, None))


def pooled(folder):
  fold = {
    "fold": 7,
    "run": "fold_07",
    "threshold": 0.35,
    "patients": 3,
    "slices": 16,
    "seconds": 61.0,
    "pooled_dice": 0.6543,
    "checkpoint": CHECKPOINT,
  }
  folder = segmentation(folder, folds=[fold], threshold=None, split="22 patient folds")
  shutil.move(folder / "volumes", folder / "fold_07/volumes")
  shutil.copy(folder / "summary.json", folder / "fold_07/summary.json")  # of the same checkpoint
  (folder / "metrics.csv").unlink()
  return folder


def write(folder, summary, config, rows, patients, reliability, baselines, shown):
  history = [
    {"epoch": at, "train_loss": 0.5 / at, "validation_loss": 0.5, "train_accuracy": 0.9, "validation_accuracy": 0.8, "validation_score": 0.1 * at}
    for at in (1, 2)
  ]  # fmt: skip
  written = {
    "slices": rows,
    "patients": patients,
    "reliability": reliability,
    "baselines": baselines,
    "metrics": history,
  }
  for name, table in written.items():
    if table:
      files.write_csv(folder / f"{name}.csv", table)
  files.write_json(folder / "config.json", config)
  write_summary(folder, summary)
  sprites.save_volumes(folder / "volumes", *shown, reference=INFO.reference_index)
  for name in ("overlays_tumor", "overlays_no_tumor"):
    (folder / "figures").mkdir(exist_ok=True)
    Image.new("L", (20, 10)).save(folder / f"figures/{name}.png")
  return folder


KINDS = {"segmentation": segmentation, "classification": classification, "pooled": pooled}
