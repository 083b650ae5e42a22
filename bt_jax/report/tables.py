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


def heading(summary: dict[str, Any]) -> str:
  """Data and split, for the head of every table and figure."""
  leak = ", slices of one patient in training and test, volumes of test slices only" if summary["leaky"] else ""
  return f"{summary['data']}, {summary['split']}{leak}"


def _show(value: float | None) -> str:
  return "-" if value is None else f"{value:.4f}"
