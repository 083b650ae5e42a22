"""Scans for networks of a user's own data: which files are a case, what is read of them, and where masks go."""

import dataclasses
import json
import re
import shutil

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import unlabelled
from bt_jax.errors import UserError
from bt_jax.inference import batch_prediction, dataset_layouts, loading, studies
from bt_jax.scans import resampling
from bt_jax.schema import Tumor
from tests.helpers.arithmetic import network
from tests.helpers.scanners import AXIAL, BUNDLED, PRE, distinct, write_series

FOUR = ("T1", "T1ce", "T2", "FLAIR")
INFO = DatasetInfo("own", FOUR, ("core", "oedema"), (3, 7), "FLAIR", 16, deep=True)
RNG = np.random.default_rng(0)
AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])


def volume(shape=(12, 16, 5)):
  return RNG.integers(1, 900, shape).astype(np.int16)


def write(path, array, affine=AFFINE):
  path.parent.mkdir(parents=True, exist_ok=True)
  nibabel.save(nibabel.Nifti1Image(array, affine), path)
  return path


def found(path, channels=FOUR):
  return {
    one.case.name: one.refusal or [[str(file.relative_to(path)) for file in group] for group in one.case.images]
    for one in unlabelled.find(path, channels)
  }


def test_cases_by_numbers_of_channels(tmp_path):
  for name in ("a", "b"):
    for channel in range(4):
      write(tmp_path / f"imagesTs/{name}_{channel:04d}.nii.gz", volume())
  write(tmp_path / "labelsTs/a.nii.gz", volume())
  expected = [[f"imagesTs/a_{channel:04d}.nii.gz"] for channel in range(4)]
  assert found(tmp_path)["a"] == expected and set(found(tmp_path)) == {"a", "b"}
  (tmp_path / "imagesTs/b_0002.nii.gz").unlink()
  assert found(tmp_path)["a"] == expected and "lacks T2" in found(tmp_path)["b"]
  write(tmp_path / "imagesTs/a_0004.nii.gz", volume())
  assert "has 5 channels, and the network takes 4" in found(tmp_path)["a"]


@pytest.mark.parametrize(
  ("folder", "names"),
  [
    ("BraTS20_001", ("BraTS20_001_t1", "BraTS20_001_t1ce", "BraTS20_001_t2", "BraTS20_001_flair")),
    ("BraTS-GLI-00001-000", tuple(f"BraTS-GLI-00001-000-{word}" for word in ("t1n", "t1c", "t2w", "t2f"))),
    ("p1", ("T1", "t1_ce", "T2", "Flair")),
  ],
)
def test_cases_by_names_of_channels(folder, names, tmp_path):
  for name in names:
    write(tmp_path / folder / f"{name}.nii.gz", volume())
  write(tmp_path / folder / f"{folder}_seg.nii.gz", volume())
  assert found(tmp_path) == {folder: [[f"{folder}/{name}.nii.gz"] for name in names]}


@pytest.mark.parametrize("numbered", [True, False])
def test_of_two_files_for_one_channel_none_is_chosen_and_folders_stay_apart(numbered, tmp_path):
  for folder in ("p", "q"):
    for number, channel in enumerate(FOUR):
      write(tmp_path / folder / (f"scan_{number:04d}.nii.gz" if numbered else f"scan_{channel}.nii.gz"), volume())
  assert len(found(tmp_path)) == 2 and not any(isinstance(case, str) for case in found(tmp_path).values())
  write(tmp_path / "q" / ("scan_0001.nii" if numbered else "scan_t1ce.nii"), volume())
  of_p, of_q = (found(tmp_path)[f"{folder}_scan"] for folder in ("p", "q"))
  assert isinstance(of_p, list) and "for one channel, of which one would be read" in of_q


