"""Numbers, intervals and sentences as they appear in the report."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from bt_jax.datasets.registry import info_of
from bt_jax.evaluation.bootstrap import FEWEST
from bt_jax.paper import published_values
from bt_jax.paper.baselines import COPY
from bt_jax.scans.scan import NOTICE

STEP = "The spacing is not known: distances are in pixels, and a step to the next slice, in truth several millimetres, counts as one."
MISSING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_NO_BREAK = "\N{NO-BREAK SPACE}"
MODELS = {
  "unet": "U-Net",
  "lite_unet": "U-Net with an EfficientNet-Lite encoder",
  "lite": "EfficientNet-Lite",
  "resunet": "ResUNet (U-Net with a ResNet50 encoder)",
  "resunet_scratch": "residual U-Net",
  "cnn": "CNN",
  "resnet50": "ResNet50",
}
Headline = tuple[str, dict[str, Any], str, str]  # title, group of the summary, name in the group, and what it means
# The format of a number, by its kind.
_FORMATS = {
  "share": "{:.3f}",
  "pixels": "{:,.0f}",
  "distance": "{:.1f}",
  "factor": "{:.2f}",
  "count": "{:,d}",
  "percent": "{:.1%}",
}


def number(value: float | int | None, kind: str = "share") -> str:
  """Formats a number of this kind (share, percent, pixels, distance, factor, count, p); a dash for None."""
  if value is None:
    return MISSING
  if kind == "p":
    return "<0.001" if value < 0.001 else f"{value:.3f}"
  return _FORMATS[kind].format(value).replace("-", MINUS).replace("%", f"{_NO_BREAK}%")


def interval(pair: list[float] | None, kind: str = "share") -> str:
  """Formats an interval as `low to high`; empty for None."""
  return f"{number(pair[0], kind)} to {number(pair[1], kind)}" if pair else ""


def duration(seconds: float | int) -> str:
  """Formats a duration in its two largest units, e.g. `2 h 4 min`."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def model(summary: dict[str, Any]) -> str:
  """The title of the model or models that were evaluated."""
  if "segmenter" in summary:
    return " and ".join(title(summary[role]["model"]) for role in ("classifier", "segmenter"))
  return title(summary["model"])


def title(name: str) -> str:
  """The title of a network, by its name."""
  return MODELS.get(name, name)


def is_lgg(summary: dict[str, Any]) -> bool:
  """Whether a run uses the paper's data set, or the phantom that imitates it."""
  return info_of(summary).name == published_values.DATASET


def split(summary: dict[str, Any]) -> str:
  """The title of a run's split."""
  name, last = summary["split"], info_of(summary).folds - 1
  if match := re.fullmatch(r"patient_(folds?)_([\d,-]+)", name):
    return f"patient {match[1]} {re.sub(r'0(?=[0-9])', '', match[2])} (of 0 to {last})"
  return {
    "random_slices_leaky": "slices drawn at random (leaky)",
    "patients_buda10": "the ten patients of brain-segmentation-pytorch",
  }.get(name, name.replace("_", " "))


def intervals(summary: dict[str, Any]) -> str:
  """How the intervals were made, with the warning about them, if any; why there are none of too few patients."""
  about = summary["intervals"]
  if about["patients"] < FEWEST:
    return about["why"]
  made = (
    f"{level(summary)} intervals by {about['method']}, {about['resamples']:,} resamples of {about['patients']} patients"
  )
  made += f"; {about['exact']}" if "exact" in about else ""
  return f"{made} ({about['why']})" if about["why"] else made


def sentence(text: str) -> str:
  """The text with an initial capital and a final full stop; an empty text stays empty."""
  return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def level(summary: dict[str, Any]) -> str:
  """The level of the intervals, e.g. `95 %`."""
  return f"{summary['intervals']['level']:.0%}".replace("%", f"{_NO_BREAK}%")


def with_interval(group: dict[str, Any], name: str, kind: str = "share", level: str = "") -> str:
  """A number and its interval; `level` at the first mention of an interval."""
  shown, pair = number(group[name], kind), group.get(f"{name}_ci95")
  return f"{shown} ({level + ' interval ' if level else ''}{interval(pair, kind)})" if pair else shown


def sentences(summary: dict[str, Any], result: Callable[[dict[str, Any], str], tuple[str, str]]) -> list[str]:
  """The result in three sentences: the score and the result by slice, which `result` makes, and the protocol."""
  return [*result(summary["test"], level(summary)), _protocol(summary)]


def _protocol(summary: dict[str, Any]) -> str:
  protocol = f"Protocol: {split(summary)} of {summary['data']}"
  if summary.get("folds"):
    protocol += f", {len(summary['folds'])} runs, each evaluated on patients that it never saw, their slices pooled"
  elif summary["leaky"]:
    protocol += ", with slices of one patient in training and test"
  else:
    protocol += ", no patient in both training and test"
  if summary.get("threshold") is not None:
    protocol += f"; threshold {number(summary['threshold'], 'factor')}, {summary['threshold_from']}"
  elif summary.get("folds"):
    protocol += f"; thresholds {summary['threshold_from']}"
  elif "gate" in summary:
    protocol += f"; gate at {number(summary['gate']['threshold'])}, {summary['gate']['threshold_from']}"
  return f"{protocol}; {intervals(summary)}."


def notices(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
  """The notices at the top: (kind, heading, text)."""
  listed = []
  if summary["leaky"]:
    text = (
      "Slices were drawn one by one, so slices of the same patient stand in training and in test. The numbers below are higher "
      "than they would be for new patients: a copy of the nearest training slice, without a look at the image, already reaches "
      f"{_copied(summary)}. Use a patient split to evaluate a model."
    )
    listed.append(("leak", "This split leaks", text))
  if summary["synthetic"]:
    text = (
      "The slices are drawn by a program, not taken from patients. The numbers say nothing about accuracy on patients."
    )
    listed.append(("synthetic", "Synthetic data", text))
  text = "Not a medical device, not validated for care. Do not use for diagnosis or treatment."
  return [*listed, ("research", NOTICE.rstrip("."), text)]


def _copied(summary: dict[str, Any]) -> str:
  """The score of a copy of the nearest training slice: in this run, or else as published."""
  for baseline in summary.get("baselines", []):
    if baseline["name"] == COPY:
      test = baseline["test"]
      if "pooled" in test:
        return f"a Dice of {with_interval(test['pooled'], 'dice')} over all pixels of this test set"
      return f"an accuracy of {with_interval(test, 'accuracy', 'percent')} on this test set"
  return published_values.ANCHORS[-1].result.removesuffix(", without a look at the image")


def headline(wanted: Sequence[Headline]) -> list[tuple[str, str, str, str]]:
  """The headline statistics that have a value: (name, value, interval, rule)."""
  return [
    (name, number(group[key]), interval(group.get(f"{key}_ci95")), rule)
    for name, group, key, rule in wanted
    if group.get(key) is not None
  ]
