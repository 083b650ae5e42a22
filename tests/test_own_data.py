"""A user's own folder: each layout gives its cases, and what is stored is what the files hold."""

import json
import os
import pathlib
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from bt_jax.datasets import splits
from bt_jax.datasets.own_data import case_volumes, folds, layouts, storing, synthetic
from bt_jax.datasets.own_data.collection import Case, patient_of
from bt_jax.datasets.own_data.inspection import inspect
from bt_jax.datasets.own_data.source import OwnSource
from bt_jax.scans import resampling
from tests.helpers.launching import ROOT
from tests.helpers.own_folders import (
  SHAPE,
  about,
  blobs,
  built,
  in_16_bits,
  nifti,
  nnunet,
  noise,
  picture,
  pictures,
)  # fmt: skip


def test_nnunet_holds_what_the_files_hold(tmp_path):
  source, cases = built(nnunet(tmp_path / "set"), tmp_path / "data")
  assert (source.info.channels, source.info.classes, source.info.ids) == (("T1", "FLAIR"), ("edema", "core"), (1, 2))
  assert (source.info.reference, source.info.size, source.info.overlapping) == ("FLAIR", 12, False)
  assert list(cases) == [f"c{number}" for number in range(6)]
  for number, case in enumerate(cases.values()):
    for channel in range(2):
      expected = in_16_bits(noise(10 * number + channel))
      assert abs(case["image"][..., channel].astype(float) - expected).max() <= 1
    np.testing.assert_array_equal(case["mask"], np.stack([blobs(number) == 1, blobs(number) == 2], -1))
    assert case["slice"] == [1, 2, 3]
    in_255 = case["image"].reshape(-1, 2) / 257
    np.testing.assert_allclose(case["mean"], in_255.mean(0), rtol=1e-6)
    np.testing.assert_allclose(case["std"], in_255.std(0), rtol=1e-6)
  spacings = source.read_spacings(source.open_or_build())
  assert spacings == dict.fromkeys(cases, (4.0, 1.0, 1.0))


