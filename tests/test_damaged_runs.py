"""Every file of a run with something changed in it: refused in one line, or nothing comes out that is different."""

import copy
import csv
import io
import json
import random
import shutil

import numpy as np
import pytest

from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.evaluation.summary_files import write_summary
from bt_jax.inference import writer
from bt_jax.modes import compare, pool, report
from bt_jax.pretrained import conversion
from bt_jax.reporting.page import html
from bt_jax.runs import warm_start
from tests.helpers.made_up_runs import KINDS

WRONG = ("x", "1x2", "=1+1", "1e999", "-1e999", "NaN", "nan", "-1", "")
SHAPES = ([], {}, "x", [[1]], {"a": {"b": 1}}, True, -1, 1e300)
TABLES = ("slices.csv", "patients.csv", "reliability.csv", "baselines.csv", "metrics.csv")


def places_in(content, path=()):
  """Every place of nested JSON."""
  inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
  for name, value in inner:
    yield (*path, name)
    yield from places_in(value, (*path, name))


def damage_json(text, rng):
  """JSON with a key gone or a value changed to another type, and what was done."""
  content = json.loads(text)
  path = rng.choice([*places_in(content), ()])
  if not path:
    return json.dumps(rng.choice(SHAPES)), "the whole"
  inner = content
  for name in path[:-1]:
    inner = inner[name]
  if rng.random() < 0.3:
    del inner[path[-1]]
    return json.dumps(content), f"without {path}"
  before = copy.deepcopy(inner[path[-1]])
  if isinstance(before, int | float) and rng.random() < 0.4:
    wrong = rng.choice(("NaN", "1e999", "-Infinity", "1x2"))
    inner[path[-1]] = "@"
    return json.dumps(content).replace('"@"', wrong), f"{path}: {before!r} to {wrong}"
  inner[path[-1]] = rng.choice([value for value in SHAPES if value != before])
  return json.dumps(content), f"{path}: {before!r:.40} to {inner[path[-1]]!r}"


def damage_csv(text, rng):
  """A table with a column, a row or a value changed, and what was done."""
  head, *rows = csv.reader(io.StringIO(text))
  lines, column, row = [head, *rows], rng.randrange(len(head)), rng.randrange(len(rows)) + 1
  kind = rng.choice(("value", "value", "value", "column", "row", "name", "cut"))
  if kind == "value":
    column = rng.choice([at for at, value in enumerate(lines[row]) if value.replace(".", "").isdigit()])
    lines[row][column] = rng.choice(WRONG)
  elif kind == "column":
    lines = [line[:column] + line[column + 1 :] for line in lines]
  elif kind == "row":
    del lines[row]
  elif kind == "name":
    lines[0][column] += "x"
  else:
    lines[row] = lines[row][:-1]
  out = io.StringIO()
  csv.writer(out, lineterminator="\n").writerows(lines)
  return out.getvalue(), f"{kind} in row {row}, column {head[column]}"


def damaged(folder, rng, names, *, sealed):
  """Changes one file of a run; without a seal, as runs of earlier versions are."""
  if not sealed:
    content = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(
      json.dumps({name: value for name, value in content.items() if name not in ("sha256", "files")})
    )
  path = folder / rng.choice([name for name in names if (folder / name).is_file()])
  change = damage_csv if path.suffix == ".csv" else damage_json
  text, what = change(path.read_text(), rng)
  path.write_text(text)
  return f"{path.name}: {what}"


def result_or_refusal(make, what):
  try:
    return make()
  except UserError as error:
    assert "\n" not in str(error) and len(str(error)) < 600, what
    return None
  except Exception as error:
    raise AssertionError(f"{what} ends in {type(error).__name__}: {error}") from error


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """For each kind of run its folder and its page."""
  folders = {kind: make(tmp_path_factory.mktemp(kind) / "run") for kind, make in KINDS.items()}
  return {kind: (folder, html.write_report(folder, show_slices=False).read_bytes()) for kind, folder in folders.items()}


def damaged_copy(folder, to, seed, *, sealed):
  """A copy with one change, under the same name, and what was changed."""
  to.mkdir()
  shutil.copytree(folder, to / "run", ignore=shutil.ignore_patterns("volumes"))
  what = damaged(to / "run", random.Random(seed), ("summary.json", "config.json", *TABLES), sealed=sealed)
  return to / "run", f"{what} (seed {seed})"


@pytest.mark.parametrize("sealed", [True, False])
def test_an_image_of_a_page_is_the_same_or_refused(whole, sealed, tmp_path):
  folder = shutil.copytree(whole["segmentation"][0], tmp_path / "run")
  page = lambda: html.write_report(folder, show_slices=True).read_bytes()
  pictures, rng = sorted([*folder.glob("volumes/*/*.png"), *folder.glob("figures/*.png")]), random.Random(3)
  assert pictures
  content = json.loads((folder / "summary.json").read_text())
  if sealed:
    write_summary(folder, content)
  else:
    (folder / "summary.json").write_text(
      json.dumps({name: value for name, value in content.items() if name not in ("sha256", "files")})
    )
  expected = page()
  for number in range(12):
    path = rng.choice(pictures)
    whole_picture = path.read_bytes()
    cut = rng.randrange(len(whole_picture))
    flipped = bytearray(whole_picture)
    flipped[cut] ^= 4
    path.write_bytes(whole_picture[:cut] if number % 2 else flipped)
    found = result_or_refusal(page, f"{path.name}, byte {cut}")
    assert found is None or not sealed or found == expected
    assert found is None or number % 2 == 0 or "figures" in str(path)
    path.write_bytes(whole_picture)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_the_same_or_refused(whole, kind, sealed, tmp_path):
  folder, page = whole[kind]
  for seed in range(25):
    copied, what = damaged_copy(folder, tmp_path / str(seed), seed, sealed=sealed)
    found = result_or_refusal(lambda copied=copied: html.write_report(copied, show_slices=False).read_bytes(), what)
    assert found is None or not sealed or found == page, what


