"""Tables of results as text."""

import functools
from typing import Any

from bt_jax import metrics
from bt_jax.datasets.registry import info_of
from bt_jax.evaluation.aggregation import EMPTY_RULES
from bt_jax.evaluation.bootstrap import FEWEST
from bt_jax.paper import published_values
from bt_jax.scans.scan import NOTICE


def _slice_gate(summary: dict[str, Any]) -> str:
  gate = summary.get("slice_gate")
  return "" if gate is None else f"; slices below {gate:.3f} empty, by the head for slices"


def results_table(summary: dict[str, Any]) -> str:
  """The table of a segmenter's `summary.json` as text; headings name data, split, aggregation, empty rule, counts."""
  test = summary["test"]
  columns = {
    "pixels pooled": lambda name: ("pooled", name),
    "volume mean": lambda name: ("patient", f"{name}_mean"),
    "volume median": lambda name: ("patient", f"{name}_median"),
    "slice mean (1)": lambda name: ("slice", f"{name}_empty_is_one"),
    "slice mean (2)": lambda name: ("slice", f"{name}_nonempty_truth"),
  }
  lines = [
    f"Segmentation on the test set: {heading(summary)}",
    f"{counts(test)}; threshold {threshold(summary)}{_slice_gate(summary)}; largest 3-D component only: {summary['largest_component']}",
    "",
    f"{'':10}" + "".join(f"{title:>24}" for title in columns),
    *(
      f"{name:10}" + "".join(f"{cell(test[group], key):>24}" for group, key in (of(name) for of in columns.values()))
      for name in metrics.METRICS
    ),
    "",
    *_class_lines(test),
    *_detection_lines(test),
    *_volume_lines(test),
    *_outline_lines(test.get("outline")),
    *_calibration_lines(test["calibration"]),
    "",
    *_baseline_lines(summary, _SEGMENTED),
    f"(1) {EMPTY_RULES['empty_is_one']}. (2) {EMPTY_RULES['nonempty_truth']}. Pooled and per volume, an all-empty pair counts 1.",
    *_intervals_lines(summary),
    f"si and f1 are the formula of dice under other names. {NOTICE}",
  ]
  return "\n".join(lines)


def class_table(summary: dict[str, Any]) -> str:
  """The table of a classifier's `summary.json` as text, with the paper's Table 2 and its values beside ours."""
  test = summary["test"]
  confusion = test["confusion"]
  overall = ("accuracy", "specificity", "roc_auc", "average_precision", "ece")
  lines = [
    f"Classification on the test set, by slice: {heading(summary)}",
    f"{counts(test)}; threshold {threshold(summary)}",
    "",
    *(f"{name:24}{cell(test, name):>24}" for name in overall),
    *(
      f"{f'{name} (macro)':24}{cell(test['macro'], name):>24}" for name in ("precision", "recall", "f1", "specificity")
    ),
    *_calibration_lines(test["calibration"]),
    "",
    f"{'confusion':24}{'none predicted':>16}{'tumour predicted':>18}",
    f"{'no tumour':24}{confusion['tn']:>16}{confusion['fp']:>18}",
    f"{'tumour':24}{confusion['fn']:>16}{confusion['tp']:>18}",
    "",
    *_baseline_lines(summary, _CLASSIFIED),
    *(_paper_lines(summary) if info_of(summary).name == published_values.DATASET else []),
    *_intervals_lines(summary),
    f"A class never predicted has precision 0; one that is neither present nor predicted has none. {NOTICE}",
  ]
  return "\n".join(lines)


# The columns of the baselines, each with its path in a summary.
_SEGMENTED = {
  "pixels pooled": ("pooled", "dice"),
  "volume mean": ("patient", "dice_mean"),
  "volume median": ("patient", "dice_median"),
  "slices found": ("detection", "sensitivity"),
  "false alarms": ("detection", "false_positive_rate"),
}
_CLASSIFIED = {
  "accuracy": (None, "accuracy"),
  "recall of tumour": ("per_class", "tumor", "recall"),
  "specificity": (None, "specificity"),
}


