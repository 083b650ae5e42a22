"""The Croissant description beside the LGG builder, as mlcroissant reads it."""

import csv
import json
import shutil

import pytest
from PIL import Image

from bt_jax.datasets.lgg_mri import describe
from bt_jax.datasets.lgg_mri.constants import FOLDS, INFO

croissant = pytest.importorskip("mlcroissant", reason="the extra croissant is not installed")
PATH = describe.FOLDER / "croissant.json"


def test_the_description_is_what_the_program_writes(tmp_path):
  assert json.loads(describe.write(tmp_path).read_text()) == json.loads(PATH.read_text())


def test_it_is_valid_and_its_folds_are_those_of_the_table():
  described = croissant.Dataset(str(PATH))
  assert not described.metadata.ctx.issues.errors and not described.metadata.ctx.issues.warnings
  assert described.metadata.conforms_to == ["http://mlcommons.org/croissant/1.1"]
  assert described.metadata.name == INFO.name and described.metadata.cite_as == INFO.citation
  found = {record["folds/patient"].decode(): record["folds/fold"] for record in described.records("folds")}
  with (describe.FOLDER / "folds.csv").open() as file:
    assert found == {row["patient"]: int(row["fold"]) for row in csv.DictReader(file)}
  assert len(found) == 110 and set(found.values()) == set(range(FOLDS))


def test_slices_are_found_below_the_published_tree_and_masks_are_not_among_them(tmp_path):
  place = tmp_path / "kaggle_3m" / "TCGA_CS_4941_19960909"
  place.mkdir(parents=True)
  for number in (1, 12):
    Image.new("RGB", (256, 256), (number, 2, 3)).save(place / f"TCGA_CS_4941_19960909_{number}.tif")
    Image.new("L", (256, 256)).save(place / f"TCGA_CS_4941_19960909_{number}_mask.tif")
  for name in ("croissant.json", "folds.csv"):
    shutil.copy(describe.FOLDER / name, tmp_path)
  records = list(croissant.Dataset(str(tmp_path / "croissant.json")).records("slices"))
  assert {record["slices/case"].decode() for record in records} == {"TCGA_CS_4941_19960909"}
  files = sorted(record["slices/file"].decode() for record in records)
  assert files == ["TCGA_CS_4941_19960909_1.tif", "TCGA_CS_4941_19960909_12.tif"]
