import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from bt_jax.datasets.lgg_mri import kaggle_tree
from bt_jax.datasets.lgg_mri.constants import CLINICAL_FIELDS
from bt_jax.scans import raster
from bt_jax.scans.study_discovery import find_in
from tests.helpers import refusals

NAME = "TCGA_CS_4941_19960909"


@pytest.fixture
def tree(tmp_path):
  """One case of eleven slices, the mask of slice n a square of n x n pixels."""
  folder = tmp_path / "kaggle_3m" / NAME
  folder.mkdir(parents=True)
  for number in range(1, 12):
    image = np.full((256, 256, 3), number, np.uint8)
    mask = np.zeros((256, 256), np.uint8)
    mask[:number, :number] = 255
    Image.fromarray(image).save(folder / f"{NAME}_{number}.tif")
    Image.fromarray(mask).save(folder / f"{NAME}_{number}_mask.tif")
  write_clinical(tmp_path, ["TCGA_CS_4941"])
  return tmp_path


def write_clinical(root, patients, delimiter=",", value="3"):
  lines = [delimiter.join(["Patient", *CLINICAL_FIELDS])]
  lines += [delimiter.join([patient, value, "", *["2"] * 15]) for patient in patients]
  (root / "kaggle_3m" / "data.csv").write_text("\n".join(lines) + "\n")


def read(root):
  tree = kaggle_tree.read_tree(root, expect_full=False)
  return [kaggle_tree.read_case(case) for case in tree.cases]


def refused(root, *words):
  refusals.refused(lambda: read(root), *words)


def file(root, number, ending=""):
  return root / "kaggle_3m" / NAME / f"{NAME}_{number}{ending}.tif"


@pytest.mark.parametrize("below", ["", "kaggle_3m"])
def test_pairs_slices_in_slice_order(tree, below):
  found = kaggle_tree.read_tree(tree / below, expect_full=False)
  (case,) = found.cases
  assert (case.name, case.patient, case.site) == (NAME, "TCGA_CS_4941", "CS")
  assert [files.number for files in case.slices] == list(range(1, 12))  # sorted by name, 10 would come second
  images, masks = kaggle_tree.read_case(case)
  assert images.shape == (11, 256, 256, 3) and images.dtype == np.uint8
  assert masks.shape == (11, 256, 256, 1) and masks.dtype == np.uint8
  np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(1, 12))
  np.testing.assert_array_equal(masks.sum((1, 2, 3)), np.arange(1, 12) ** 2)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_clinical_fields_with_either_delimiter(tree, delimiter):
  write_clinical(tree, ["TCGA_CS_4941"], delimiter)
  fields = kaggle_tree.read_tree(tree, expect_full=False).clinical["TCGA_CS_4941"]
  assert list(fields) == list(CLINICAL_FIELDS)
  assert list(fields.values()) == [3, -1, *[2] * 15]


def test_no_root_and_no_such_folder_name_layout_command_and_phantom(tmp_path):
  for root in (None, tmp_path / "nothing"):
    refused(
      root,
      "kaggle_3m/<case>/<case>_<slice>.tif",
      "kaggle datasets download mateuszbuda/lgg-mri-segmentation",
      ":phantom",
    )


def test_folder_without_cases(tmp_path):
  refused(tmp_path, "no cases", str(tmp_path), "kaggle datasets download")


def test_image_without_mask(tree):
  file(tree, 7, "_mask").unlink()
  refused(tree, f"{NAME}_7.tif has no mask")


def test_mask_without_image(tree):
  file(tree, 7).unlink()
  refused(tree, f"{NAME}_7_mask.tif has no image")


@pytest.mark.parametrize("ending", ["", "_mask"])
@pytest.mark.parametrize("left", [0, 100, 20_000])
def test_truncated_tiff(tree, ending, left):
  path = file(tree, 3, ending)
  path.write_bytes(path.read_bytes()[:left])
  refused(tree, path.name, "cannot be read", "restore it")


def test_file_that_is_no_tiff(tree):
  Image.new("RGB", (256, 256)).save(file(tree, 3), format="PNG")
  refused(tree, f"{NAME}_3.tif", "PNG", "expected a TIFF")


@pytest.mark.parametrize(
  ("picture", "found"),
  [
    (Image.new("RGB", (128, 256)), "128x256"),
    (Image.new("L", (256, 256)), "mode L"),
    (Image.new("I;16", (256, 256)), "mode I;16"),
  ],
)
def test_wrong_size_mode_or_depth(tree, picture, found):
  picture.save(file(tree, 3))
  refused(tree, f"{NAME}_3.tif", found, "256x256 in mode RGB")