def test_a_comparison_is_the_same_or_refused(whole, tmp_path):
  folder, _ = whole["segmentation"]

  def compared(other):
    compare.compare([str(folder), str(other)], tmp_path / "out")
    return (tmp_path / "out" / "differences.csv").read_bytes()

  expected = compared(folder)
  for seed in range(15):
    copied, what = damaged_copy(folder, tmp_path / str(seed), seed, sealed=seed % 2)
    found = result_or_refusal(lambda copied=copied: compared(copied), what)
    assert found in (None, expected) or not seed % 2, what  # without a seal another number may pass, a word may not


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda info: info["patient_fields"].remove("has_pre"), "nothing in info.name and info.patient_fields groups patients by grade"),
    (lambda info: info["patient_fields"].clear(), "groups patients by grade"),
    (lambda info: info.update(name="other"), "groups patients by grade"),
  ],
)  # fmt: skip
def test_folds_that_do_not_say_what_groups_their_patients_are_refused(run, tmp_path, change, message):
  folder, _ = run
  copied = shutil.copytree(folder, tmp_path / "run")
  content = json.loads((copied / "summary.json").read_text())
  change(content["info"])
  write_summary(copied, content)
  with pytest.raises(UserError, match=message):
    pool.pool({(0,): copied}, groupings=("grade", "size"))
  summary, _ = pool.pool({(0,): copied}, groupings=("size",))
  assert list(summary["test"]["subgroups"]) == ["size"]


def test_pooled_folds_are_the_same_or_refused(run, tmp_path):
  folder, _ = run

  def pooled(other):
    summary, tables = pool.pool({(0,): other}, groupings=("grade", "size"))
    return summary["test"], tables

  expected, names = pooled(folder), ("summary.json", "split.json", "slices.csv", "patients.csv", "reliability.csv")
  for seed in range(40):
    copied = tmp_path / str(seed) / "run"
    copied.mkdir(parents=True)
    for name in names:
      shutil.copy(folder / name, copied / name)
    what = damaged(copied, random.Random(seed), names, sealed=seed % 2)
    found = result_or_refusal(lambda copied=copied: pooled(copied), f"{what} (seed {seed})")
    assert found in (None, expected) or not seed % 2, what  # without a seal another number may pass, a word may not


def _converted(folder):
  """A folder of converted weights: its file that says what they are, and what is read of it."""
  weights = conversion.Weights(
    {"params": {"encoder": {"bias": np.ones(3, np.float32)}}}, "lite0", "imagenet", "a.pth", "5e"
  )
  conversion.save_converted(weights, folder)
  return folder / "weights.json", lambda: conversion.load_weights(str(folder)).about


def _converted_again(folder):
  path, _ = _converted(folder)
  weights = conversion.load_weights(str(folder))
  return path, lambda: [one.read_bytes() for one in conversion.save_converted(weights, folder)][:1]


def _started_from(folder):
  """The folder of a run that started from weights."""
  weights = conversion.Weights({}, "lite0", "imagenet", "a.pth", "5e")
  warm_start.record(folder, weights, [], "imagenet")
  return folder / "pretrained.json", lambda: (
    warm_start.normalization(folder, None),
    warm_start.check_same(folder, weights),
  )


def _predicted(folder):
  """The folder of a prediction."""
  done = {
    "study": "one", "tumor": True, "probability": 0.9, "voxels": 12, "volume_mm3": 24.0, "volume_ml": 0.024,
    "largest_diameter_mm": 5.0, "slice_range": [1, 2], "looks_wrong": False, "warnings": ["no pre"], "roles": {"pre": "a"},
    "slices": [{"index": 0}], "input": {"format": "nifti", "sha256": "ab"}, "model": {"title": "unet"}, "options": None,
    "files": {"mask.nii.gz": 7},
  }  # fmt: skip
  files.write_json(folder / "prediction.json", files.sealed(done))
  return folder / "prediction.json", lambda: {**writer.finished(folder), "sha256": None}


@pytest.mark.parametrize("make", [_converted, _converted_again, _started_from, _predicted])
def test_a_record_beside_arrays_is_the_same_or_refused(make, tmp_path):
  path, read = make(tmp_path / "folder")
  text, expected, refused = path.read_text(), read(), 0
  for seed in range(60):
    damaged_text, what = damage_json(text, random.Random(seed))
    path.write_text(damaged_text)
    found = result_or_refusal(read, f"{what} (seed {seed})")
    assert found in (None, expected), what
    refused += found is None
  assert refused > 50


@pytest.mark.parametrize(
  "content", ["[]", "null", '"x"', '{"split": 1}', '{"split": {"kind": "fold", "fold": "1x"}}', "1e999", "{"]
)
def test_a_configuration_of_another_shape(content, tmp_path):
  folder = KINDS["segmentation"](tmp_path / "run")
  (folder / "config.json").write_text(content)
  (folder / "split.json").write_text("{}")
  for make in (
    lambda: html.write_report(folder, show_slices=False),
    lambda: pool.find_folds([str(folder)], [(0,)], {}),
    lambda: report.report(folder, None),
  ):
    with pytest.raises(UserError, match="config.json is damaged or of another version"):
      make()