def _baseline_lines(summary: dict[str, Any], columns: dict[str, tuple[str | None, ...]]) -> list[str]:
  """This network and the baselines on the same slices; empty for other data than the paper's, without baselines."""
  if not summary["baselines"] and info_of(summary).name != published_values.DATASET:
    return []
  named = [(f"this {summary['model']}", summary["test"], None)]
  named += [(baseline["title"], baseline["test"], baseline["name"]) for baseline in summary["baselines"]]
  segments = columns is _SEGMENTED
  head = f"on the same slices ({'dice; slices by any pixel' if segments else 'slices'})"
  lines = [
    f"{head:50}" + "".join(f"{title:>24}" for title in columns) + "   printed in the paper, not comparable" * segments
  ]
  for title, test, name in named:
    printed = published_values.TABLE3.get(name) if segments else None
    cells = (
      cell(functools.reduce(dict.__getitem__, filter(None, path[:-1]), test), path[-1]) for path in columns.values()
    )
    line = f"{title:50}" + "".join(f"{cell:>24}" for cell in cells)
    lines.append(f"{line}   {printed.result} on {printed.data}" if printed else line)
  return [*lines, ""]


def _paper_lines(summary: dict[str, Any]) -> list[str]:
  """A classifier's statistics beside those of the paper."""
  table = published_values.table2_lines(summary["test"]["per_class"], summary["model"])
  return [*table, "", *published_values.NOTE.splitlines()]


def _class_lines(test: dict[str, Any]) -> list[str]:
  """Each of several classes on a line of its own; all other statistics are the mean over them."""
  if "classes" not in test:
    return []
  rows = [*test["classes"].items(), ("mean over classes", test)]
  head = f"{'by class (dice; slices by any pixel)':50}" + "".join(f"{title:>24}" for title in _SEGMENTED)
  cells = lambda numbers: "".join(f"{cell(numbers[group], name):>24}" for group, name in _SEGMENTED.values())
  return [head, *(f"{name:50}{cells(numbers)}" for name, numbers in rows), ""]


def _detection_lines(test: dict[str, Any]) -> list[str]:
  detection = test["detection"]
  return [
    f"slices with any pixel predicted: {cell(detection, 'sensitivity')} of those with a tumour, "
    f"{cell(detection, 'false_positive_rate')} of those without",
  ]


def _volume_lines(test: dict[str, Any]) -> list[str]:
  volume, surface = test["volume"], test["surface"]
  if why := volume.get("why") or surface.get("why"):
    return [f"volumes and surfaces: - ({why})"]
  show = lambda name, of=volume: cell(of, name, "{:.0f}")
  limits = f"; 95 % limits of agreement {show('limits_low')} to {show('limits_high')}"
  return [
    f"volume, predicted minus true, {volume['unit']}: mean {show('error_mean')}{limits if volume['limits_low'] is not None else ''}; "
    f"absolute, mean {show('absolute_error_mean')}",
    *(
      f"{title}, {surface['unit']}: mean {cell(surface, f'{name}_mean', '{:.2f}')}, median {cell(surface, f'{name}_median', '{:.2f}')}"
      for name, title in (
        ("hd95", "Hausdorff distance, 95th percentile"),
        ("assd", "average symmetric surface distance"),
      )
    ),
    f"distances: {surface['empty']}"
    + ("; spacing not known, a step to the next slice counts as one pixel" if surface["unit"] == "pixels" else ""),
  ]


def _outline_lines(outline: dict[str, Any] | None) -> list[str]:
  """The errors near the true outline; summaries of earlier versions have none."""
  if not outline:
    return []
  if "error_share" not in outline:
    return [f"errors near the true outline: - ({outline['why']})"]
  return [
    f"wrong pixels within one pixel of the true outline: {cell(outline, 'error_share')} of all; Dice if the others were corrected, volume mean: "
    f"{cell(outline, 'dice_without_others')}" + (f"; {outline['why']}" if outline["why"] else "")
  ]


