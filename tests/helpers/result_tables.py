"""The tables of documents that grow with the cross-validation: python -m tests.helpers.result_tables writes them anew.

It makes them from the records of its groups of folds under docs/results, and a test checks that the documents have them.
"""

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.evaluation.record_tables import Tables, read_run
from bt_jax.tasks import TASKS
from tests.helpers.launching import ROOT

RESULTS = ROOT / "docs/results"
GROUPS = "lite_unet_all"  # the folder of the cross-validation of all patients
PAGE, CARD = ROOT / "docs/results.md", ROOT / "bt_jax/zoo/lgg.md"
# The columns of the tables, by their place in a summary.
COLUMNS = {"pixels pooled": ("pooled", "dice"), "volume mean": ("patient", "dice_mean"), "volume median": ("patient", "dice_median"),
           "slices found": ("detection", "sensitivity"), "false alarms": ("detection", "false_positive_rate")}  # fmt: skip


def cells(numbers: dict[str, Any]) -> Iterator[str]:
  """As the tables print them: value and interval, if there are patients enough for one, three digits."""
  for group, name in COLUMNS.values():
    value, interval = numbers[group][name], numbers[group][f"{name}_ci95"]
    yield ("-" if value is None else f"{value:.3f}") + (
      f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    )


def _cells_of(rows: list[dict[str, Any]]) -> list[str]:
  return list(cells(TASKS["segmentation"].summarize(rows, intervals=True)))


def _counted(rows: list[dict[str, Any]]) -> str:
  patients = len({row["patient"] for row in rows})
  return (
    f"{patients} patient{'s' * (patients > 1)}, {len(rows)} slices, {sum(row['label'] for row in rows)} with a tumour"
  )


def _table(first: str, lines: list[list[str]]) -> str:
  head = [first, *COLUMNS]
  first_line, *others = (f"| {' | '.join(line)} |" for line in (head, *lines))
  return "\n".join([first_line, "|---" * len(head) + "|", *others])


Groups = dict[str, Tables]  # by the link to the folder of their records


def _groups(groups: Groups) -> str:
  rows_of = {name: tables.slices for name, tables in groups.items()}
  return _table("record", [[f"{name}, {_counted(rows)}", *_cells_of(rows)] for name, rows in rows_of.items()])


def _reference_alone(groups: Groups) -> str:
  every = Tables.joined(list(groups.values()))
  alone = lambda tables: _cells_of([row for row in tables.baselines if row["baseline"] == f"{INFO.reference}_only"])
  words, together = f"{INFO.reference_title} in all channels", f"all groups above, {_counted(every.slices)}"
  lines = [[f"{name}, {words}", *alone(tables)] for name, tables in groups.items()]
  both = [[f"{together}, {words}", *alone(every)], [f"{together}, all sequences", *_cells_of(every.slices)]]
  return _table("record", lines + both)


def _sites(groups: Groups) -> str:
  every = Tables.joined(list(groups.values()))
  site_of = {row["patient"]: row["site"] for row in every.patients}
  rows_of = {site: [row for row in every.slices if site_of[row["patient"]] == site] for site in set(site_of.values())}
  return _table("hospital", [[f"{site}, {_counted(rows)}", *_cells_of(rows)] for site, rows in sorted(rows_of.items())])


def _sizes(groups: Groups) -> str:
  """The volumes in quarters by the size of their true masks, with the range of Dice in each."""
  every = Tables.joined(list(groups.values()))
  ranked = sorted(every.patients, key=lambda row: row["truth_voxels"])
  quarters = [[ranked[index] for index in part] for part in np.array_split(np.arange(len(ranked)), 4)]
  lines = []
  for name, members in zip(("smallest quarter", "second", "third", "largest"), quarters, strict=True):
    patients, dice = {row["patient"] for row in members}, [row["dice"] for row in members]
    low, high = members[0]["truth_voxels"], members[-1]["truth_voxels"]
    first = f"{name}: {len(members)} volumes of {low:,} to {high:,} pixels, Dice {min(dice):.3f} to {max(dice):.3f}"
    lines.append([first, *_cells_of([row for row in every.slices if row["patient"] in patients])])
  return _table("true mask", lines)


_MAKERS = {"groups": _groups, "FLAIR alone": _reference_alone, "sites": _sites, "sizes": _sizes}


def renewed(document: pathlib.Path) -> str:
  """The text of a document with the tables between its comments `<!-- name -->` and `<!-- end of name -->` made anew."""
  text, path = document.read_text(encoding="utf-8"), os.path.relpath(RESULTS, document.parent)
  folders = sorted((RESULTS / GROUPS).glob("folds_*"))
  name_of = {folder: f"{GROUPS}/{folder.name}" for folder in folders}
  groups = {f"[`{name}`]({path}/{name})": read_run(folder)[1] for folder, name in name_of.items()}
  between = lambda match: f"{match[1]}\n{_MAKERS[match[2]](groups)}\n<!-- end of {match[2]} -->"
  return re.sub(r"(<!-- (.*) -->)\n(?:.*\n)*?<!-- end of \2 -->", between, text)


if __name__ == "__main__":
  for document in (PAGE, CARD):
    document.write_text(renewed(document), encoding="utf-8")
