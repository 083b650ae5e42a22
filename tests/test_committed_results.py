"""The records under docs/results: sound, of one split each, and the source of every number in the tables of documents."""

import re

import pytest

from bt_jax import files
from bt_jax.evaluation.record_tables import read_run
from bt_jax.tasks import TASKS
from tests.helpers.launching import ROOT
from tests.helpers.result_tables import CARD, COLUMNS, PAGE, RESULTS, cells, renewed

RUNS = sorted(str(path.parent.relative_to(RESULTS)) for path in RESULTS.rglob("summary.json"))
# Rows of the table that are not of the network itself, by what they are called there and in the records.
BASELINES = {
  "FLAIR in all channels": "flair_only",
  "copy of the nearest training slice": "copy_nearest",
  "threshold and morphology": "morphological",
  "k-means": "kmeans",
  "multi-level Otsu": "otsu",
  "Darwinian particle swarm": "darwinian_pso",
  "particle swarm in random order": "random_order_pso",
  "empty mask": "nothing",
}


def documented(*documents):
  """From the first cell of each line of the tables that names a run to its other cells."""
  lines = [
    line
    for path in documents
    for line in re.findall(r"^\| \[`([\w./-]+)`\]\(.*?results/[\w./-]+\)(.*?) \| (.*) \|$", path.read_text(), re.M)
  ]
  return [(run, what, line.split(" | ")) for run, what, line in lines]


CARDS = sorted((ROOT / "bt_jax/zoo").glob("*.md"))


@pytest.mark.parametrize("run", RUNS)
def test_a_record_is_whole_and_its_numbers_come_out_of_its_rows(run):
  folder = RESULTS / run
  summary, tables = read_run(folder)
  split = files.read_json(folder / "split.json")
  assert [f"{row['case']}/{row['slice']}" for row in tables.slices] == list(split["test"])
  assert split["hash"] == summary["split_hash"] and not summary["commit"].endswith("-dirty")
  patient = lambda name: name.split("/")[0].rpartition("_")[0]
  if not split["leaky"]:
    seen = {patient(name) for part in ("train", "validation") for name in split[part]}
    assert seen.isdisjoint(row["patient"] for row in tables.slices)
  found = TASKS[summary["task"]].summarize(tables.slices, intervals=True)
  for group, name in COLUMNS.values():
    assert found[group][name] == pytest.approx(summary["test"][group][name])


@pytest.mark.parametrize(("run", "what", "line"), documented(PAGE, ROOT / "README.md", *CARDS))
def test_the_table_of_results_is_that_of_the_records(run, what, line):
  summary, tables = read_run(RESULTS / run)
  rows = tables.slices
  for name, baseline in BASELINES.items():
    if f", {name}" in what:
      rows = [row for row in tables.baselines if row["baseline"] == baseline]
  if "volumes with a tumour" in what:
    with_tumour = {row["patient"] for row in tables.slices if row["label"]}
    assert f" {len(with_tumour)} volumes with a tumour" in what
    rows = [row for row in rows if row["patient"] in with_tumour]
  expected = list(cells(TASKS[summary["task"]].summarize(rows, intervals=True)))
  if len(line) > len(expected):  # the validation set of the whole record, of which no rows are kept
    whole = rows is tables.slices
    expected += [f"{summary['validation'][name]:.3f}" if whole else "-" for name in ("pooled_dice", "dice_mean")]
  assert line == expected


def test_every_record_is_in_the_table():
  assert {run for run, *_ in documented(PAGE)} == set(RUNS)


@pytest.mark.parametrize(
  ("document", "names"), [(PAGE, ["groups", "sizes"]), (CARD, ["groups", "FLAIR alone", "sites"])]
)
def test_tables_of_the_cross_validation_are_those_of_all_its_records(document, names):
  text = document.read_text(encoding="utf-8")
  assert re.findall(r"<!-- end of (.*) -->", text) == names
  assert text == renewed(document), "write them anew: python -m tests.helpers.result_tables"
