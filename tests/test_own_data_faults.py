"""What is wrong with a user's own folder: each fault is one line that names the file, in a build and in a check, alone and together."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file

from bt_jax.datasets.own_data import layouts
from bt_jax.datasets.own_data.inspection import inspect
from bt_jax.datasets.own_data.problem_kinds import by_kind
from bt_jax.datasets.own_data.source import OwnSource
from bt_jax.errors import UserError
from bt_jax.modes.check import check
from configs.seg import get_config
from tests.helpers.launching import ROOT, environment, launch
from tests.helpers.own_folders import SHAPE, about, blobs, built, nifti, nnunet, noise, picture, pictures
from tests.helpers.refusals import refused

VOLUMES, PICTURES = {}, {}  # by name: what plants a fault, in which case, and the words of its line


def fault(kind, *words):
  def keep(plant):
    kind[plant.__name__] = (plant, words)
    return plant

  return keep


def _image(root, case, channel=0):
  return root / "imagesTr" / f"c{case}_{channel:04d}.nii.gz"


def _mask(root, case):
  return root / "labelsTr" / f"c{case}.nii.gz"


@fault(VOLUMES, "c{case}.nii.gz", "differ in size", "resample it to the nearest label")
def mask_of_another_shape(root, case):
  nifti(_mask(root, case), blobs(1, shape=(3, 12, 11)))


@fault(VOLUMES, "c{case}.nii.gz", "lie apart by their affines")
def mask_of_another_affine(root, case):
  nifti(_mask(root, case), blobs(2), spacing=(4.0, 1.1, 1.1))


@fault(VOLUMES, "c{case}.nii.gz", "has the label 7", "not among 1, 2")
def label_that_is_not_described(root, case):
  nifti(_mask(root, case), blobs(3, (1, 7)))


@fault(VOLUMES, "c{case}_0001.nii.gz", "lie apart")
def channels_that_lie_apart(root, case):
  nifti(_image(root, case, 1), noise(41), spacing=(4.0, 1.3, 1.3))


@fault(VOLUMES, "c{case} in", "lacks the channel FLAIR (_0001)")
def channel_missing(root, case):
  _image(root, case, 1).unlink()


@fault(VOLUMES, "c{case}.nii.gz", "a mask with the value 0.5", "threshold")
def mask_of_floats(root, case):
  nifti(_mask(root, case), blobs(6).astype(np.float32) / 2)


@fault(VOLUMES, "c{case}_0000.nii.gz", "0 bytes", "copy it again")
def no_bytes(root, case):
  _image(root, case).write_bytes(b"")


@fault(VOLUMES, "extra.nii.gz has no image")
def mask_without_image(root, case):
  nifti(root / "labelsTr" / "extra.nii.gz", blobs(1))


@fault(VOLUMES, "c{case}_0000.nii.gz has no mask")
def image_without_mask(root, case):
  _mask(root, case).unlink()


@fault(VOLUMES, "c{case}_0000.nii.gz is a link to", "outside of", "copy the file here")
def link_that_climbs_out(root, case):
  outside = root.parent / f"{root.name}_outside.nii.gz"
  shutil.move(_image(root, case), outside)
  _image(root, case).symlink_to(outside)


@fault(VOLUMES, "c{case}_0000.nii.gz is a link to nothing.nii.gz", "which is not there")
def link_to_nothing(root, case):
  _image(root, case).unlink()
  _image(root, case).symlink_to("nothing.nii.gz")


@fault(VOLUMES, "C{case} and c{case}", "differ in capitals alone")
def names_that_differ_in_capitals(root, case):
  for channel in range(2):
    nifti(root / "imagesTr" / f"C{case}_{channel:04d}.nii.gz", noise(990 + channel))
  nifti(root / "labelsTr" / f"C{case}.nii.gz", blobs(99))


@fault(VOLUMES, "C{case}.nii.gz has no image", "differs from c{case}_0000.nii.gz in capitals")
def volume_mask_in_capitals(root, case):
  _mask(root, case).rename(root / "labelsTr" / f"C{case}.nii.gz")


@fault(VOLUMES, "c{case}.nii.gz and c{case}.nii have one name")
def two_files_of_one_name(root, case):
  nifti(root / "labelsTr" / f"c{case}.nii", blobs(12))


@fault(VOLUMES, "c{case}_0001.nii.gz", "not finite")
def voxel_that_is_no_number(root, case):
  values = noise(131).astype(np.float32)
  values[1, 2, 3] = np.nan
  nifti(_image(root, case, 1), values)


@fault(VOLUMES, "c{case}_0001.nii.gz is 5 everywhere")
def constant_channel(root, case):
  nifti(_image(root, case, 1), np.full(SHAPE, 5, np.int16))


@fault(VOLUMES, "c{case}.nii.gz is a mask with the number -1")
def negative_label(root, case):
  nifti(_mask(root, case), blobs(15).astype(np.int16) - 1)


@fault(VOLUMES, "c{case}.nii.gz is a mask with the number 1000")
def large_label(root, case):
  nifti(_mask(root, case), (blobs(16, (1,)).astype(np.uint16) * 1000))


@fault(VOLUMES, "c{case}_0000.nii.gz", "damaged or truncated")
def truncated(root, case):
  _image(root, case).write_bytes(_image(root, case).read_bytes()[:-40])


@fault(VOLUMES, "c{case}.nii.gz", "expected a volume of 1 channel")
def mask_of_one_channel_a_class(root, case):
  nifti(_mask(root, case), np.stack([blobs(18), blobs(18)], -1))


@fault(VOLUMES, "c{case}_0000.nii.gz gives c{case} 4 channels, expected 2 (T1, FLAIR)")
def image_in_colours(root, case):
  colours = np.zeros((12, 12, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
  for name in "RGB":
    colours[name] = noise(ord(name), (12, 12, 3), 256)
  nibabel.save(nibabel.Nifti1Image(colours, nibabel.load(_image(root, case)).affine), _image(root, case))


@fault(VOLUMES, "c{case}_0000.nii.gz holds the same image as", "c0_0000.nii.gz of another patient")
def image_that_two_patients_have(root, case):
  for channel in range(2):
    nifti(_image(root, case, channel), noise(channel), codes="RAS")


@fault(VOLUMES, "c{case}_0000.nii.gz is not a NIfTI file, or damaged")
def file_of_no_known_kind(root, case):
  _image(root, case).write_bytes(b"hello" * 100)


@fault(VOLUMES, "scan.nii.gz is not named CASE_0000")
def name_without_channel(root, case):
  nifti(root / "imagesTr" / "scan.nii.gz", noise(1))


@fault(VOLUMES, "cases.csv names the case c99")
def row_without_case(root, case):
  names = sorted(path.name.removesuffix(".nii.gz") for path in (root / "labelsTr").glob("c*.nii.gz"))
  (root / "cases.csv").write_text("\n".join(["case", *names, "c99", ""]))


@fault(PICTURES, "p{case}/s_1_mask.png is a mask in colours")
def mask_in_colours(root, case):
  values = np.stack([blobs(n, (255,))[1] for n in (1, 2, 3)], -1)
  for index in (1, 2, 3):
    picture(root / "masks" / f"p{case}" / f"s_{index}_mask.png", values)


@fault(PICTURES, "masks are marked by 1, as in", "p{case}/s_2_mask.png, and by 255, as in", "p0/s_2_mask.png")
def masks_of_1_and_255(root, case):
  for index, mask in enumerate(blobs(2, (1,)), 1):
    picture(root / "masks" / f"p{case}" / f"s_{index}_mask.png", mask)


@fault(PICTURES, "p{case}/s_1.png jump from 1 to 3", "cases.csv")
def gap_between_slices(root, case):
  for folder, end in (("images", ""), ("masks", "_mask")):
    (root / folder / f"p{case}" / f"s_2{end}.png").unlink()
    for index in (4, 5):
      shutil.copy(root / folder / f"p{case}" / f"s_3{end}.png", root / folder / f"p{case}" / f"s_{index}{end}.png")


@fault(PICTURES, "p{case}/S_2_mask.png has no image", "differs from s_2.png in capitals")
def mask_in_capitals(root, case):
  (root / "masks" / f"p{case}" / "s_2_mask.png").rename(root / "masks" / f"p{case}" / "S_2_mask.png")


@fault(PICTURES, "p{case}/s_2.png is 12 x 9", "slices of a case are alike")
def sizes_in_one_case(root, case):
  picture(root / "images" / f"p{case}" / "s_2.png", noise(1, (12, 9), 256).astype(np.uint8))


@fault(PICTURES, "p{case}/s_2.png", "stored in different orientations", "save both upright")
def image_that_is_turned(root, case):
  exif = Image.Exif()
  exif[274] = 3
  path = root / "images" / f"p{case}" / "s_2.png"
  Image.open(path).save(path, exif=exif)


@fault(PICTURES, "p{case}/s_2.bmp is not a NIfTI, TIFF, PNG or JPEG: convert it")
def image_of_a_kind_that_is_not_read(root, case):
  path = root / "images" / f"p{case}" / "s_2.png"
  Image.open(path).save(path.with_suffix(".bmp"))
  path.unlink()


@fault(PICTURES, "p{case}/s_2_mask.jpg is a mask of", "saved as JPEG, which changes numbers")
def mask_as_jpeg(root, case):
  path = root / "masks" / f"p{case}" / "s_2_mask.png"
  Image.open(path).save(path.with_suffix(".jpg"), quality=80)
  path.unlink()


@fault(PICTURES, "p{case}/s_3.png is damaged")
def damaged_png(root, case):
  path = root / "images" / f"p{case}" / "s_3.png"
  path.write_bytes(path.read_bytes()[:60])


@fault(PICTURES, "p{case}/s_2_mask.png is a mask with a palette", 'Image.open("s_2_mask.png")')
def palette_of_colours(root, case):
  path = root / "masks" / f"p{case}" / "s_2_mask.png"
  mask = Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8), "P")
  mask.putpalette([0, 0, 0, 128, 0, 0])
  mask.save(path)


@fault(PICTURES, "p{case}/s_2_mask.png is transparent in parts")
def mask_with_alpha(root, case):
  path = root / "masks" / f"p{case}" / "s_2_mask.png"
  mask = np.asarray(Image.open(path))
  Image.fromarray(np.stack([mask, mask], -1), "LA").save(path)


@fault(PICTURES, "p{case}/s_2.png and", "s_02.png", "one slice by their numbers")
def slice_that_is_there_twice(root, case):
  for folder, end in (("images", ""), ("masks", "_mask")):
    shutil.copy(root / folder / f"p{case}" / f"s_2{end}.png", root / folder / f"p{case}" / f"s_02{end}.png")


@fault(PICTURES, "characters in its name that cannot be printed", "rename it")
def name_that_is_no_text(root, case):
  for folder in ("images", "masks"):
    os.rename(root / folder / f"p{case}", os.fsencode(root / folder) + b"/p\xff13")


BASES = {"volumes": (VOLUMES, nnunet), "pictures": (PICTURES, pictures)}
ONE_BY_ONE = [(base, name) for base, (faults, _) in BASES.items() for name in faults]


def lines_of(root, window=""):
  found = inspect(layouts.find(root), window)
  assert not any("\n" in str(problem) for problem in found.collection.problems)
  return [str(problem) for problem in found.collection.problems]


def nothing_built(data_dir):
  return all(path.name == ".lock" for path in data_dir.rglob("*") if path.is_file()) and not [*data_dir.rglob("1.1.0*")]


@pytest.mark.parametrize("base", BASES)
def test_without_a_fault_nothing_is_wrong(tmp_path, base):
  assert lines_of(BASES[base][1](tmp_path)) == []


@pytest.mark.parametrize(("base", "name"), ONE_BY_ONE)
def test_a_fault_is_one_line(tmp_path, base, name):
  faults, make = BASES[base]
  plant, words = faults[name]
  plant(root := make(tmp_path / "set"), 4)
  words = [word.format(case=4) for word in words]
  lines = lines_of(root)
  assert [line for line in lines if all(word in line for word in words)], lines
  assert len(lines) <= 3, lines
  error = refused(OwnSource(str(root), str(tmp_path / "data")).open_or_build)
  assert words[0].split()[0] in str(error), (str(error), lines)
  assert len(lines) == 1 or "mode=check" in error.arguments
  assert nothing_built(tmp_path / "data")


@pytest.mark.parametrize("base", BASES)
def test_all_faults_together_are_listed(tmp_path, base):
  faults, make = BASES[base]
  root = make(tmp_path / "set", len(faults) + 3)
  for case, (plant, _) in enumerate(faults.values(), 2):
    plant(root, case)
  lines = lines_of(root)
  for case, (name, (_, words)) in enumerate(faults.items(), 2):
    assert [line for line in lines if all(word.format(case=case) in line for word in words)], (name, lines)
  error = refused(OwnSource(str(root), str(tmp_path / "data")).open_or_build, "more problems in this folder")
  assert error.arguments[-1] == "mode=check"
  assert nothing_built(tmp_path / "data")


def test_all_that_users_meet_in_one_set(tmp_path):
  """Each is one line, in one folder with all others; what systems leave behind has none."""
  root = nnunet(tmp_path / "set", 16)
  about(root, ("CT", "FLAIR"), {"background": 0, "edema": 1, "core": 2, "rare": 3})
  names = [f"c{number}" for number in range(16)]
  folds = [[*names[first::3], *(["c1"] if first == 0 else [])] for first in range(3)]  # c1 in the folds 0 and 1
  splits = [{"train": [name for name in names if name not in fold], "val": fold} for fold in folds]
  (root / "splits_final.json").write_text(json.dumps(splits))
  expected = ["c1 in val of the folds 0 and 1", "no mask in", "is of CT, whose intensities mean the same in every scan"]
  planted = (
    "mask_of_another_shape", "mask_of_another_affine", "label_that_is_not_described", "mask_of_floats", "no_bytes", "image_without_mask",
    "mask_without_image", "link_that_climbs_out", "volume_mask_in_capitals", "channel_missing",
  )  # fmt: skip
  for case, name in enumerate(planted, 2):
    plant, words = VOLUMES[name]
    plant(root, case)
    expected.append([word.format(case=case) for word in words])
  for name in (".DS_Store", "__MACOSX/imagesTr/._c0_0000.nii.gz", "labelsTr/.DS_Store"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"\0\5\x16\7")
  lines = lines_of(root)
  for words in expected:
    matches = [line for line in lines if all(word in line for word in ([words] if isinstance(words, str) else words))]
    assert len(matches) == 1, (words, lines)
  assert not any("DS_Store" in line or "__MACOSX" in line for line in lines)
  assert len(lines) == len(expected) + 1, lines  # a mask in capitals leaves its image without one


def test_a_fault_of_many_files_is_one_line_with_their_number(tmp_path):
  root = nnunet(tmp_path / "set of mine", 12)
  for case in range(6):
    nifti(_mask(root, case), blobs(case, (1, 7 + case % 2)))
  for case in range(6, 9):
    mask_of_floats(root, case)
  channel_missing(root, 9)
  collection = inspect(layouts.find(root), "").collection
  kinds = by_kind(collection)
  assert [kind.count for kind in kinds if "has the label 7" in kind.example] == [6]
  assert [kind.count for kind in kinds if "a mask with the value" in kind.example] == [
    1,
    1,
    1,
  ]  # few enough to be listed
  assert sum(kind.count for kind in kinds) == len(collection.problems) == 6 + 3 + 1
  assert str(next(kind for kind in kinds if kind.count == 6)).endswith("(and 5 more like this)")


SMOOTH = {"few": (4, Image.Resampling.BOX), "many": (3, Image.Resampling.BICUBIC)}


@pytest.mark.parametrize("name", SMOOTH)
def test_masks_with_smooth_edges_have_no_more_classes(tmp_path, name):
  scale, filter = SMOOTH[name]
  y, x = np.mgrid[: 48 * scale, : 48 * scale] / scale
  for number in range(5):
    disc = np.where(np.hypot(y - 24, x - 20 - number) < 9, 255, 0).astype(np.uint8)
    picture(tmp_path / "images" / f"p{number}" / "a.png", noise(number, (48, 48), 256).astype(np.uint8))
    (tmp_path / "masks" / f"p{number}").mkdir(parents=True)
    Image.fromarray(disc).resize((48, 48), filter).save(tmp_path / "masks" / f"p{number}" / "a.png")
  lines = lines_of(tmp_path)
  assert lines and all("threshold" in line for line in lines), lines
  refused(OwnSource(str(tmp_path), str(tmp_path / "data")).open_or_build, "threshold")


def test_classes_in_grey_levels_are_no_smooth_edges(tmp_path):
  y, x = np.mgrid[:48, :48]
  for number in range(5):
    radius = np.hypot(y - 24, x - 20 - number)
    mask = np.select([radius < 5, radius < 10], [255, 128], 0).astype(np.uint8)
    picture(tmp_path / "images" / f"p{number}" / "a.png", noise(number, (48, 48), 256).astype(np.uint8))
    picture(tmp_path / "masks" / f"p{number}" / "a.png", mask)
  inspection = inspect(layouts.find(tmp_path), "")
  assert inspection.collection.problems == [] and inspection.info.classes == ("label_128", "label_255")


def test_slices_that_were_saved_as_planes_of_colours_are_named(tmp_path):
  for letter, number in zip("abcde", range(5), strict=True):
    picture(tmp_path / "images" / f"{letter}.tif", noise(number, (3, 12, 12), 256).astype(np.uint8))
    (tmp_path / "masks").mkdir(exist_ok=True)
    path = tmp_path / "masks" / f"{letter}.tif"
    tifffile.imwrite(path, blobs(number), photometric="rgb", planarconfig="separate")
  lines = lines_of(tmp_path)
  assert len(lines) == 5 and all("3 planes that count as colours" in line and "minisblack" in line for line in lines), (
    lines
  )


def test_folders_of_dicom_are_named_as_such(tmp_path):
  for number in range(3):
    (tmp_path / f"c{number}" / "T2").mkdir(parents=True)
    shutil.copy(get_testdata_file("MR_small.dcm"), tmp_path / f"c{number}" / "T2" / "0001.dcm")
  refused(lambda: layouts.find(tmp_path), "holds DICOM", "c0/T2/0001.dcm", "convert each series to NIfTI")


@pytest.mark.slow
def test_the_command_lists_all_and_leaves_with_status_1(tmp_path):
  root = nnunet(tmp_path / "set", 6)
  mask_of_another_shape(root, 1)
  label_that_is_not_described(root, 3)
  flags = ["--config=configs/seg.py:small", "--config.data.name=own", f"--config.data.root={root}"]
  status, out, err = launch(["--mode=check", *flags, f"--output={tmp_path / 'sheet.png'}"])
  assert status == 1 and "Traceback" not in err
  assert "problem 1: " in out and "problem 2: " in out and "problem 3: " not in out
  assert err.strip().splitlines()[-1] == f"error: 2 problems in {root}, listed above: correct them, and check again"
  assert Image.open(tmp_path / "sheet.png").format == "PNG" and not (tmp_path / "sheet.txt").exists()
  for case in (0, 2, 4):  # one keeps the class, which would otherwise be in no case
    label_that_is_not_described(root, case)
  status, out, err = launch(["--mode=check", *flags, f"--output={tmp_path / 'sheet.png'}"])
  listed = (tmp_path / "sheet.txt").read_text().splitlines()
  assert status == 1 and "(and 3 more like this)" in out and "problem 3: " not in out
  last = err.strip().splitlines()[-1]
  assert f"5 problems in {root}, listed above, and one by one in {tmp_path / 'sheet.txt'}" in last
  named = [line.split(" ", 1)[0] for line in listed if "has the label 7" in line]
  assert named == [str(_mask(root, case)) for case in (0, 2, 3, 4)]


def test_the_image_of_a_check_and_its_list_are_two_files(tmp_path):
  root = nnunet(tmp_path / "set", 6)
  for case in (0, 2, 3, 4):
    label_that_is_not_described(root, case)
  config = get_config("small")
  config.data.name, config.data.root = "own", str(root)
  for name in ("sheet.txt", "sheet", "sheet.jpg", "sheet.png.txt"):
    with pytest.raises(UserError, match=r"expected the name of an image: name a file that ends in \.png") as caught:
      check(config, tmp_path / name)
    assert caught.value.arguments == ("output",) and "\n" not in str(caught.value)
    assert not (tmp_path / name).exists()
  with pytest.raises(UserError, match="one by one in .*sheet.txt"):
    check(config, tmp_path / "sheet.PNG")
  assert Image.open(tmp_path / "sheet.PNG").format == "PNG" and "label 7" in (tmp_path / "sheet.txt").read_text()


def test_a_folder_in_capitals_is_named(tmp_path):
  root = nnunet(tmp_path / "set")
  (root / "labelsTr").rename(root / "LabelsTr")
  with pytest.raises(UserError, match="LabelsTr is called labelsTr in nnU-Net: rename it"):
    layouts.find(root)


def test_what_systems_leave_is_no_case(tmp_path):
  root = pictures(tmp_path / "set")
  for name in (
    ".DS_Store",
    "images/.DS_Store",
    "images/p0/._s_1.png",
    "images/Thumbs.db",
    "__MACOSX/images/p0/._s_1.png",
  ):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"\0\5\x16\7")
  _, cases = built(root, tmp_path / "data")
  assert len(cases) == 6
  notes = layouts.find(root).notes
  assert notes == [
    "5 files are left out, as they belong to no case: 4 hidden, as systems leave them, 1 of .db (images/Thumbs.db)"
  ]


DESCRIPTIONS = {
  "no JSON": ("{", "cannot be read as JSON"),
  "deep": ("[" * 100_000, "cannot be read as JSON"),
  "a list": ("[]", "is not a JSON object"),
  "twice": ('{"labels": {"a": 1, "a": 2}}', "'a' is there twice"),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_description_that_is_none(tmp_path, name):
  content, words = DESCRIPTIONS[name]
  (nnunet(tmp_path, 3) / "dataset.json").write_text(content)
  refused(lambda: layouts.find(tmp_path), tmp_path / "dataset.json", words)


LABELS = {
  "no number": ({"a": "one"}, {}, "has the label a 'one', expected numbers from 0 to 255"),
  "true": ({"a": True}, {}, "expected numbers from 0 to 255"),
  "background 1": ({"background": 1, "a": 0}, {}, "has the background 1, expected 0"),
  "region of background": ({"a": [0, 1], "b": 2}, {}, "0 is the background alone"),
  "same number": ({"a": 1, "b": 1}, {}, "two labels the same number"),
  "no order": ({"a": [1, 2], "b": 2}, {}, "regions_class_order is None"),
  "order of text": ({"a": [1, 2], "b": 2}, {"regions_class_order": ["1", "2"]}, "expected 2 different numbers"),
  "order with 0": ({"a": [1, 2], "b": 2}, {"regions_class_order": [0, 2]}, "expected 2 different numbers"),
  "background alone": ({"background": 0}, {}, "has no label but the background"),
  "order": (
    {"a": [1, 2], "b": 2},
    {"regions_class_order": [2, 1]},
    "gives the region b the number 1 in regions_class_order, expected 2",
  ),
  "smaller first": (
    {"b": 2, "a": [1, 2]},
    {"regions_class_order": [2, 1]},
    "has the region b before regions that cover all of it",
  ),
  "ignore": ({"a": 1, "b": 2, "ignore": 3}, {}, "has an ignore label, which is not supported"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_make_no_sense(tmp_path, name):
  labels, fields, words = LABELS[name]
  about(nnunet(tmp_path, 6), ("T1", "FLAIR"), labels, **fields)
  lines = lines_of(tmp_path)
  assert len(lines) == 1 and words in lines[0] and str(tmp_path / "dataset.json") in lines[0], lines


def test_a_label_in_no_case(tmp_path):
  root = nnunet(tmp_path / "set")
  about(root, ("T1", "FLAIR"), {"background": 0, "edema": 1, "core": 2, "rare": 3})
  (line,) = lines_of(root)
  assert "no mask in" in line and "has rare" in line
  refused(OwnSource(str(root), str(tmp_path / "data")).open_or_build, "has rare")
  assert nothing_built(tmp_path / "data")


def test_intensities_of_ct_need_a_window(tmp_path):
  root = tmp_path / "set"
  about(root, ("CT",), {"background": 0, "liver": 1})
  for number in range(3):
    nifti(root / "imagesTr" / f"c{number}_0000.nii.gz", noise(number) - 1000)
    nifti(root / "labelsTr" / f"c{number}.nii.gz", blobs(number, (1,)))
  (line,) = [line for line in lines_of(root) if "CT" in line]
  assert "data.window, e.g. -160,240" in line
  refused(OwnSource(str(root), str(tmp_path / "data"), folds=3).open_or_build, "data.window")
  refused(OwnSource(str(root), str(tmp_path / "data"), folds=3, window="3").open_or_build, "expected two numbers")
  _, cases = built(root, tmp_path / "data", folds=3, window="-160,240")
  expected = np.clip((noise(0).astype(float) - 1000 + 160) / 400, 0, 1) * 65535
  assert abs(cases["c0"]["image"][..., 0] - expected).max() <= 1


@pytest.mark.parametrize(
  ("channel", "is_ct"),
  [("CT", True), ("ct_scan", True), ("low dose CT", True), ("CT1", False), ("ct1", False), ("T1ct", False), ("T1CT", False), ("affected", False)],
)  # fmt: skip
def test_ct_is_a_word_of_its_own_in_the_name_of_a_channel(tmp_path, channel, is_ct):
  root = nnunet(tmp_path / "set")
  about(root, ("FLAIR", channel), {"background": 0, "edema": 1, "core": 2})
  assert any("is of CT" in line for line in lines_of(root)) == is_ct


def test_units_of_ct_are_noted_where_no_channel_is_called_so(tmp_path):
  for number in range(5):
    nifti(tmp_path / "images" / f"{'abcde'[number]}.nii.gz", noise(number) - 1000)
    nifti(tmp_path / "masks" / f"{'abcde'[number]}.nii.gz", blobs(number, (1,)))
  asked = lambda window: [line for line in inspect(layouts.find(tmp_path), window).lines if "Hounsfield" in line]
  (note,) = asked("")
  assert "data.window, e.g. -160,240" in note and asked("-160,240") == []


@pytest.mark.parametrize(
  ("cases", "words"), [(1, "holds one case only, c0"), (2, "holds 2 patients (c0, c1)"), (4, "there are 4 patients and 5 folds")]
)  # fmt: skip
def test_too_few_patients(tmp_path, cases, words):
  root = nnunet(tmp_path / "set", cases)
  assert any(words in line for line in lines_of(root))
  refused(OwnSource(str(root), str(tmp_path / "data")).open_or_build, words)
  assert not (tmp_path / "data").exists() or nothing_built(tmp_path / "data")


SPLITS = {
  "no list": ({"train": []}, "is not a list of"),
  "a text": ([{"train": "c0", "val": "c1"}], "is not a list of"),
  "case in two": ([["c0", "c1"], ["c1", "c2"], ["c3", "c4", "c5"]], "c1 in val of the folds 0 and 1"),
  "unknown": ([["c0", "c1"], ["c9", "c2"], ["c3", "c4", "c5"]], "names c9, which is not a case"),
  "one fold": ([["c0"]], "there are 1 folds in the files of"),
  "no bytes": (None, "splits_final.json is empty (0 bytes)"),
  "no val": ([["c0", "c1"], [], ["c2", "c3", "c4", "c5"]], "has no case in val of fold 1"),
  "train and val": ([{"train": ["c0", "c1"], "val": ["c1"]}], "has c1 in train and in val of fold 0"),
  "in none": ([{"train": ["c0"], "val": ["c1"]}, {"train": ["c0"], "val": ["c2"]}], "has c3 in no fold"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_splits_that_make_no_sense(tmp_path, name):
  content, words = SPLITS[name]
  root = nnunet(tmp_path)
  names = {f"c{number}" for number in range(6)}
  if isinstance(content, list) and isinstance(content[0], list):
    content = [{"train": sorted(names - set(fold)), "val": fold} for fold in content]
  (root / "splits_final.json").write_text("" if content is None else json.dumps(content))
  lines = lines_of(root)
  assert any(words in line for line in lines) and (content is not None or len(lines) == 1), lines


TABLES = {
  "no bytes": (b"", "cases.csv is empty (0 bytes)"),
  "no header": (b"\n", "has the columns none, expected one called case"),
  "other header": (b"name,patient\nc0,A\n", "has the columns name, patient, expected one called case"),
  "two columns": (b"case,case\nc0,c0\n", "two columns called case"),
  "UTF-16": ("case,patient\nc0,A\n".encode("utf-16"), "save it as CSV in UTF-8"),
  "open quote": (b'case,patient\nc0,"A\nc1,B\n', "cannot be read as a table"),
  "short line": (b"case,patient\nc0\n", "line 2 does not have as many fields"),
  "twice": (b"case\nc0\nc0\n", "line 3: c0 is there twice"),
  "taken": (b"case,dice\nc0,1\n", "has a column dice, which results have too"),
  "fold": (b"case,fold\nc0,one\n", "c0 is in the fold 'one', expected a number"),
  "gap": (b"case,fold\nc0,0\nc1,2\n", "has no case in the fold 1"),
  "patients": (b"case,patient\nc0,Mia\nc1,mia\n", "patients Mia and mia in"),
  "leak": (b"case,patient,fold\nc0,A,0\nc1,A,1\n", "A has c0 in fold 0 and c1 in fold 1"),
  "fields": (b"case,patient,sex\nc0,A,f\nc1,A,m\n", "sex of A is 'f' and 'm'"),
  "no row": (b"case\nc0\n", "has no row for the case c1"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_make_no_sense(tmp_path, name):
  content, words = TABLES[name]
  (nnunet(tmp_path, 5) / "cases.csv").write_bytes(content)
  assert any(words in line for line in lines_of(tmp_path)), lines_of(tmp_path)


LAYOUTS = {
  "nothing": ((), "has no layout that is known"),
  "no dataset.json": (("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"), "imagesTr/, and no dataset.json"),
  "two of masks": (("images/a.png", "masks/a.png", "labels/a.png"), "labels, masks for masks, expected one"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_folders_of_no_layout(tmp_path, name):
  paths, words = LAYOUTS[name]
  for path in paths:
    picture(tmp_path / path, noise(1, (4, 4), 9).astype(np.uint8)) if path.endswith("png") else nifti(
      tmp_path / path, noise(1)
    )
  refused(lambda: layouts.find(tmp_path), tmp_path, words)


def test_case_folders_with_a_sequence_missing_or_nothing_but_one(tmp_path):
  for number in range(5):
    for word in ("flair", "t1", "seg"):
      values = blobs(number, (1,)) if word == "seg" else noise(10 * number + len(word))
      nifti(tmp_path / f"c{number}" / f"c{number}_{word}.nii.gz", values)
  for path in ("c1/c1_t1", "c2/c2_t1", "c2/c2_seg"):
    (tmp_path / f"{path}.nii.gz").unlink()
  nifti(tmp_path / "c3" / "c3_dwi.nii.gz", noise(5))
  collection = layouts.find(tmp_path)
  lines = [str(problem) for problem in collection.problems]
  assert [line for line in lines if f"{tmp_path / 'c1'} has no t1" in line]
  assert [line for line in lines if f"{tmp_path / 'c2'} has no t1" in line]
  assert [case.name for case in collection.cases] == ["c0", "c3", "c4"]
  assert "dwi is left out, as only 1 of 5 cases have it" in collection.notes


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root may read what nobody may")
def test_a_file_that_may_not_be_read(tmp_path_factory):
  root = pathlib.Path(str(tmp_path_factory.mktemp("shared")))
  nnunet(root / "set")
  _image(root / "set", 3).chmod(0)
  with _as_nobody(root):
    lines = lines_of(root / "set")
  assert [line for line in lines if "c3_0000.nii.gz cannot be read (no permission): make it readable" in line], lines


@contextlib.contextmanager
def _as_nobody(folder):
  """Without the rights of root, which reads everything."""
  if os.getuid() != 0:
    yield
    return
  opened = [path for path in folder.parents if not path.stat().st_mode & 1] + [folder]
  modes = {path: path.stat().st_mode for path in opened}
  for path in opened:
    path.chmod(modes[path] | 0o55)
  os.seteuid(65534)
  try:
    yield
  finally:
    os.seteuid(0)
    for path, mode in modes.items():
      path.chmod(mode)


_BUILD = """
import sys
from bt_jax.datasets.own_data.source import OwnSource
print(OwnSource(sys.argv[1], sys.argv[2]).open_or_build().info.splits.total_num_examples)
"""


@pytest.mark.slow
def test_a_killed_build_starts_clean(tmp_path):
  root = nnunet(tmp_path / "set", 60)
  command = [sys.executable, "-c", _BUILD, str(root), str(tmp_path / "data")]
  process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
  while not list((tmp_path / "data").rglob("incomplete.*/*")):
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not list((tmp_path / "data").rglob("1.1.0"))
  _, cases = built(root, tmp_path / "data")
  assert len(cases) == 60 and not list((tmp_path / "data").rglob("incomplete.*"))


def test_integers_and_floats_of_64_bits_and_two_dimensions(tmp_path):
  """Are read as what they are."""
  root = nnunet(tmp_path / "set", 3)
  for number, kind in enumerate((np.int64, np.float64)):
    values = noise(10 * number).astype(kind)
    affine = nibabel.load(_image(root, number)).affine
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind)
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), affine, header, dtype=kind)
    nibabel.save(image, _image(root, number))
  assert lines_of(root) == ["there are 3 patients and 5 folds: set data.folds to 3 or less"]
  flat = tmp_path / "flat"
  about(flat, ("A",), {"background": 0, "b": 1})
  for number in range(3):
    for path, values in (("imagesTr/c{}_0000", noise(number)[0]), ("labelsTr/c{}", blobs(number, (1,))[1])):
      (flat / path).parent.mkdir(exist_ok=True)
      nibabel.save(nibabel.Nifti1Image(values.T, np.diag([-1, -1, 1, 1])), flat / f"{path.format(number)}.nii.gz")
  _, cases = built(flat, tmp_path / "data", folds=3)
  for number in range(3):
    np.testing.assert_array_equal(cases[f"c{number}"]["mask"][0, ..., 0], blobs(number, (1,))[1])


def test_a_problem_of_a_check_is_a_user_error(tmp_path):
  """Of a name with a line break: still one line."""
  root = pictures(tmp_path / "set", 3)
  (root / "images" / "p0").rename(root / "images" / "p\n0")
  (root / "masks" / "p0").rename(root / "masks" / "p\n0")
  collection = layouts.find(root)
  assert collection.problems and all(isinstance(problem, UserError) for problem in collection.problems)
  assert not any("\n" in str(problem) for problem in collection.problems)
