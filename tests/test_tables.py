"""What a run's tables must be before anything is made of them; each of these once ended in a stack trace."""

import json

import pytest

from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.evaluation.record_tables import kind_of, read_run
from tests.helpers.made_up_runs import segmentation


def without(path, name):
  content = json.loads(path.read_text())
  *groups, last = name.split(".")
  place = content
  for group in groups:
    place = place[group]
  del place[last]
  content.pop("sha256", None)  # as runs of earlier versions are
  files.write_json(path, content)


def lines(path, change):
  head, *rest = path.read_text().splitlines()
  path.write_text("\n".join([head, *change(rest)]) + "\n")


BROKEN = {
  "no JSON": (lambda folder: (folder / "summary.json").write_text("{"), "summary.json is damaged"),
  "no object": (lambda folder: (folder / "summary.json").write_text("[]"), "summary.json is damaged or of another version .it is .., expected a valid dictionary"),
  "no task": (lambda folder: without(folder / "summary.json", "task"), "it lacks task"),
  "edited": (
    lambda folder: files.write_json(folder / "summary.json", files.read_json(folder / "summary.json") | {"threshold": 0.4}),
    "summary.json is damaged or of another version .its SHA-256",
  ),
  "no pooled": (lambda folder: without(folder / "summary.json", "test.pooled"), "test lacks pooled"),
  "no interval": (lambda folder: without(folder / "summary.json", "test.pooled.dice_ci95"), "test lacks pooled.dice_ci95"),
  "binary": (lambda folder: (folder / "slices.csv").write_bytes(b"\x00\xff\xfe\x80"), "slices.csv is damaged"),
  "cut": (lambda folder: lines(folder / "slices.csv", lambda rest: rest[:-1]), "patients.csv is damaged .*slices of patient case C is 4, and slices.csv gives 3"),
  "nan": (
    lambda folder: lines(folder / "slices.csv", lambda rest: [*rest[:-1], rest[-1].rpartition(",")[0] + ",nan"]),
    r"slices.csv is damaged .*\(row 17, column probability_calibrated: 'nan', expected a valid number\)",
  ),
  "no patients": (lambda folder: (folder / "patients.csv").unlink(), "patients.csv is missing or has no rows"),
  "patient lost": (lambda folder: lines(folder / "patients.csv", lambda rest: rest[1:]), "patients.csv does not have"),
  "patient twice": (lambda folder: lines(folder / "patients.csv", lambda rest: [*rest, rest[0]]), "patients.csv does not have"),
  "bins lost": (lambda folder: lines(folder / "reliability.csv", lambda rest: rest[1:]), "each of 2 x 10 bins once for each patient"),
  "baseline cut": (
    lambda folder: files.write_csv(
      folder / "baselines.csv", files.read_csv(folder / "baselines.csv", kind_of)[1:]
    ),
    "baselines.csv has other slices for otsu",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tables_are_refused_in_one_line(name, tmp_path):
  folder = segmentation(tmp_path)
  read_run(folder)
  damage, message = BROKEN[name]
  damage(folder)
  with pytest.raises(UserError, match=message) as told:
    read_run(folder)
  assert "\n" not in str(told.value) and str(folder) in str(told.value)


def test_nothing_there(tmp_path):
  with pytest.raises(UserError, match="holds no finished run"):
    read_run(tmp_path / "none")
