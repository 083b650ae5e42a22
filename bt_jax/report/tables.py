"""The printed tables of results."""

from typing import Any

from bt_jax import metrics
from bt_jax.evaluation.aggregation import EMPTY_RULES
from bt_jax.report import paper

_NOT_CLINICAL = "For research only, never clinical use."


def results_table(summary: dict[str, Any]) -> str:
  """The table of `summary.json` as text; every heading says data, split, aggregation, rule for empty masks and counts."""
  test = summary["test"]
  columns = {
    "pixels pooled": lambda name: test["pooled"][name],
    "volume mean": lambda name: test["patient"][f"{name}_mean"],
    "volume median": lambda name: test["patient"][f"{name}_median"],
    "slice mean (1)": lambda name: test["slice"][f"{name}_empty_is_one"],
    "slice mean (2)": lambda name: test["slice"][f"{name}_nonempty_truth"],
  }
  width = max(map(len, columns))
  lines = [
    f"Segmentation on the test part: {heading(summary)}",
    f"{test['patients']} patients, {test['slices']} slices, {test['tumor_slices']} of them with a tumour; threshold "
    f"{summary['threshold']:.2f} ({summary['threshold_from']}); largest 3-D component only: {summary['largest_component']}",
    "",
    f"{'':10}" + "".join(f"{title:>{width + 2}}" for title in columns),
    *(
      f"{name:10}" + "".join(f"{_show(value(name)):>{width + 2}}" for value in columns.values())
      for name in metrics.METRICS
    ),
    "",
    f"(1) {EMPTY_RULES['empty_is_one']}. (2) {EMPTY_RULES['nonempty_truth']}. Pooled and per volume, an all-empty pair counts 1.",
    f"si and f1 are the formula of dice under other names. {_NOT_CLINICAL}",
  ]
  return "\n".join(lines)


def class_table(summary: dict[str, Any]) -> str:
  """The table of a classifier's `summary.json` as text, laid out as the paper's Table 2 with its values beside ours."""
  test = summary["test"]
  counts = test["confusion"]
  overall = {name: test[name] for name in ("accuracy", "specificity", "roc_auc", "average_precision", "ece")}
  macro = {f"{name} (macro)": test["macro"][name] for name in ("precision", "recall", "f1", "specificity")}
  lines = [
    f"Classification on the test part, by slice: {heading(summary)}",
    f"{test['patients']} patients, {test['slices']} slices, {test['tumor_slices']} of them with a tumour; threshold "
    f"{summary['threshold']:.2f} ({summary['threshold_from']})",
    "",
    *(f"{name:24}{_show(value):>8}" for name, value in (overall | macro).items()),
    "",
    f"{'confusion':24}{'none predicted':>16}{'tumour predicted':>18}",
    f"{'no tumour':24}{counts['tn']:>16}{counts['fp']:>18}",
    f"{'tumour':24}{counts['fn']:>16}{counts['tp']:>18}",
    "",
    *paper.table2_lines(test["per_class"], summary["model"]),
    "",
    *paper.NOTE.splitlines(),
    f"A class never predicted has precision 0; one that is not there has none. {_NOT_CLINICAL}",
  ]
  return "\n".join(lines)


_WAYS = {
  "classifier": "the classifier alone",
  "mask": "the mask alone: its area and highest probability",
  "both": "both, fitted on the validation part",
  "paper_rule": "the classifier, unless the mask is empty",
}


def cascade_table(summary: dict[str, Any]) -> str:
  """The table of a cascade's `summary.json` as text."""
  test, gate = summary["test"], summary["test"]["gate"]
  alone, gated = test["segmentation"]["alone"], test["segmentation"]["gated"]
  pairs = {
    "dice, pixels pooled": (alone["pooled"]["dice"], gated["pooled"]["dice"]),
    "dice, volume mean": (alone["patient"]["dice_mean"], gated["patient"]["dice_mean"]),
    "dice, volume median": (alone["patient"]["dice_median"], gated["patient"]["dice_median"]),
    "dice, slice mean (1)": (alone["slice"]["dice_empty_is_one"], gated["slice"]["dice_empty_is_one"]),
    "dice, slice mean (2)": (alone["slice"]["dice_nonempty_truth"], gated["slice"]["dice_nonempty_truth"]),
    "precision, pixels pooled": (alone["pooled"]["precision"], gated["pooled"]["precision"]),
    "recall, pixels pooled": (alone["pooled"]["recall"], gated["pooled"]["recall"]),
    "false positives on healthy slices": (gate["false_positive_rate"], gate["false_positive_rate_gated"]),
  }
  names = ("accuracy", "roc_auc", "average_precision", "ece", "precision", "recall", "specificity", "f1")
  lost = ", ".join(gate["patients_missed_by_gate"]) or "none"
  lines = [
    f"Cascade on the test part: {heading(summary)}",
    f"classifier {summary['classifier']['model']}, segmenter {summary['segmenter']['model']}; {alone['patients']} patients, "
    f"{alone['slices']} slices, {alone['tumor_slices']} of them with a tumour",
    f"gate: an empty mask where the classifier says less than {summary['gate']['threshold']:.4f}, chosen on the validation "
    f"part to keep {summary['gate']['sensitivity_asked']:.1%} of the slices with a tumour",
    "",
    f"{'segmentation':36}{'without gate':>14}{'with gate':>14}",
    *(f"{name:36}{_show(before):>14}{_show(after):>14}" for name, (before, after) in pairs.items()),
    f"healthy slices with a false positive: {gate['false_positives']} without, {gate['false_positives_gated']} with, of "
    f"{gate['healthy_slices']}",
    f"slices with a tumour missed by the gate: {gate['tumor_slices_missed_by_gate']} of {gate['tumor_slices']} (sensitivity "
    f"{_show(gate['sensitivity'])}), {gate['of_these_found_by_segmenter']} of them found by the segmenter; patients missed "
    f"altogether: {lost}",
    "",
    f"{'tumour or none, by slice':52}"
    + "".join(f"{name.replace('average_precision', 'avg_prec'):>12}" for name in names),
  ]
  for way, values in test["classification"].items():
    numbers = {**values["per_class"]["tumor"], **values}
    lines.append(f"{_WAYS[way]:52}" + "".join(f"{_show(numbers[name]):>12}" for name in names))
  lines += [
    "",
    f"(1) {EMPTY_RULES['empty_is_one']}. (2) {EMPTY_RULES['nonempty_truth']}. Pooled and per volume, an all-empty pair counts 1.",
    f"Precision, recall, specificity and F1 by slice are those of tumour; every threshold is from the validation part. {_NOT_CLINICAL}",
  ]
  return "\n".join(lines)


def heading(summary: dict[str, Any]) -> str:
  """Data and split, for the head of every table and figure."""
  leak = ", slices of one patient in training and test, volumes of test slices only" if summary["leaky"] else ""
  return f"{summary['data']}, {summary['split']}{leak}"


def _show(value: float | None) -> str:
  return "-" if value is None else f"{value:.4f}"