def _calibration_lines(calibration: dict[str, Any]) -> list[str]:
  lines = []
  for name, fit in calibration.items():
    temperature = "of each fold" if fit["temperature"] is None else f"{fit['temperature']:.2f}"
    lines.append(
      f"calibration error of {name}: {cell(fit, 'ece')}, at the temperature {temperature} (from validation) {cell(fit, 'ece_calibrated')}"
      + (f"; {fit['why']}" if fit["why"] else "")
    )
  return lines


def _intervals_lines(summary: dict[str, Any]) -> list[str]:
  intervals = summary["intervals"]
  if intervals["patients"] < FEWEST:
    return [intervals["why"]]
  exact = f"; {intervals['exact']}" if "exact" in intervals else ""
  legend = (
    f"[ ]: 95 % interval, {intervals['method']} ({intervals['resamples']} samples of {intervals['patients']}){exact}"
  )
  return [legend, *([intervals["why"]] if intervals["why"] else [])]


def counts(test: dict[str, Any]) -> str:
  """Patients and slices of a test set."""
  return f"{patients(test)}, {test['slices']} slices, {test['tumor_slices']} of them with a tumour"


def patients(group: dict[str, Any]) -> str:
  """The number of patients in words."""
  return "1 patient" if group["patients"] == 1 else f"{group['patients']} patients"


def threshold(summary: dict[str, Any]) -> str:
  """The threshold on probabilities, and where it is from."""
  value = summary["threshold"]
  return f"({summary['threshold_from']})" if value is None else f"{value:.2f} ({summary['threshold_from']})"


def cell(group: dict[str, Any], name: str, form: str = "{:.4f}") -> str:
  """A number with its interval, if it has one."""
  value, interval = group[name], group.get(f"{name}_ci95")
  if value is None:
    return "-"
  edges = form if form != "{:.4f}" else "{:.3f}"
  return form.format(value) + (f" [{', '.join(edges.format(edge) for edge in interval)}]" if interval else "")


def compare_table(summary: dict[str, Any]) -> str:
  """The table of a `comparison.json` as text."""
  first, second = summary["first"], summary["second"]
  intervals = summary["intervals"]
  statistics = {name.replace("_", " "): row for name, row in summary["headline"].items()}
  for name, rows in summary.get("classes", {}).items():
    statistics |= {f"{name}, {statistic.replace('_', ' ')}": row for statistic, row in rows.items()}
  width = max(24, *(len(name) + 2 for name in (*statistics, *summary["patients"])))
  lines = [
    f"Two runs on the same test set: {heading(summary)}; {patients(intervals)}, {summary['slices']} slices",
    f"first:  {first['run']} ({first['model']})",
    f"second: {second['run']} ({second['model']})",
    "",
    f"{'':{width}}{'first':>10}{'second':>10}{'second - first':>28}",
    *(
      f"{name:{width}}{_show(row['first']):>10}{_show(row['second']):>10}{cell(row, 'difference'):>28}"
      for name, row in statistics.items()
    ),
    "",
    f"{'by patient':{width}}{'mean of difference':>28}{'median':>28}{'higher':>8}{'equal':>8}{'lower':>8}   Wilcoxon p",
    *(
      f"{name:{width}}{cell(row, 'mean'):>28}{cell(row, 'median'):>28}{row['higher']:>8}{row['equal']:>8}{row['lower']:>8}   "
      + (f"- ({row['why']})" if row["p"] is None else f"{row['p']:.4f}")
      for name, row in summary["patients"].items()
    ),
    "",
    *_intervals_lines(summary),
    f"For hd95 and assd, lower is better. p is not corrected for the number of rows; with n patients it cannot be below "
    f"2 / 2^n, which is {2 / 2 ** intervals['patients']:.2g} here. {NOTICE}",
  ]
  return "\n".join(lines)


