"""The run of a data set of two classes, from its masks to its table, its page, its figures and a comparison."""

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

from bt_jax import files
from bt_jax.datasets.info import DatasetInfo
from bt_jax.evaluation import calibration, subgroups
from bt_jax.evaluation.record_tables import Tables, read_run
from bt_jax.evaluation.volumes import volume_columns
from bt_jax.inference import overlays
from bt_jax.modes.compare import compare
from bt_jax.reporting import figures, run_summary, text_tables
from bt_jax.reporting.page import run_files, sprites, statistics_tables, viewer
from bt_jax.schema import Slices, Tumor
from bt_jax.tasks import TASKS
from configs.common import get_config
from tests.helpers.made_up_runs import CLINICAL, common

TWO = DatasetInfo("two", ("t1", "t2"), ("core", "oedema"), (1, 2), "t2", 64)
NAMES = {"data": "two", "split": "patient_fold_00"}
PATIENTS, SLICES = ("A", "B", "C"), 9


def make_slices() -> Slices:
  """A core within an oedema in every slice but the first, the larger the later."""
  rng = np.random.default_rng(0)
  case, number = np.repeat(PATIENTS, SLICES), np.tile(np.arange(SLICES) + 1, len(PATIENTS))
  image = rng.integers(0, 60, (len(case), 64, 64, 2)).astype(np.uint8)
  mask = np.zeros((len(case), 64, 64, 2), np.uint8)
  for index, size in enumerate(number - 1):
    mask[index, 16 : 16 + size, 16 : 16 + size, 0] = 1
    mask[index, 16 : 16 + 3 * size, 16 : 16 + 3 * size, 1] = 1
  mask[..., 1] &= 1 - mask[..., 0]
  image[..., 1] += 90 * mask[..., 1] + 160 * mask[..., 0]
  stats = np.ones((len(case), 2), np.float32)
  return Slices(case, np.char.add("patient ", case), number, image, mask, stats, stats)


def write_run(folder, shift: int, info=TWO, known=None) -> tuple[Slices, np.ndarray]:
  """A finished run whose cores are right, and whose oedema is as far off as `shift`; `known` has the fields of each patient."""
  slices, task = make_slices(), TASKS["segmentation"](info)
  predicted = np.stack([slices.mask[..., 0] == 1, np.roll(slices.mask[..., 1] == 1, shift, 2)], axis=-1)
  tumor = Tumor(np.where(predicted, 0.9, 0.05).astype(np.float32), np.where(predicted.any((1, 2, 3)), 0.9, 0.05))
  rows = [
    row | {"probability_calibrated": row["probability"]}
    for row in task.slice_records(slices, tumor, predicted, **NAMES)
  ]
  whole = volume_columns(slices, predicted, spacing_mm={}, classes=TWO.classes)
  of_patient = (known or {}).get
  patients = [
    row | whole[row["patient"], row["class"]] | of_patient(row["patient"], CLINICAL)
    for row in task.patient_records(rows)
  ]
  reliability = calibration.pixel_rows(slices, tumor.pixels, 1.5, **NAMES)
  tables = Tables(rows, patients, reliability, [])
  about = common(slices, task="segmentation", model="unet", info=info.to_json())
  summary = run_summary.summarize(
    tables,
    task,
    {name: about[name] for name in about if name != "intervals"},
    groupings=subgroups.parse("all", info) if known else (),
  )
  files.write_json(folder / "config.json", get_config().to_dict())
  sprites.save_volumes(folder / "volumes", slices, predicted, reference=TWO.reference_index)
  evaluated = figures.Evaluated(folder / "volumes", rows, TWO)
  drawn = figures.draw_masks(folder / "figures", evaluated, title="two")
  run_summary.write(folder, tables, summary, show_slices=True, drawn=drawn)
  return slices, predicted


def test_columns_of_a_users_table_are_text_whatever_they_are_called(tmp_path):
  """`has_t1` and `site` are a flag and a hospital in the published data set only, and tables are headed by their names."""
  info = dataclasses.replace(TWO, patient_fields=("has_t1", "site"))
  known = {f"patient {name}": {"has_t1": value, "site": site} for name, value, site in zip(PATIENTS, ("yes", "no", ""), ("x", "", "unknown"), strict=True)}  # fmt: skip
  write_run(tmp_path, 2, info, known)
  summary, tables = read_run(tmp_path)
  groups = summary["test"]["subgroups"]
  patients = lambda name: {group["group"]: group["patients"] for group in groups[name]}
  assert patients("has_t1") == {"yes": 1, "no": 1, "not known": 1}
  assert patients("site") == {"x": 1, "unknown": 1, "not known": 1}
  again = subgroups.summarize(tables.patients, tables.slices, tuple(groups), lambda rows: {}, info)
  plain = {name: [{key: group[key] for key in ("group", "patients", "slices")} for group in of] for name, of in groups.items()}  # fmt: skip
  assert again == plain
  record = run_files.read(tmp_path)
  table = statistics_tables.patients(record.patients, {}, summary["test"], info)
  site = [row[table.columns.index("site")].text for row in table.rows]
  assert site == ["x", "not known", "unknown"] and "sequences" not in table.columns
  headed = statistics_tables.subgroups({**groups, "grade": groups["site"], "f1": groups["site"]}, info).values()
  assert [table.caption for table in headed] == ["By has t1", "By site", "By size of the tumour", "By grade", "By f1"]


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
  folder = tmp_path_factory.mktemp("classes")
  return folder, *write_run(folder, 2)