def test_volumes_of_all_channels_and_slices(tmp_path):
  write(tmp_path / "volumes/a.nii.gz", volume((12, 16, 5, 4)))
  assert found(tmp_path / "volumes") == {"a": [["a.nii.gz"]]}
  for number in (1, 2, 10):
    path = tmp_path / f"slices/p/s{number}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
      path, RNG.integers(0, 255, (12, 16, 4)).astype(np.uint8), photometric="minisblack", planarconfig="contig"
    )
  assert found(tmp_path / "slices") == {"p": [["p/s1.tif", "p/s2.tif", "p/s10.tif"]]}
  with pytest.raises(UserError, match="holds no case of T1, T1ce"):
    (tmp_path / "empty").mkdir()
    unlabelled.find(tmp_path / "empty", FOUR)


def test_a_scan_has_the_channels_in_the_order_of_the_network(tmp_path):
  arrays = {name: volume() for name in FOUR}
  for name in reversed(FOUR):
    write(tmp_path / "p" / f"p_{name}.nii.gz", arrays[name])
  (study,) = studies.find(tmp_path, {}, INFO)
  scan = studies.read(study, INFO)
  for number, name in enumerate(FOUR):
    np.testing.assert_array_equal(scan.image[..., number], arrays[name].transpose(2, 1, 0))
  assert scan.spacing_mm == (3.0, 1.0, 1.0) and scan.roles["T2"] == "p_T2.nii.gz"


def two_logits(variables, batch):
  """Of T1 and of T1ce, each 0 at half of its range."""
  pixels = (batch["image"][..., :2] - 127.5) * variables["slope"]
  return Tumor(pixels, pixels.max((1, 2, 3)))


def predictor(info=INFO):
  return loading.of_networks([network(two_logits, slice_head=True, info=info, channels="all", tumors=(0.0,))], [])


def predict(source, output, layout, info=INFO):
  return batch_prediction.predict(
    source, output, given={}, probabilities=False, shard=None, layout=layout, load=lambda: predictor(info)
  )


def expected_labels(arrays, info=INFO):
  """By the scan's own window: the likeliest class where any is likelier than none."""
  image = np.stack([arrays[name].transpose(2, 1, 0) for name in info.channels], axis=-1).astype(np.float32)
  return predictor(info).predict(image).labels.transpose(2, 1, 0)