WAYS = {
  "classifier": "the classifier alone",
  "mask": "the mask alone: its area and highest probability",
  "both": "both, fitted on the validation set",
  "paper_rule": "the classifier, unless the mask is empty",
}


def cascade_table(summary: dict[str, Any]) -> str:
  """The table of a cascade's `summary.json` as text."""
  test, gate = summary["test"], summary["test"]["gate"]
  alone, gated = test["segmentation"]["alone"], test["segmentation"]["gated"]
  pairs = {
    "dice, pixels pooled": ("pooled", "dice"),
    "dice, volume mean": ("patient", "dice_mean"),
    "dice, volume median": ("patient", "dice_median"),
    "dice, slice mean (1)": ("slice", "dice_empty_is_one"),
    "dice, slice mean (2)": ("slice", "dice_nonempty_truth"),
    "precision, pixels pooled": ("pooled", "precision"),
    "recall, pixels pooled": ("pooled", "recall"),
    "false positives on healthy slices": ("detection", "false_positive_rate"),
  }
  names = ("accuracy", "roc_auc", "average_precision", "ece", "precision", "recall", "specificity", "f1")
  lost = ", ".join(gate["patients_missed_by_gate"]) or "none"
  lines = [
    f"Cascade on the test set: {heading(summary)}",
    f"classifier {summary['classifier']['model']}, segmenter {summary['segmenter']['model']}; {alone['patients']} patients, "
    f"{alone['slices']} slices, {alone['tumor_slices']} of them with a tumour",
    f"gate: an empty mask where the classifier's probability is below {summary['gate']['threshold']:.4f}, chosen on the validation "
    f"set to keep {summary['gate']['sensitivity_asked']:.1%} of the slices with a tumour",
    "",
    f"{'segmentation':36}{'without gate':>24}{'with gate':>24}",
    *(f"{name:36}{cell(alone[group], key):>24}{cell(gated[group], key):>24}" for name, (group, key) in pairs.items()),
    f"healthy slices with a false positive: {gate['false_positives']} without gate ({cell(gate, 'false_positive_rate')}), "
    f"{gate['false_positives_gated']} with gate ({cell(gate, 'false_positive_rate_gated')}), of {gate['healthy_slices']}",
    f"slices with a tumour missed by the gate: {gate['tumor_slices_missed_by_gate']} of {gate['tumor_slices']} (let through: "
    f"{cell(gate, 'sensitivity')}), {gate['of_these_found_by_segmenter']} of them found by the segmenter; patients missed "
    f"altogether: {lost}",
    "",
    f"{'tumour or none, by slice':52}" + "".join(f"{name:>24}" for name in names),
  ]
  for way, values in test["classification"].items():
    numbers = {**values["per_class"]["tumor"], **values}
    lines.append(f"{WAYS[way]:52}" + "".join(f"{cell(numbers, name):>24}" for name in names))
  lines += [
    "",
    f"(1) {EMPTY_RULES['empty_is_one']}. (2) {EMPTY_RULES['nonempty_truth']}. Pooled and per volume, an all-empty pair counts 1.",
    *_intervals_lines(summary),
    f"Precision, recall, specificity and F1 by slice are those of tumour; every threshold is from the validation set. {NOTICE}",
  ]
  return "\n".join(lines)


def heading(summary: dict[str, Any]) -> str:
  """Data and split, for the heading of every table and figure."""
  leak = ", slices of one patient in training and test, volumes of test slices only" if summary["leaky"] else ""
  return f"{summary['data']}, {summary['split']}{leak}"


def _show(value: float | None) -> str:
  return "-" if value is None else f"{value:.4f}"


OF_TASK = {"segmentation": results_table, "classification": class_table}