def test_regions_overlap(tmp_path):
  root = nnunet(tmp_path / "set")
  about(root, ("T1", "FLAIR"), {"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2])
  source, cases = built(root, tmp_path / "data")
  assert (source.info.classes, source.info.ids, source.info.overlapping) == (("whole", "core"), (1, 2), True)
  for number, case in enumerate(cases.values()):
    np.testing.assert_array_equal(case["mask"], np.stack([blobs(number) > 0, blobs(number) == 2], -1))


@pytest.mark.parametrize(
  "labels", [{"0": "background", "1": "edema", "2": "core"}, {"background": "0", "edema": "1", "core": "2"}, {"edema": 1, "core": 2}]
)  # fmt: skip
def test_labels_of_version_1_as_strings_and_without_background(tmp_path, labels):
  root = nnunet(tmp_path)
  about(root, ("T1", "FLAIR"), labels)
  collection = layouts.find(root)
  collection.check()
  assert collection.labels.values == {"edema": (1,), "core": (2,)}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_nnunet_in_colours(tmp_path, suffix):
  root = tmp_path / "set"
  about(root, ("R", "G", "B"), {"background": 0, "gland": 1})
  image = {number: noise(number, (12, 12, 3), 256).astype(np.uint8) for number in range(4)}
  for number, values in image.items():
    picture(root / "imagesTr" / f"c{number}_0000{suffix}", values)
    picture(root / "labelsTr" / f"c{number}{suffix}", blobs(number, (1,))[1])
  source, cases = built(root, tmp_path / "data", folds=4)
  assert source.info.channels == ("R", "G", "B")
  for number, case in enumerate(cases.values()):
    np.testing.assert_array_equal(case["image"], 257 * image[number][None].astype(int))
    np.testing.assert_array_equal(case["mask"][..., 0], blobs(number, (1,))[1:2])


def test_tiff_stacks_with_their_spacing_beside(tmp_path):
  root = tmp_path / "set"
  about(root, ("EM",), {"background": 0, "cell": 1})
  for number in range(3):
    picture(root / "imagesTr" / f"c{number}_0000.tif", noise(number).astype(np.uint16))
    (root / "imagesTr" / f"c{number}.json").write_text('{"spacing": [7.5, 0.5, 0.5]}')
    picture(root / "labelsTr" / f"c{number}.tif", blobs(number, (1,)))
  source, cases = built(root, tmp_path / "data", folds=3)
  for number, case in enumerate(cases.values()):
    assert abs(case["image"][..., 0].astype(float) - in_16_bits(noise(number))).max() <= 1
    np.testing.assert_array_equal(case["mask"][..., 0], blobs(number, (1,)))
  assert source.read_spacings(source.open_or_build())["c0"] == (7.5, 0.5, 0.5)


def test_decathlon_is_read_by_its_list(tmp_path):
  """Also where a name ends in four digits, as channels of nnU-Net do, and paths are those of Windows."""
  root, entries = tmp_path / "set", []
  for number in range(4):
    image = np.stack([noise(10 * number + channel) for channel in range(2)], -1)
    nifti(root / "imagesTr" / f"lung_{number:04d}.nii.gz", image)
    nifti(root / "labelsTr" / f"lung_{number:04d}.nii.gz", blobs(number))
    entries.append({"image": f".\\imagesTr\\lung_{number:04d}.nii.gz", "label": f"./labelsTr/lung_{number:04d}.nii.gz"})
  about(root, ("A", "B"), {"0": "background", "1": "edema", "2": "core"}, training=entries[:3], numTraining=3)
  source, cases = built(root, tmp_path / "data", folds=3)
  assert source.collection.layout == "Medical Segmentation Decathlon"
  assert list(cases) == ["lung_0000", "lung_0001", "lung_0002"]
  for number, case in enumerate(cases.values()):
    for channel in range(2):
      expected = in_16_bits(noise(10 * number + channel))
      assert abs(case["image"][..., channel].astype(float) - expected).max() <= 1
  assert any("2 files are left out" in note for note in source.collection.notes)


BRATS = {
  "2020": ("BraTS20_Training_{:03d}", "_", ("flair", "t1", "t1ce", "t2"), 4),
  "2023": ("BraTS-GLI-{:05d}-000", "-", ("t2f", "t1n", "t1c", "t2w"), 3),
}


@pytest.mark.parametrize("year", BRATS)
def test_brats(tmp_path, year):
  name, separator, words, enhancing = BRATS[year]
  for number in range(3):
    folder = tmp_path / "set" / name.format(number)
    for channel, word in enumerate(words):
      nifti(folder / f"{folder.name}{separator}{word}.nii.gz", noise(10 * number + channel))
    nifti(folder / f"{folder.name}{separator}seg.nii.gz", blobs(number, (1, 2, enhancing)))
  if year == "2020":  # as one mask of the real ones is called
    folder = tmp_path / "set" / name.format(2)
    (folder / f"{folder.name}_seg.nii.gz").rename(folder / "W39_1998.09.19_Segm.nii.gz")
  source, cases = built(tmp_path / "set", tmp_path / "data", folds=3)
  assert source.collection.layout == "BraTS"
  assert source.info.channels == ("flair", "t1", "t1ce", "t2")
  assert source.info.classes == ("necrosis", "oedema", "enhancing") and source.info.ids == (1, 2, enhancing)
  for number, case in enumerate(cases.values()):
    for channel in range(4):
      assert abs(case["image"][..., channel].astype(float) - in_16_bits(noise(10 * number + channel))).max() <= 1
    np.testing.assert_array_equal(
      case["mask"], np.stack([blobs(number, (1, 2, enhancing)) == value for value in (1, 2, enhancing)], -1)
    )


def test_visits_are_of_one_patient(tmp_path):
  for name in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000", "BraTS-GLI-00003-000"):
    for word in ("t2f", "seg"):
      nifti(
        tmp_path / name / f"{name}-{word}.nii.gz", blobs(len(name), (1,)) if word == "seg" else noise(hash(word) % 99)
      )
  collection = layouts.find(tmp_path)
  assert len(collection.cases) == 4
  assert collection.patients == ["BraTS-GLI-00001", "BraTS-GLI-00002", "BraTS-GLI-00003"]
  fold_of = folds.divide(collection, 3)
  assert fold_of["BraTS-GLI-00001-000"] == fold_of["BraTS-GLI-00001-001"]


@pytest.mark.parametrize(
  ("case", "patient"),
  [
    ("kaggle_3m_TCGA_CS_4941_19960909", "TCGA_CS_4941"),
    ("TCGA-02-0006_1", "TCGA-02-0006"),
    ("BraTS-MET-00012-003", "BraTS-MET-00012"),
    ("sub-07_ses-1_anat", "sub-07"),
    ("TCGA_CS_49411", "TCGA_CS_49411"),
    ("case_3", "case_3"),
  ],
)
def test_patients_by_the_names_that_archives_give_cases(case, patient):
  assert patient_of(case) == patient


def test_pictures_by_folder(tmp_path):
  source, cases = built(pictures(tmp_path / "set"), tmp_path / "data")
  assert (source.info.channels, source.info.classes) == (("image",), ("foreground",))
  assert list(cases) == [f"p{number}" for number in range(6)]
  for number, case in enumerate(cases.values()):
    np.testing.assert_array_equal(case["image"][..., 0], 257 * noise(number, high=256).astype(int))
    np.testing.assert_array_equal(case["mask"][..., 0], blobs(number, (255,)) > 0)
  assert source.read_spacings(source.open_or_build()) == {}


def test_pictures_beside_their_masks_by_the_name_before_the_last_number(tmp_path):
  """16 bits; slice 10 comes after slice 2; a half-filled square is only padded."""
  image = {number: noise(number, (11, 12, 7)).astype(np.uint16) for number in range(3)}
  for number, values in image.items():
    for index in range(11):
      picture(tmp_path / "set" / f"pat{number}_{index + 1}.tif", values[index])
      picture(tmp_path / "set" / f"pat{number}_{index + 1}_mask.png", blobs(number, (255,), (11, 12, 7))[index])
  source, cases = built(tmp_path / "set", tmp_path / "data", folds=3)
  assert list(cases) == ["pat0", "pat1", "pat2"] and source.info.size == 12
  for number, case in enumerate(cases.values()):
    stored, mask = case["image"][..., 0].astype(float), case["mask"][..., 0]
    (start,) = {int(np.flatnonzero(stored.any((0, 1)))[0])}
    assert start in (2, 3) and not stored[..., :start].any() and not stored[..., start + 7 :].any()
    assert abs(stored[..., start : start + 7] - in_16_bits(image[number])).max() <= 1
    np.testing.assert_array_equal(mask[..., start : start + 7], blobs(number, (255,), (11, 12, 7)) > 0)


def test_many_channels_and_sizes(tmp_path):
  for number in range(3):
    values = noise(number, (10 + 2 * number, 16, 5), 256).astype(np.uint8)
    (tmp_path / "set" / "images").mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
      tmp_path / "set" / "images" / f"{'abc'[number]}.tif", values, photometric="minisblack", planarconfig="contig"
    )
    picture(tmp_path / "set" / "masks" / f"{'abc'[number]}.png", blobs(number, (1,), (2, 10 + 2 * number, 16))[1])
  source, cases = built(tmp_path / "set", tmp_path / "data", folds=3)
  assert source.info.channels == tuple(f"channel_{number}" for number in range(1, 6))
  for number, case in enumerate(cases.values()):
    above = (16 - (10 + 2 * number)) // 2
    expected = 257 * noise(number, (10 + 2 * number, 16, 5), 256).astype(int)
    np.testing.assert_array_equal(case["image"][0, above : above + len(expected)], expected)


def test_cases_csv(tmp_path):
  """As a spreadsheet saves it: with a mark of UTF-8, semicolons, quotes and blanks; accents as two characters."""
  root = pictures(tmp_path / "set")
  (root / "images" / "p5").rename(root / "images" / "pe\u0301")
  (root / "masks" / "p5").rename(root / "masks" / "pe\u0301")
  rows = [
    ("p0", "A", "x; y", 0),
    ("p1", "A", "x; y", 0),
    ("p2", "B", "", 1),
    ("p3", " C ", "z", 2),
    ("p4", "", "z", 2),
    ("p\u00e9", "E", '"', 2),
  ]
  lines = [";".join(f'"{str(value).replace(chr(34), chr(34) * 2)}"' for value in row) for row in rows]
  (root / "cases.csv").write_bytes(("\ufeff" + "\r\n".join(["Case;patient;site;fold", *lines, ""])).encode())
  source, cases = built(root, tmp_path / "data")
  assert {name: case["patient"] for name, case in cases.items()} == {
    "p0": "A", "p1": "A", "p2": "B", "p3": "C", "p4": "p4", "p\u00e9": "E",
  }  # fmt: skip
  assert source.info.patient_fields == ("site",) and source.info.folds == 3
  builder = source.open_or_build()
  assert source.read_patients(builder, {"A", "E"}) == {"A": {"site": "x; y"}, "E": {"site": '"'}}
  index = source.read_index(builder)
  assert {entry.case: entry.fold for entry in index} == {"p0": 0, "p1": 0, "p2": 1, "p3": 2, "p4": 2, "p\u00e9": 2}
  assert [entry.id for entry in index][:4] == ["p0/1", "p0/2", "p0/3", "p1/1"]
  assert [entry.label for entry in index][:4] == [0, 1, 1, 0]


def test_splits_final(tmp_path):
  root = nnunet(tmp_path / "set")
  val = [["c0", "c3"], ["c1"], ["c2", "c4"]]
  names = {f"c{number}" for number in range(6)}
  content = [{"train": sorted(names - set(fold)), "val": fold} for fold in val]
  (root / "splits_final.json").write_text(json.dumps(content))
  source, _ = built(root, tmp_path / "data", folds=5)
  index = source.read_index(source.open_or_build())
  assert source.info.folds == 3
  assert {entry.case: entry.fold for entry in index} == {"c0": 0, "c3": 0, "c1": 1, "c2": 2, "c4": 2, "c5": -1}
  split = splits.make_split(index, kind="fold", fold=2, seed=0, count=3)
  of = lambda part: {name.split("/")[0] for name in getattr(split, part)}
  assert (of("test"), of("validation"), of("train")) == ({"c2", "c4"}, {"c0", "c3"}, {"c1", "c5"})
  assert any("1 cases are in no val of splits_final.json" in note for note in source.collection.notes)


def test_folds_by_hash_are_stable_and_none_is_empty():
  rng = np.random.default_rng(0)
  for count in (3, 5, 8):
    patients = [f"patient {number}" for number in rng.permutation(200)]
    for size in (count, count + 1, 2 * count, 200):
      fold_of = folds.by_hash(patients[:size], count)
      assert set(fold_of.values()) == set(range(count))
      assert fold_of == folds.by_hash(patients[:size][::-1], count)
    few, many = folds.by_hash(patients[:100], count), folds.by_hash(patients, count)
    assert few == {patient: many[patient] for patient in few}
    assert max(map(list(many.values()).count, range(count))) < 2.5 * 200 / count


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "ILA", "SAL"])
def test_a_case_comes_out_axial_whichever_way_its_files_lie(tmp_path, codes):
  """The mask lies in another way than its image, in the same place."""
  values, mask = noise(1, (4, 9, 7)), blobs(1, (1, 2), (4, 9, 7))
  image = nifti(tmp_path / "i.nii.gz", values, (3.0, 1.0, 1.5), codes)
  label = nifti(tmp_path / "m.nii", mask, (3.0, 1.0, 1.5), "RPI")
  volume, numbers = case_volumes.read_case(Case("c", "c", ((image,),), (label,)), ())
  np.testing.assert_array_equal(volume.values[..., 0], values)
  np.testing.assert_array_equal(numbers.values[..., 0], mask)
  assert np.allclose(volume.spacing_mm, (3.0, 1.0, 1.5))
  canonical = nibabel.as_closest_canonical(nibabel.load(image)).get_fdata()  # to the right, front and head
  np.testing.assert_array_equal(volume.values[..., 0], canonical[::-1, ::-1].transpose(2, 1, 0))


