"""What a finished run left in its folder, read for the report."""

import pathlib
from typing import Any, NamedTuple

from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.report.page.words import plain

Row = dict[str, Any]
_WORDS = {"data", "split", "case", "patient", "site"}  # columns that are words even where they look like numbers


class Record(NamedTuple):
  """A finished run.

  Attributes:
    folder: of the run.
    summary: of `summary.json`.
    config: of `config.json`; empty where there is none.
    rows: of `slices.csv`.
    patients: of `patients.csv`, where there is one.
    history: of `metrics.csv`, where there is one.
    reliability: of `reliability.csv`, where there is one.
    table: of `table.txt`.
  """

  folder: pathlib.Path
  summary: dict[str, Any]
  config: dict[str, Any]
  rows: list[Row]
  patients: list[Row]
  history: list[Row]
  reliability: list[Row]
  table: str

  @property
  def task(self) -> str:
    """Segmentation, classification or cascade."""
    return "cascade" if "segmenter" in self.summary else self.summary["task"]


def read(folder: pathlib.Path) -> Record:
  """The run in a folder; a number that is not finite is None.

  Raises:
    UserError: there is no finished run, or one without any slice.
  """
  for name in ("summary.json", "slices.csv"):
    if not (folder / name).is_file():
      raise UserError(
        f"{folder} holds no finished run: {name} is missing, expected one that was evaluated; run --mode=train"
      )
  rows = _rows(folder / "slices.csv")
  if not rows:
    raise UserError(f"{folder / 'slices.csv'} has no rows, expected one for each test slice: run --mode=evaluate again")
  config, table = folder / "config.json", folder / "table.txt"
  return Record(
    folder,
    plain(files.read_json(folder / "summary.json")),
    files.read_json(config) if config.is_file() else {},
    rows,
    *(_rows(folder / f"{name}.csv") for name in ("patients", "metrics", "reliability")),
    table.read_text(encoding="utf-8") if table.is_file() else "",
  )


def _rows(path: pathlib.Path) -> list[Row]:
  if not path.is_file():
    return []
  words = lambda row: {name: str(row[name]) for name in _WORDS if name in row}
  return [plain(row | words(row)) for row in files.read_csv(path)]
