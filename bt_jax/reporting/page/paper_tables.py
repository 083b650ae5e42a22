"""The paper's Tables 2 and 3 with our values beside the printed ones, and results of others."""

from typing import Any

from bt_jax.paper import published_values
from bt_jax.reporting.page.html_tables import Cell, Table, measured, table, text, value
from bt_jax.reporting.page.phrases import model

_ROWS = {"support": "support", "accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "dsc": "DSC",
         "iou": "IoU", "si": "SI"}  # fmt: skip
_KINDS = ("no_tumor", "tumor")


def table2(per_class: dict[str, dict[str, Any]], title: str) -> Table:
  """Table 2; `title` names what classified the slices."""
  rows = []
  for name, (cnn, resnet) in published_values.PRINTED.items():
    if name == "support":
      ours = [value(per_class[kind].get("support")) for kind in _KINDS]
    else:
      ours = [measured(per_class[kind], published_values.same_as(name)) for kind in _KINDS]
    printed = [Cell(one.replace("-", "not printed")) for one in (*cnn, *resnet)]
    rows.append([text(_ROWS[name]), *ours, *printed])
  heads = ("", "ours, no tumour", "ours, tumour", "CNN, no tumour", "CNN, tumour", "ResNet50, no tumour", "ResNet50, tumour")  # fmt: skip
  doubts = "; ".join(
    f"{_ROWS[name]}: {why.removeprefix('CNN: ')}" for name, why in published_values.CANNOT_HOLD.items()
  )
  return table(f"The paper's Table 2: slices classified by {title}, beside the printed values", heads, rows,
               [f"The printed values of the CNN contradict one another. {doubts}.", " ".join(published_values.NOTE.split())])  # fmt: skip


def table3(summary: dict[str, Any]) -> Table:
  """Table 3: this run and the baselines on the same slices, beside the printed values."""
  baselines = {baseline["name"]: baseline for baseline in summary["baselines"]}
  rows = [_line(f"this run: {model(summary)}", summary["test"], published_values.TABLE3[None], "")]
  for name, printed in published_values.TABLE3.items():
    if name is not None and name not in baselines:
      rows.append(_line(printed.by, {}, printed, "not run here"))
  for name, baseline in baselines.items():
    rows.append(_line(baseline["title"], baseline["test"], published_values.TABLE3.get(name), ""))
  heads = (
    "",
    "Dice, pixels pooled",
    "Dice, volume mean",
    "IoU, pixels pooled",
    "printed in the paper",
    "measured elsewhere, on",
  )
  notes = [
    "Dice and IoU: ours, on this run's test slices. The printed values were measured elsewhere, on other data; they are no "
    "comparison.",
    published_values.TABLE3_NOTE,
  ]
  return table("The paper's Table 3, beside methods of the same kind on these slices", heads, rows, notes)


def _line(title: str, test: dict[str, Any], printed: published_values.Published | None, why: str) -> list[Cell]:
  reason = {"why": why} if why else {}
  return [
    text(title),
    measured(test.get("pooled"), "dice", **reason),
    measured(test.get("patient"), "dice_mean", **reason),
    measured(test.get("pooled"), "iou", **reason),
    text(printed.result if printed else "not in the paper"),
    text(f"{printed.data}{', slices at random (leaks)' if printed.leaks else ''}" if printed else ""),
  ]


def baselines(summary: dict[str, Any]) -> Table:
  """A classifier beside the baselines, by slice."""
  names = ("accuracy", "roc_auc", "specificity")
  evaluated = [
    (f"this run: {model(summary)}", summary["test"]),
    *((one["title"], one["test"]) for one in summary["baselines"]),
  ]
  names = [name for name in names if any(name in test for _, test in evaluated)]
  rows = [[text(title), *(measured(test, name) for name in names)] for title, test in evaluated]
  return table("Beside other predictions of these slices", ("", *names), rows)


def anchors() -> Table:
  """Results of others on this data set, with their own splits."""
  rows = [
    [text(one.by), text(one.result), text(f"{one.data}{' (leaks)' if one.leaks else ''}")]
    for one in published_values.ANCHORS
  ]
  notes = [
    "Measured elsewhere, on other splits of the same 110 patients: compare only where the split is of the same kind."
  ]
  return table("Published on this data set", ("by", "result", "test slices drawn by"), rows, notes)
