"""Writes the `summary.json` of a run, reads it back by its schema, and marks finished runs."""

import pathlib
from collections.abc import Iterable
from typing import Any

from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.evaluation.bootstrap import FEWEST
from bt_jax.evaluation.summary_schema import CI, FORMAT, Cascade, Summary

_FINISHED, _REPORT = "finished.json", "report.html"
_TABLES = ("slices.csv", "patients.csv", "reliability.csv", "baselines.csv")
_BESIDE = ("metrics.csv", "config.json")  # optional: the report works without them
_PICTURES = ("figures/*.png", "volumes/*/*.png")  # optional images of the report


def write_summary(folder: pathlib.Path, summary: dict[str, Any]) -> pathlib.Path:
  """Writes `summary.json` with its own SHA-256 and those of the other files, which must be in the folder already."""
  paths = [folder / name for name in (*_TABLES, *_BESIDE) if (folder / name).is_file()]
  paths += [path for pattern in _PICTURES for path in sorted(folder.glob(pattern))]
  of_files = {path.relative_to(folder).as_posix(): files.sha256_of([path]) for path in paths}
  return files.write_json(folder / "summary.json", files.sealed({"format": FORMAT, **summary, "files": of_files}))


def check_files(folder: pathlib.Path, summary: dict[str, Any]) -> None:
  """Raises UserError if a file was changed since the summary was made; older summaries do not record this."""
  for name, expected in summary.get("files", {}).items():
    path = folder / name
    if path.is_file() and files.sha256_of([path]) != expected:
      raise files.damaged(path, "it was changed since summary.json was made", files.EVALUATE)
    if name in _TABLES and not path.is_file():
      raise UserError(f"{path} is missing: {files.EVALUATE}", *files.EVALUATE.arguments)


def read_summary(folder: pathlib.Path) -> dict[str, Any]:
  """Reads the `summary.json` of a run or of a cascade.

  Raises:
    UserError: there is none, it has a newer format or wrong types, or it was changed since it was written.
  """
  path = folder / "summary.json"
  if not path.is_file():
    raise UserError(f"{folder} holds no finished run, as it has no summary.json: name the folder of one, or finish it")
  content = files.read_json(path, dict, files.EVALUATE)
  if {"sha256", "format"} <= content.keys() and files.is_sealed(content):  # otherwise the type check reports the fault
    files.check_format(content, FORMAT, path, content["versions"]["bt_jax"], files.EVALUATE)
  files.check(Cascade if "segmenter" in content else Summary, content, path, files.EVALUATE)
  return _with_meaningful_intervals(files.check_seal(content, path, files.EVALUATE), content["intervals"]["patients"])


def _with_meaningful_intervals(content: Any, patients: int) -> Any:
  """The same summary without intervals of few patients or of no width, which earlier versions wrote.

  Args:
    content: a summary or a part of it.
    patients: of the part around it.
  """
  if not isinstance(content, dict):
    return [_with_meaningful_intervals(part, patients) for part in content] if isinstance(content, list) else content
  if "group" in content:  # a subgroup of the patients
    patients = content["patients"]
  dropped = lambda name, value: name.endswith(CI) and value and (patients < FEWEST or value[0] == value[1])
  return {
    name: None if dropped(name, value) else _with_meaningful_intervals(value, patients)
    for name, value in content.items()
  }


def mark_finished(folder: pathlib.Path) -> None:
  """Marks the results of a run as complete; the last file to be written."""
  files.write_json(folder / _FINISHED, {"format": FORMAT})


def unmark_finished(folder: pathlib.Path) -> None:
  """Marks the results of a run as incomplete, before they are written."""
  for name in (_FINISHED, _REPORT):
    (folder / name).unlink(missing_ok=True)


def is_finished(folder: pathlib.Path) -> bool:
  """Whether the results of the run in a folder are complete; in older runs the report was the last file written."""
  return (folder / _FINISHED).is_file() or (folder / _REPORT).is_file()


def need(path: pathlib.Path, group: dict[str, Any], names: Iterable[str], where: str) -> None:
  """Raises UserError if a group of a summary lacks one of these statistics, by dotted name, or its interval."""
  for name in names:
    *groups, last = name.split(".")
    inner = group
    for step in groups:
      inner = inner.get(step) if isinstance(inner, dict) else None
    for key in (last, f"{last}{CI}"):
      if not isinstance(inner, dict) or key not in inner:
        raise files.damaged(path, f"{where} lacks {'.'.join((*groups, key))}", files.EVALUATE)
