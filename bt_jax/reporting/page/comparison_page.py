"""The page of a comparison: the second run minus the first, patient by patient."""

import pathlib
from collections.abc import Sequence
from typing import Any

from bt_jax import files
from bt_jax.reporting.page import charts, html, html_tables, phrases, sections
from bt_jax.reporting.page.charts import Chart
from bt_jax.reporting.page.html_tables import Cell, Table, measured, table, text, value
from bt_jax.reporting.page.sections import Section
from bt_jax.tasks import TASKS

_SIDES = ("first", "second")
_NOTE = (
  "For surface distances (HD95, ASSD) and false positives lower is better, otherwise higher. The p of Wilcoxon's signed-rank test is not "
  "corrected for the number of rows."
)


def write_report(workdir: pathlib.Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> pathlib.Path:
  """Writes `report.html` of a comparison in a folder.

  Args:
    workdir: the folder.
    summary: content of `comparison.json`.
    rows: rows of `differences.csv`: `patient`, and each statistic of it in both runs.
  """
  ranked = TASKS[summary["task"]].by_patient[0]
  page = html.render(
    title="Second run minus first",
    task="two runs on the same test set",
    split=phrases.split(summary),
    data=summary["data"],
    notices=phrases.notices(summary),
    sentences=[_result(summary), _patients_in_words(summary["patients"][ranked], ranked), _protocol(summary)],
    headline=phrases.headline(
      [(f"{_title(name)}, difference", row, "difference", _from_to(row)) for name, row in summary["headline"].items()]
    ),
    sections=[
      _scores(summary),
      Section(
        "patients",
        "Patient by patient",
        tables=[_paired(summary)],
        charts=_drawn(rows, ranked),
        folded=[_patients(rows, summary)],
      ),
      _runs(workdir, summary),
    ],
  )
  return files.write_bytes(workdir / html.NAME, page)


def _title(name: str) -> str:
  title = html_tables.title(name)
  return title[0].upper() + title[1:]


def _from_to(row: dict[str, Any]) -> str:
  return f"from {phrases.number(row['first'])} to {phrases.number(row['second'])}"


def _result(summary: dict[str, Any]) -> str:
  name, row = next(iter(summary["headline"].items()))
  level = (
    f" ({phrases.level(summary)} interval {phrases.interval(row['difference_ci95'])})" if row["difference_ci95"] else ""
  )
  return (
    f"On {summary['slices']:,} test slices of {summary['intervals']['patients']} patients, {html_tables.title(name)}, is "
    f"{phrases.number(row['first'])} in the first run and {phrases.number(row['second'])} in the second: a difference of "
    f"{phrases.number(row['difference'])}{level}."
  )


def _patients_in_words(paired: dict[str, Any], name: str) -> str:
  test = (
    f"no test: {paired['why']}"
    if paired["p"] is None
    else f"p {phrases.number(paired['p'], 'p')} by Wilcoxon's signed-rank test"
  )
  return (
    f"By patient, {html_tables.title(name)} is higher in the second run for {paired['higher']}, equal for {paired['equal']} and lower for "
    f"{paired['lower']}; {test}."
  )


def _protocol(summary: dict[str, Any]) -> str:
  return f"Protocol: {phrases.split(summary)} of {summary['data']}, both runs on the same slices; {phrases.intervals(summary)}."


def _scores(summary: dict[str, Any]) -> Section:
  tables = [_differences("Both runs and their difference", summary["headline"])]
  tables += [_differences(f"Of {name}", rows) for name, rows in summary.get("classes", {}).items()]
  return Section("scores", "Scores", tables=tables)


def _differences(caption: str, rows: dict[str, dict[str, Any]]) -> Table:
  lines = [
    [text(html_tables.title(name)), *(value(row[side], "share") for side in _SIDES), measured(row, "difference")]
    for name, row in rows.items()
  ]
  return table(caption, ("", *_SIDES, "second \N{MINUS SIGN} first"), lines)


def _paired(summary: dict[str, Any]) -> Table:
  lines = [
    [
      text(html_tables.title(name)),
      measured(row, "mean"),
      measured(row, "median"),
      *(value(row[count]) for count in ("higher", "equal", "lower")),
      value(row["p"], "p", why=f"no test: {row['why']}"),
    ]
    for name, row in summary["patients"].items()
  ]
  heads = ("", "mean of differences", "median", "higher", "equal", "lower", "Wilcoxon p")
  least = phrases.number(2 / 2 ** summary["intervals"]["patients"], "p")
  return table(
    "Differences of the patients",
    heads,
    lines,
    [f"{_NOTE} With this many patients it cannot be below {least.lstrip('<')}."],
  )


def _drawn(rows: Sequence[dict[str, Any]], name: str) -> list[Chart]:
  pairs = [(row[f"{name}_first"], row[f"{name}_second"]) for row in rows]
  known = [pair for pair in pairs if None not in pair]
  return [charts.both_runs(known, _title(name))] if known else []


def _patients(rows: Sequence[dict[str, Any]], summary: dict[str, Any]) -> Table:
  kinds = {"hd95": "distance", "assd": "distance"}
  names = list(summary["patients"])
  columns = [f"{html_tables.title(name)}, {side}" for name in names for side in _SIDES]
  cell = lambda row, name, side: value(row[f"{name}_{side}"], kinds.get(name, "share"))
  lines = [[text(row["patient"]), *(cell(row, name, side) for name in names for side in _SIDES)] for row in rows]
  return table("Every patient in both runs", ("patient", *columns), lines, sortable=True)


def _runs(workdir: pathlib.Path, summary: dict[str, Any]) -> Section:
  lines = []
  for side in _SIDES:
    run = pathlib.Path(summary[side]["run"])
    facts: list[Cell] = [text(run.name, link=sections.link(workdir, run)), text(phrases.title(summary[side]["model"]))]
    lines.append([text(side), *facts, text(summary[side]["commit"] or "not known")])
  return Section(
    "run",
    "The two runs",
    ["A run whose folder is neither here nor beside this one is named without a link."],
    [table("Runs compared", ("", "run", "network", "commit"), lines)],
  )