def test_a_case_is_resampled_as_scans_are_that_are_predicted():
  rng = np.random.default_rng(0)
  for height, width, size, aspect in ((9, 7, 16, 1.0), (40, 24, 16, 1.0), (12, 20, 16, 1.7), (16, 16, 16, 0.6)):
    image = rng.uniform(0, 255, (2, height, width, 3)).astype(np.float32)
    expected = np.asarray(resampling.to_network(image, size, aspect))
    np.testing.assert_allclose(storing.to_square(image, size, aspect), expected, atol=0.01)


@pytest.mark.slow
def test_stored_masks_are_those_that_monai_reads(tmp_path):
  transforms = pytest.importorskip("monai.transforms")
  load = transforms.Compose(
    [
      transforms.LoadImage(image_only=True, ensure_channel_first=True),
      transforms.Orientation(axcodes="LPS", labels=None),
    ]
  )
  root = nnunet(tmp_path / "set")
  for number, codes in enumerate(("RAS", "PSR", "ILA")):
    for channel in range(2):
      nifti(root / "imagesTr" / f"c{number}_{channel:04d}.nii.gz", noise(number + channel), codes=codes)
    nifti(root / "labelsTr" / f"c{number}.nii.gz", blobs(number), codes=codes)
  _, cases = built(root, tmp_path / "data")
  for name, case in cases.items():
    labels = load(root / "labelsTr" / f"{name}.nii.gz").numpy()[0].transpose(2, 1, 0)
    np.testing.assert_array_equal(case["mask"], np.stack([labels == 1, labels == 2], -1))
    for channel in range(2):
      values = load(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz").numpy()[0].transpose(2, 1, 0)
      assert abs(case["image"][..., channel].astype(float) - in_16_bits(values)).max() <= 1


def test_pixels_that_are_not_square_keep_their_shape(tmp_path):
  """A disc of 24 mm across in pixels of 2 x 1 mm: 12 rows high in the file, as high as wide once it is stored."""
  root = tmp_path / "set"
  about(root, ("T1",), {"background": 0, "disc": 1})
  rows, columns = np.mgrid[:24, :48]
  disc = np.hypot(2 * (rows - 11.5), columns - 23.5) <= 12
  for number in range(3):
    nifti(
      root / "imagesTr" / f"c{number}_0000.nii.gz",
      (noise(number, (2, 24, 48)) + 500 * disc).astype(np.int16),
      (4.0, 2.0, 1.0),
    )
    nifti(root / "labelsTr" / f"c{number}.nii.gz", np.repeat(disc[None].astype(np.uint8), 2, 0), (4.0, 2.0, 1.0))
  source, cases = built(root, tmp_path / "data", folds=3)
  mask = cases["c0"]["mask"][0, ..., 0]
  assert mask.shape == (48, 48)
  height, width = mask.any(1).sum(), mask.any(0).sum()
  assert width == 24 and abs(height - width) <= 2
  assert abs(mask.sum() - np.pi * 12**2) < 0.05 * np.pi * 12**2
  assert source.read_spacings(source.open_or_build())["c0"] == pytest.approx((4.0, 1.0, 1.0))


def test_a_changed_file_makes_a_new_build(tmp_path):
  root = pictures(tmp_path / "set")
  built(root, tmp_path / "data")
  first = OwnSource(str(root), str(tmp_path / "data")).open_or_build().data_path
  changed = np.full((12, 12), 7, np.uint8)
  changed[0, 0] = 200
  picture(root / "images" / "p3" / "s_2.png", changed)
  source, cases = built(root, tmp_path / "data")
  np.testing.assert_array_equal(cases["p3"]["image"][1, ..., 0], 257 * changed.astype(int))
  assert source.open_or_build().data_path != first


def test_what_a_killed_build_left_is_removed(tmp_path):
  root = pictures(tmp_path / "set")
  source = OwnSource(str(root), str(tmp_path / "data"))
  folder = tmp_path / "data" / "own_data" / source._variant
  leftover = folder / "incomplete.ABC_1.1.0"
  leftover.mkdir(parents=True)
  (leftover / "half.array_record").write_bytes(b"half")
  assert source.open_or_build().info.splits.total_num_examples == 18
  assert not leftover.exists() and sorted(path.name for path in folder.iterdir()) == [".lock", "1.1.0"]


@pytest.mark.parametrize(
  ("names", "patients"),
  [
    (
      ["p0/base", "p0/mid", "p1/base", "p1/mid", "p2/base"],
      ["p0", "p0", "p1", "p1", "p2"],
    ),  # several names in a folder
    (["p0/v1/1", "p0/v1/2", "p0/v2/1", "p1/v1/1", "p2/v1/1"], ["p0", "p0", "p1", "p2"]),  # several examinations
    (["train/p0/1", "train/p1/1", "test/p2/1"], ["p0", "p1", "p2"]),  # subsets are no patients
    (["all/a", "all/b", "all/c"], ["all_a", "all_b", "all_c"]),  # one folder around all
    (
      ["site1/sub-01/1", "site1/sub-02/1", "site2/sub-03/1"],
      ["sub-01", "sub-02", "sub-03"],
    ),  # names that number patients
  ],
)
def test_cases_in_one_folder_are_of_one_patient(tmp_path, names, patients):
  for number, name in enumerate(names):
    picture(tmp_path / f"images/{name}.png", noise(number, (8, 8), 256).astype(np.uint8))
    picture(tmp_path / f"masks/{name}.png", np.eye(8, dtype=np.uint8) * 255)
  collection = layouts.find(tmp_path)
  assert sorted(case.patient for case in collection.cases) == patients


def test_a_patient_may_be_called_subject_and_a_table_in_capitals_is_not_passed_over(tmp_path):
  root = pictures(tmp_path / "set")
  names = [case.name for case in layouts.find(root).cases]
  rows = [f"{name},{number // 2}" for number, name in enumerate(names)]
  (root / "cases.csv").write_text("\n".join(["Case ID,Subject", *rows]))
  assert [case.patient for case in layouts.find(root).cases] == [str(number // 2) for number in range(len(names))]
  (root / "cases.csv").rename(root / "Cases.csv")
  (problem,) = layouts.find(root).problems
  assert "Cases.csv is not read: rename it to cases.csv" in str(problem)


def test_an_image_whose_name_ends_as_masks_do_has_the_mask_of_its_name(tmp_path):
  for number, name in enumerate("abc"):
    picture(tmp_path / f"images/{name}_seg.png", noise(number, (8, 8), 256).astype(np.uint8))
    picture(tmp_path / f"masks/{name}_seg.png", np.eye(8, dtype=np.uint8) * 255)
  collection = layouts.find(tmp_path)
  assert collection.problems == [] and len(collection.cases) == 3


def test_no_pixel_has_two_classes_that_exclude_each_other(tmp_path):
  for number, (name, side) in enumerate(zip("abc", (16, 24, 24), strict=True)):
    mask = np.ones((side, side), np.uint8)
    mask[:, side // 2 - 1 :] = 2  # resampled from 16 to 24, a pixel on the border has a half of each
    picture(tmp_path / f"set/images/{name}.png", noise(number, (side, side), 256).astype(np.uint8))
    picture(tmp_path / f"set/masks/{name}.png", mask)
  _, cases = built(tmp_path / "set", tmp_path / "data", folds=3)
  assert (cases["a"]["mask"].sum(-1) == 1).all()


def test_slices_of_8_and_16_bits_are_not_one_case(tmp_path):
  root = pictures(tmp_path / "set")
  picture(root / "images/p1/s_2.png", noise(1, (12, 12)).astype(np.uint16))
  problems = " ".join(map(str, inspect(layouts.find(root), "").collection.problems))
  assert "s_2.png has 16 bits" in problems and "save the slices of a case alike" in problems


def test_cases_that_are_scaled_and_others_that_are_not_are_reported(tmp_path, capsys):
  root = nnunet(tmp_path / "set")
  for channel in range(2):
    nifti(root / f"imagesTr/c1_{channel:04d}.nii.gz", noise(channel, high=250))
  note = "intensities of c1 lie in 0 to 255 and stay as they are, those of c0, c2, c3 and 2 more are scaled"
  assert note in "\n".join(inspect(layouts.find(root), "").lines)
  assert note not in "\n".join(inspect(layouts.find(root), "0,3000").lines)
  built(root, tmp_path / "data")
  assert f"warning: {note}" in capsys.readouterr().out


def test_a_large_set_is_written_as_it_comes_in_few_files(tmp_path, monkeypatch):
  """More than TFDS sorts in memory, beyond which it would want TensorFlow."""
  monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 1000)
  for number in range(300):
    values = np.full((8, 8), number // 8, np.uint8)
    values[number % 8] = 250
    picture(tmp_path / f"set/images/c{number:03d}/s_1.png", values)
    picture(tmp_path / f"set/masks/c{number:03d}/s_1_mask.png", (values == 250).astype(np.uint8) * 255)
  source, cases = built(tmp_path / "set", tmp_path / "data")
  assert list(cases) == [f"c{number:03d}_s" for number in range(300)]
  for number, case in enumerate(cases.values()):
    assert case["mask"][0, number % 8].all() and case["mask"].sum() == 8
    assert (case["image"][0, (number + 1) % 8] == 257 * (number // 8)).all()
  assert len(list(pathlib.Path(source.open_or_build().data_path).glob("*.array_record-*"))) < 300


_ELSEWHERE = """
import sys, numpy
from bt_jax.datasets.own_data.source import OwnSource
data = OwnSource(sys.argv[1], sys.argv[2]).open_or_build().as_data_source("cases")
print(len(data), data[1]["image"].dtype, data[1]["image"].shape, data[1]["mask"].max(), "tensorflow" in sys.modules)
"""


@pytest.mark.slow
def test_it_is_read_elsewhere_without_tensorflow(tmp_path):
  built(pictures(tmp_path / "set"), tmp_path / "data")
  command = [sys.executable, "-c", _ELSEWHERE, tmp_path / "set", tmp_path / "data"]
  out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
  assert out.split() == ["18", "uint16", "(12,", "12,", "1)", "1", "False"]


def test_a_check_says_what_the_synthetic_set_is(tmp_path):
  synthetic.write_nnunet(tmp_path, cases=5)
  found = inspect(layouts.find(tmp_path), "")
  truth = [synthetic.make_case(number) for number in range(5)]
  text = "\n".join(found.lines)
  assert found.collection.problems == []
  assert "cases: 5 of 5 patients" in text and "channels: T1, T1ce, T2, FLAIR" in text
  assert "whole (1, 2, 3), core (2, 3), enhancing (3)" in text
  empty = sum(int((labels.max((1, 2)) == 0).sum()) for _, labels, _ in truth)
  assert f"empty: {empty} slices and 0 cases have no label" in text
  assert f"slices: 10 to 10 in a case, {10 * len(truth)} in all" in text
  assert "5 x 1 x 1 in 3 cases; 6 x 1.25 x 1 in 2 cases" in text and "96 x 96 in 5 cases" in text
  core = [int((labels >= 2).sum()) for _, labels, _ in truth]
  assert f"voxels of core: median of a case {np.median(core):.0f}, at most {max(core)}, 0 cases" in text
  highest = max(np.rint(image[..., 3]).max() for image, *_ in truth)
  assert f"intensities of FLAIR: 0 to {highest:g}" in text
  assert "note: 8 files are left out, as they belong to no case: 8 in imagesTs/" in text
  pixels = np.asarray(found.picture)
  assert found.picture.mode == "RGB" and all(
    (pixels == colour).all(-1).any() for colour in ((230, 159, 0), (0, 158, 115))
  )


@pytest.mark.slow
def test_samples_are_not_written_to_an_address(tmp_path):
  command = [sys.executable, "-m", "bt_jax.datasets.samples", "gs://bucket/set"]
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 1 and "error: gs:/bucket/set is an address" in done.stderr, done.stderr
  assert not list(tmp_path.iterdir())


def test_ten_thousand_files_are_listed_without_opening_them(tmp_path):
  """Time that grows with the square of them would be minutes."""
  for folder, end in (("images", ""), ("masks", "_mask")):
    (tmp_path / folder).mkdir()
    for number in range(5000):
      (tmp_path / folder / f"case{number % 500}_{number // 500}{end}.png").write_bytes(b"x")
  collection = layouts.find(tmp_path)
  assert (len(collection.cases), len(collection.cases[0].files), collection.problems) == (500, 20, [])
  assert [path.name for path in collection.cases[2].images[0]][:2] == ["case2_0.png", "case2_1.png"]


def test_pictures_are_checked_as_pillow_reads_them(tmp_path):
  """A mask of one bit, one with alpha that hides nothing, and one that is grey in three channels."""
  root = pictures(tmp_path / "set", cases=3)
  masks = [np.asarray(Image.open(root / "masks" / f"p{number}" / "s_2_mask.png")) for number in range(3)]
  Image.fromarray(masks[0]).convert("RGB").save(root / "masks" / "p0" / "s_2_mask.png")
  Image.fromarray(np.stack([masks[1], np.full_like(masks[1], 255)], -1), "LA").save(
    root / "masks" / "p1" / "s_2_mask.png"
  )
  _, cases = built(root, tmp_path / "data", folds=3)
  for number in range(2):
    np.testing.assert_array_equal(cases[f"p{number}"]["mask"][1, ..., 0], masks[number] > 0)
  assert cases["p0"]["image"].shape[:3] == SHAPE


def test_croissant_names_every_case_and_its_files(tmp_path):
  croissant = pytest.importorskip("mlcroissant", reason="the extra croissant is not installed")
  synthetic.write_pictures(tmp_path / "data", cases=3)
  builder = OwnSource(str(tmp_path / "data"), str(tmp_path / "built"), folds=3).open_or_build()
  described = croissant.Dataset(str(pathlib.Path(builder.data_path) / "croissant.json"))
  assert described.metadata.conforms_to == ["http://mlcommons.org/croissant/1.1"]
  records = [{name: as_text(value) for name, value in record.items()} for record in described.records("cases")]
  assert [record["cases/case"] for record in records] == ["case_000", "case_001", "case_002"]
  named = records[1]["cases/images"].split(", ")
  assert len(named) == 10 and all((tmp_path / "data" / path).is_file() for path in named)


def as_text(value):
  return value.decode() if isinstance(value, bytes) else value