def test_mask_values(tree):
  Image.fromarray(np.full((256, 256), 128, np.uint8)).save(file(tree, 3, "_mask"))
  refused(tree, f"{NAME}_3_mask.tif", "[128]", "0 and 255")


def test_data_csv_missing(tree):
  (tree / "kaggle_3m" / "data.csv").unlink()
  refused(tree, "data.csv is missing")


def test_data_csv_lacks_a_patient_a_column_or_a_number(tree):
  write_clinical(tree, ["TCGA_CS_0000"])
  refused(tree, "data.csv has no row for TCGA_CS_4941")
  write_clinical(tree, ["TCGA_CS_4941"], value="three")
  refused(tree, "data.csv, line 2", "three")
  write_clinical(tree, ["TCGA_CS_4941"], delimiter="\t")
  refused(tree, "data.csv lacks the column Patient")


def test_same_case_twice(tree):
  shutil.copytree(tree / "kaggle_3m" / NAME, tree / "kaggle_3m" / "copy" / NAME)
  refused(tree, NAME, "twice", "keep one copy")


def test_short_row_and_slice_twice(tree):
  path = tree / "kaggle_3m" / "data.csv"
  path.write_text(path.read_text()[:-10])
  refused(tree, "data.csv, line 2 has not as many fields")
  write_clinical(tree, ["TCGA_CS_4941"])
  shutil.copy(file(tree, 3), file(tree, 3).with_name(f"{NAME}_03.tif"))
  refused(tree, f"{NAME}_03.tif", f"{NAME}_3.tif", "the same slice")


def test_second_tree_of_the_published_archive_is_not_read(tree):
  shutil.copytree(tree / "kaggle_3m", tree / "lgg-mri-segmentation" / "kaggle_3m")
  assert len(read(tree)) == 1
  assert len(read(tree / "lgg-mri-segmentation")) == 1
  shutil.rmtree(tree / "kaggle_3m")
  assert len(read(tree)) == 1  # unless it is the one


def test_strange_names(tree):
  shutil.copy(file(tree, 3), file(tree, 3).with_name("TCGA_CS_4942_19970222_1.tif"))
  refused(tree, "TCGA_CS_4942_19970222_1.tif is not named")
  shutil.copytree(tree / "kaggle_3m" / NAME, tree / "other" / "kaggle_3m" / "holiday")
  refused(tree / "other", "holiday is not named like a case")


def test_what_systems_leave_is_no_slice_and_capitals_are(tree):
  folder = tree / "kaggle_3m" / NAME
  for left in (
    folder / f"._{NAME}_3.tif",
    folder / "__MACOSX" / f"{NAME}_3.tif",
    folder.parent / "__MACOSX" / NAME / "x.tif",
  ):
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"no picture")
  for number, suffix in ((1, ".TIF"), (2, ".tiff"), (10, ".Tiff")):
    for ending in ("", "_mask"):
      file(tree, number, ending).rename(file(tree, number, ending).with_suffix(suffix))
  file(tree, 11, "_mask").rename(folder / f"{NAME}_11_MASK.TIF")
  ((images, masks),) = read(tree)
  np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(1, 12))
  np.testing.assert_array_equal(masks.sum((1, 2, 3)), np.arange(1, 12) ** 2)
  # Prediction finds the same slices in the same order.
  (study,) = find_in(tree)
  assert [path.name for path in study.files] == [files.image.name for case in kaggle_tree.read_tree(tree, expect_full=False).cases for files in case.slices]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_training_and_prediction_turn_a_slice_alike(tree, orientation):
  values = np.random.default_rng(orientation).integers(0, 256, (256, 256, 3), np.uint8)
  tifffile.imwrite(file(tree, 3), values, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
  ((volume, _),) = read(tree)
  scan = raster.read([file(tree, 3)], name="study")
  np.testing.assert_array_equal(volume[2], scan.image[0])


def test_a_slice_of_two_pages_and_a_volume_that_shows_nothing(tree):
  page = Image.new("RGB", (256, 256), (7, 7, 7))
  page.save(file(tree, 3), save_all=True, append_images=[page])
  refused(tree, f"{NAME}_3.tif has 2 pages")
  for number in range(1, 12):
    page.save(file(tree, number))
  refused(tree, f"{NAME} is constant in FLAIR (all 7)")


def test_part_of_the_data_set_only_when_asked_for(tree):
  refusals.refused(
    lambda: kaggle_tree.read_tree(tree, expect_full=True),
    "1 patients and 11 slices, expected 110 and 3929",
    "(--config.data.expect_full=False)",
  )
