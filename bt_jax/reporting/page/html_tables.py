"""What the tables of the report are made of: cells with their intervals, and a note for every missing value."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bt_jax.evaluation.bootstrap import FEWEST
from bt_jax.reporting.page.phrases import MISSING, interval, number

Group = dict[str, Any]
_NO_VALUE = "no value, as there is nothing here to measure it on"
_NO_LIMITS = f"no limits of agreement, as there are fewer than {FEWEST} patients"
_NO_INTERVAL = f"Without an interval: fewer than {FEWEST} patients, or too few of them with a value."
# Titles of statistics whose names do not read well.
TITLES = {
  "pooled_dice": "Dice, pixels pooled", "dice_mean": "Dice, volume mean", "dice_median": "Dice, volume median", "roc_auc": "ROC AUC", "ece": "calibration error",
  "error_mean": "predicted minus true volume, mean", "limits_low": "95 % limits of agreement, lower",
  "limits_high": "95 % limits of agreement, upper", "absolute_error_mean": "absolute error, mean",
  "absolute_error_median": "absolute error, median", "absolute_error_of_total": "absolute errors, share of the true volume",
  "hd95_mean": "HD95, mean", "hd95_median": "HD95, median", "hd95_std": "HD95, standard deviation",
  "hd95_q25": "HD95, lower quartile", "hd95_q75": "HD95, upper quartile", "assd_mean": "mean surface distance, mean",
  "assd_median": "mean surface distance, median", "assd_std": "mean surface distance, standard deviation",
  "assd_q25": "mean surface distance, lower quartile", "assd_q75": "mean surface distance, upper quartile",
  "false_positive_rate": "healthy slices with false positives", "sensitivity": "slices with a tumour found",
  "average_precision": "average precision", "f1": "F1", "iou": "IoU", "dice": "Dice", "hd95": "HD95", "assd": "ASSD", "tumor_slices": "with tumour",
  "angular_std": "angular standard deviation", "error_share": "wrong pixels near the outline, among all wrong pixels",
  "dice_without_others": "Dice if all others were corrected, volume mean",
}  # fmt: skip


class Cell(NamedTuple):
  """One cell of a table.

  Attributes:
    text: the text shown.
    interval: the interval, shown in grey after the text.
    order: the sort key in a column; None comes last.
    number: whether the text is aligned to the right.
    why: the reason for a missing value, shown once under the table.
    case: the case that a click shows in the viewer, if any.
    shade: shade of the background, 0..1; None for no shade.
    link: relative address of another report, if any.
  """

  text: str
  interval: str = ""
  order: float | str | None = None
  number: bool = True
  why: str = ""
  case: str = ""
  shade: float | None = None
  link: str = ""


class Table(NamedTuple):
  """A table of the report; `columns` are the headings, and the first cell of each row is its name."""

  caption: str
  columns: list[str]
  rows: list[list[Cell]]
  notes: list[str]
  sortable: bool = False


def table(
  caption: str, columns: Sequence[str], rows: list[list[Cell]], notes: Sequence[str] = (), sortable: bool = False
) -> Table:
  """Makes a table with the reasons for missing values under it."""
  reasons = dict.fromkeys(cell.why for row in rows for cell in row if cell.why)
  return Table(caption, list(columns), rows, [*notes, *reasons], sortable)


def text(content: object, **options: Any) -> Cell:
  """A cell with text."""
  return Cell(str(content), order=str(content), number=False, **options)


def value(content: float | int | None, kind: str = "count", *, why: str = _NO_VALUE) -> Cell:
  """A cell with a number; `why` is the reason if it is None."""
  if content is None:
    return Cell(MISSING, why=f"“{MISSING}”: {why}.")
  return Cell(number(content, kind), order=content)


def measured(group: Group | None, name: str, kind: str = "share", *, why: str = _NO_VALUE) -> Cell:
  """A cell with one statistic of a summary and its interval."""
  group = group or {}
  cell = value(group.get(name), kind, why=why)
  if cell.order is None or f"{name}_ci95" not in group:
    return cell
  pair = group[f"{name}_ci95"]
  return cell._replace(interval=interval(pair, kind)) if pair else cell._replace(why=_NO_INTERVAL)


def title(name: str) -> str:
  """The title of a statistic."""
  return TITLES.get(name, name.replace("_", " "))


_COUNTS = ("patients", "slices", "tumor_slices", "temperature")


def numbers_of(group: Group, counts: tuple[str, ...] = _COUNTS) -> list[str]:
  """The names of the statistics in a group, without intervals and `counts`."""
  return [
    name
    for name, content in group.items()
    if not name.endswith(("_ci95", "why")) and name not in counts and isinstance(content, float | int | None)
  ]


def listed(caption: str, group: Group, kind: str, notes: Sequence[str] = ()) -> Table:
  """Every statistic of a flat group on a line of its own; shares are recognised by name."""
  shares = ("_of_total", "_rate")
  kind_of = lambda name: "share" if name.endswith(shares) else kind
  why_of = lambda name: _NO_LIMITS if name in ("limits_low", "limits_high") else _NO_VALUE
  rows = [[text(title(name)), measured(group, name, kind_of(name), why=why_of(name))] for name in numbers_of(group)]
  return table(caption, ("", "test set"), rows, notes)