@pytest.mark.parametrize("layout", ["nnunet", "bids"])
def test_masks_are_where_a_layout_has_them_with_the_ids_of_classes(layout, tmp_path):
  arrays = {}
  for case in ("sub-01_ses-2_scan", "other 2"):
    arrays[case] = {name: volume((16, 16, 3)) for name in FOUR}
    for number, name in enumerate(FOUR):
      write(tmp_path / f"in/{case}_{number:04d}.nii.gz", arrays[case][name])
  for _ in range(2):  # the second finds all of it
    predict(tmp_path / "in", tmp_path / "out", layout)
  for case, bids in (
    ("sub-01_ses-2_scan", "sub-01/ses-2/anat/sub-01_ses-2"),
    ("other 2", "sub-other2/anat/sub-other2"),
  ):
    path = {"nnunet": f"{case}.nii.gz", "bids": f"{bids}_desc-btjax_dseg.nii.gz"}[layout]
    mask = nibabel.load(tmp_path / "out" / path)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), expected_labels(arrays[case]))
    np.testing.assert_allclose(mask.affine, AFFINE)
    if layout == "bids":
      assert (tmp_path / "out" / f"{bids}_desc-btjax_dseg.tsv").read_text() == "index\tname\n3\tcore\n7\toedema\n"
      assert json.loads((tmp_path / "out" / f"{bids}_desc-btjax_dseg.json").read_text())["SpatialReference"] == "orig"
  if layout == "bids":
    described = json.loads((tmp_path / "out/dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative" and (tmp_path / "out/.bidsignore").read_text() == "bt_jax/\n"


def test_a_mask_of_one_class_has_its_number_in_pictures_too(tmp_path):
  info = dataclasses.replace(INFO, channels=("red", "green", "blue"), reference="red", classes=("cell",), ids=(5,))
  picture = RNG.integers(0, 255, (16, 16, 3)).astype(np.uint8)
  (tmp_path / "in").mkdir()
  Image.fromarray(picture).save(tmp_path / "in/a_0000.png")

  def one_logit(variables, batch):
    pixels = (batch["image"][..., :1] - 127.5) * variables["slope"]
    return Tumor(pixels, pixels.max((1, 2, 3)))

  load = lambda: loading.of_networks(
    [network(one_logit, slice_head=True, info=info, channels="all", tumors=(0.0,))], []
  )
  batch_prediction.predict(
    tmp_path / "in", tmp_path / "out", given={}, probabilities=False, shard=None, layout="nnunet", load=load
  )
  mask = np.asarray(Image.open(tmp_path / "out/a.png"))
  np.testing.assert_array_equal(mask, np.where(picture[..., 0] >= 127.5, 5, 0))


def test_bids_refuses_pictures_and_names_that_differ_in_signs_alone(tmp_path):
  done = {
    "study": "x",
    "files": {"masks/a_mask.png": 1},
    "input": {"sha256": "0"},
    "threshold": 0.5,
    "model": {"title": "t"},
  }
  with pytest.raises(UserError, match="BIDS has no masks of other formats"):
    dataset_layouts.arrange("bids", tmp_path, tmp_path / "x", done, INFO)
  write(tmp_path / "bt_jax/a-1/mask.nii.gz", volume())
  write(tmp_path / "bt_jax/a1/mask.nii.gz", volume())
  of = lambda name: {**done, "study": name, "files": {"mask.nii.gz": 1}}
  dataset_layouts.arrange("bids", tmp_path, tmp_path / "bt_jax/a-1", of("a-1"), INFO)
  with pytest.raises(UserError, match=re.escape("name differs only in characters")):
    dataset_layouts.arrange("bids", tmp_path, tmp_path / "bt_jax/a1", of("a1"), INFO)


def test_a_fixed_window_is_that_of_every_volume():
  image = np.array([-1000.0, -160.0, 40.0, 240.0, 3000.0], np.float32).reshape(1, 1, 5, 1)
  low, high = resampling.window(image, fixed=(-160.0, 240.0))
  np.testing.assert_allclose(np.asarray(resampling.scale(image, low, high)).ravel(), [0, 0, 127.5, 255, 255])


@pytest.mark.parametrize("first", ["README.txt", "DICOMDIR", "0.png.md", "a_report.dcm"])
def test_a_dicom_folder_is_one_whatever_lies_first_in_it(tmp_path, first):
  info = dataclasses.replace(INFO, channels=("T1", "FLAIR"))
  values = {name: distinct(AXIAL.shape, seed) for seed, name in enumerate(info.channels)}
  write_series(tmp_path / "p/x", values["FLAIR"])
  write_series(tmp_path / "p/y", values["T1"], series=PRE, description="AX T1")
  if first == "README.txt" or first.endswith(".md"):
    (tmp_path / "p" / first).write_text("of the hospital")
  else:
    shutil.copy(BUNDLED / ("reportsi.dcm" if "report" in first else "dicomdirtests/DICOMDIR"), tmp_path / "p" / first)
  (study,) = studies.find(tmp_path / "p", {}, info)
  scan = studies.read(study, info)
  for number, name in enumerate(info.channels):
    np.testing.assert_array_equal(scan.image[..., number], values[name])


def test_dicom_beside_other_cases_is_a_study_too_and_refused_by_itself(tmp_path):
  for name in FOUR:
    write(tmp_path / "p" / f"p_{name}.nii.gz", volume())
  write_series(tmp_path / "q", distinct(AXIAL.shape))
  of_dicom, case = studies.find(tmp_path, {}, INFO)
  assert studies.read(case, INFO).image.shape[-1] == len(FOUR)
  with pytest.raises(UserError, match="only T1, FLAIR and T1 with contrast are read from DICOM"):
    studies.read(of_dicom, INFO)


def test_dicom_and_roles_are_for_channels_that_its_reader_knows():
  with pytest.raises(UserError, match="single files can be named only for pre, flair and post"):
    studies.find(None, {"flair": "x"}, INFO)