def test_the_printed_table_has_a_line_for_each_class(made_up):
  folder, slices, predicted = made_up
  truth = slices.mask == 1
  dice = 2 * (truth & predicted).sum((0, 1, 2)) / (truth.sum((0, 1, 2)) + predicted.sum((0, 1, 2)))
  assert dice[0] == 1 > dice[1]
  table = (folder / "table.txt").read_text()
  for name, value in (*zip(TWO.classes, dice, strict=True), ("mean over classes", dice.mean())):
    assert re.search(rf"^{name} +([\d.]+) ", table, re.MULTILINE)[1] == f"{value:.4f}"


def test_volumes_of_the_page_keep_each_class(made_up):
  folder, slices, predicted = made_up
  volume = sprites.read_volume(folder / "volumes", "B", SLICES, TWO)
  np.testing.assert_array_equal(volume.truth, slices.mask[SLICES : 2 * SLICES] == 1)
  np.testing.assert_array_equal(volume.prediction, predicted[SLICES : 2 * SLICES])
  for fields in ({"classes": ("core",), "ids": (1,)}, {"size": 32}):
    assert sprites.read_volume(folder / "volumes", "B", SLICES, dataclasses.replace(TWO, **fields)) is None


def test_the_page_outlines_each_class_in_its_colour_and_says_how_good_it_is(made_up):
  folder, *_ = made_up
  page = (folder / "report.html").read_text()
  colours = overlays.colours(TWO)
  assert len(set(colours)) == 2
  for number, (name, colour) in enumerate(zip(TWO.classes, colours, strict=True)):
    for layer in ("truth", "prediction"):
      outline = f'<svg class="outline {layer}" data-class="{number}" style="--truth:{colour};--prediction:{colour}"'
      assert page.count(outline) == len(PATIENTS)
    assert (
      f'class="show-class" value="{number}" checked> <span class="key solid" style="--truth:{colour}">{name}</span>'
      in page
    )
  assert "FLAIR" not in page.partition("Beside the paper")[0]  # its channels are others
  shown = viewer.choose(run_files.read(folder), room=10**7, enough=10**7)
  assert (
    shown[0]
    .captions[0]
    .startswith("Slice 1 (1 of 9): no tumour; core: nothing segmented, correct; oedema: nothing segmented, correct")
  )
  assert "core: Dice 1.000; oedema: Dice" in shown[0].captions[5]


def test_figures_tell_classes_apart(made_up):
  folder, *_ = made_up
  picture = np.array(Image.open(folder / "figures/overlays_tumor.png").convert("RGB")).reshape(-1, 3)
  for colour in overlays.colours(TWO):
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    assert (abs(picture.astype(int) - wanted).max(1) < 8).any()


def test_the_legend_of_many_classes_lies_within_the_figure(made_up, tmp_path):
  _, slices, predicted = made_up
  four = dataclasses.replace(
    TWO, classes=("whole tumour", "tumour core", "enhancing tumour", "necrosis"), ids=(1, 2, 3, 4)
  )
  masks = [np.concatenate([array, array], axis=-1) for array in (slices.mask, predicted)]
  slices = dataclasses.replace(slices, mask=masks[0])
  tumor = Tumor(masks[1].astype(np.float32), np.ones(len(slices.mask), np.float32))
  rows = TASKS["segmentation"](four).slice_records(slices, tumor, masks[1], **NAMES)
  sprites.save_volumes(tmp_path / "volumes", slices, masks[1], reference=four.reference_index)
  for path in figures.save_overlays(tmp_path, tmp_path / "volumes", rows, title="four", info=four):
    picture = np.array(Image.open(path).convert("RGB"))
    assert (picture[:, [0, -1]] == 255).all()  # what is cut off reaches an edge


def test_two_runs_are_compared_by_the_mean_over_classes(made_up, tmp_path, capsys):
  write_run(tmp_path / "other", 4)
  compare([str(made_up[0]), str(tmp_path / "other")], tmp_path / "comparison")
  out = capsys.readouterr().out
  table = (tmp_path / "comparison/comparison.txt").read_text()
  assert re.search(r"^dice .*\s0\s+0\s+3\s", table, re.MULTILINE)  # lower in all three patients
  comparison = files.read_json(tmp_path / "comparison/comparison.json", dict, "")
  first, second = (
    files.read_json(folder / "summary.json", dict, "")["test"] for folder in (made_up[0], tmp_path / "other")
  )
  for name, headline in comparison["classes"].items():
    for path, row in headline.items():
      before, after = first["classes"][name], second["classes"][name]
      group, key = {"dice_mean": ("patient", "dice_mean"), "pooled_dice": ("pooled", "dice")}.get(path, (None, None))
      if group:
        assert (row["first"], row["second"]) == (before[group][key], after[group][key])
        assert row["difference"] == pytest.approx(after[group][key] - before[group][key])
  assert re.search(r"^oedema, dice mean", table, re.MULTILINE) and re.search(r"^oedema, pooled dice", out, re.MULTILINE)


def test_the_columns_of_a_comparison_stand_under_each_other_whatever_a_class_is_called(made_up, tmp_path, capsys):
  write_run(tmp_path / "other", 4)
  compare([str(made_up[0]), str(tmp_path / "other")], tmp_path / "comparison")
  comparison = files.read_json(tmp_path / "comparison/comparison.json", dict, "")
  long = "oedema around the enhancing part, 1.5 T"
  comparison["classes"][long] = comparison["classes"].pop("oedema")
  lines = text_tables.compare_table(comparison).splitlines()
  start = next(number for number, line in enumerate(lines) if line.endswith("second - first"))
  rows = lines[start : lines.index("", start)]
  assert {len(row) for row in rows} == {len(rows[0])} and any(row.startswith(f"{long}, dice mean") for row in rows)
