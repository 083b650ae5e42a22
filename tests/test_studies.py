import hashlib
import itertools
import json
import pathlib
import tempfile
import zipfile

import nibabel
import numpy as np
import pydicom
import pydicom.data
import pytest
import tifffile
from PIL import Image

from bt_jax import files
from bt_jax.errors import MachineError
from bt_jax.scans import reader, sequences
from tests.helpers.refusals import refused

RNG = np.random.default_rng(0)


def picture(path, size=6):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(RNG.integers(0, 255, (size, size), dtype=np.uint8)).save(path)
  return path


def volume(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  nibabel.save(nibabel.Nifti1Image(RNG.normal(500, 90, (5, 6, 7)).astype(np.float32), np.eye(4)), path)
  return path


def dicom(path, study):
  """A header that is enough to be found."""
  path.parent.mkdir(parents=True, exist_ok=True)
  data = pydicom.Dataset()
  data.SOPClassUID, data.SOPInstanceUID, data.StudyInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"1.2.{study}", study
  data.Modality = "MR"
  data.file_meta = pydicom.dataset.FileMetaDataset()
  data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  pydicom.dcmwrite(path, data, enforce_file_format=True)
  return path


def found(path, given=None):
  return {study.name: [str(file.name) for file in study.files] for study in reader.find(path, given or {})}


def test_the_published_tree_is_a_volume_by_case_in_slice_order(tmp_path):
  for case in ("TCGA_CS_4941_19960909", "TCGA_DU_5849_19950405"):
    for number in range(1, 12):
      picture(tmp_path / case / f"{case}_{number}.tif")
      picture(tmp_path / case / f"{case}_{number}_mask.tif")
  (tmp_path / "data.csv").write_text("Patient")
  cases = found(tmp_path)
  assert list(cases) == ["TCGA_CS_4941_19960909", "TCGA_DU_5849_19950405"]
  assert cases["TCGA_CS_4941_19960909"] == [f"TCGA_CS_4941_19960909_{number}.tif" for number in range(1, 12)]
  assert list(found(tmp_path / "TCGA_CS_4941_19960909")) == [""]
  first = reader.read(reader.find(tmp_path, {})[0])
  assert first.name == "TCGA_CS_4941_19960909" and first.image.shape == (11, 6, 6, 3)
  assert reader.read(reader.find(tmp_path / "TCGA_CS_4941_19960909", {})[0]).name == "TCGA_CS_4941_19960909"


def test_a_flat_folder_is_a_volume_by_name(tmp_path):
  for name in ("patient1_3", "patient1_20", "patient2_1", "other"):
    picture(tmp_path / f"{name}.png")
  picture(tmp_path / "patient1_1.jpg")
  for number in range(2):
    tifffile.imwrite(tmp_path / f"stack{number}.tif", np.zeros((4, 6, 6), np.uint8), photometric="minisblack")
  assert found(tmp_path) == {
    "other": ["other.png"],
    "patient1": ["patient1_3.png", "patient1_20.png"],
    "patient1_1": ["patient1_1.jpg"],
    "patient2_1": ["patient2_1.png"],
    "stack0": ["stack0.tif"],  # of several pages: a volume each
    "stack1": ["stack1.tif"],
  }


@pytest.mark.parametrize(("stem", "role", "rest"), [
  ("BraTS-GLI-00001-000-t2f", "flair", "BraTS-GLI-00001-000"), ("BraTS-GLI-00001-000-t1n", "pre", "BraTS-GLI-00001-000"),
  ("BraTS-GLI-00001-000-t1c", "post", "BraTS-GLI-00001-000"), ("BraTS20_001_t1ce", "post", "BraTS20_001"),
  ("BraTS-GLI-00001-000-t2w", "t2", "BraTS-GLI-00001-000"), ("BraTS20_001_seg", "mask", "BraTS20_001"),
  ("sub-01_ce-gadolinium_T1w", "post", "sub-01"), ("sub-01_T1w", "pre", "sub-01"), ("T2_FLAIR", "flair", ""),
  ("T1_post", "post", ""), ("UPENN-GBM-00001_11_T1GD", "post", "UPENN-GBM-00001_11"), ("case_0000", None, "case_0000"),
  ("dice", None, "dice"), ("sub_T1+C", "post", "sub"), ("sub_T1_contrast", "post", "sub"), ("sub_t1_km", "post", "sub"),
  ("sub_T1wCE", "post", "sub"), ("sub_T1_pre_contrast", "pre", "sub"), ("sub_t2_tirm_dark-fluid", "flair", "sub"),
  ("TCGA-CS-4942_1997.02.22_t1Gd", "post", "TCGA-CS-4942_1997.02.22"), ("CT1", "post", ""), ("p1_ADC", "other", "p1"),
  ("TCGA-CS-4942_1997.02.22_GlistrBoost", "mask", "TCGA-CS-4942_1997.02.22"), ("p1_SWI", "other", "p1"),
  ("W39_1998.09.19_Segm", "mask", "W39_1998.09.19"), ("p1_T1_subtraction", "other", "p1_T1"), ("p1_T1_FLAIR", "pre", "p1"),
  ("p1_T1_FLAIR_post", "post", "p1"), ("sub-01_FLAIR", "flair", "sub-01"), ("sub-01_space-T1w_FLAIR", "flair", "sub-01"),
  ("p1_flair_to_T1", "flair", "p1"), ("patient1", None, "patient1"), ("pt1_flair", "flair", "pt1"),
  ("UCSF-PDGM-0004", None, "UCSF-PDGM-0004"), ("p1_pre_flair", "flair", "p1_pre"), ("1_no", None, "1_no"),
  ("sub_t2flair", "flair", "sub"), ("patient_c", None, "patient_c"), ("patient_c_flair", "flair", "patient_c"),
])  # fmt: skip
def test_sequences_in_names(stem, role, rest):
  assert sequences.in_name(stem) == (role, rest)


def test_volumes_by_name_go_together_round_a_flair(tmp_path):
  for name in ("a_flair", "a_t1", "a_t1ce", "a_t2", "a_seg", "b_t1", "b_t1ce", "c", "a_mask"):
    volume(tmp_path / f"{name}.nii.gz")
  volume(tmp_path / "deep" / "p1" / "FLAIR.nii")
  volume(tmp_path / "deep" / "p1" / "T1.nii")
  listed = {study.name: study for study in reader.find(tmp_path, {})}
  assert list(listed) == ["a", "deep/p1"]
  assert listed["a"].files == (tmp_path / "a_flair.nii.gz",)
  assert listed["a"].given == {"pre": str(tmp_path / "a_t1.nii.gz"), "post": str(tmp_path / "a_t1ce.nii.gz")}
  assert listed["deep/p1"].given == {"pre": str(tmp_path / "deep" / "p1" / "T1.nii")}
  scan = reader.read(listed["a"])
  assert scan.name == "a" and scan.roles["post"] == "a_t1ce.nii.gz"
  (beside,) = (warning for warning in scan.warnings if "left out beside it" in warning)
  for name in ("a_t2.nii.gz (T2)", "a_seg.nii.gz (a segmentation)", "b_t1.nii.gz (T1", "c.nii.gz (not called FLAIR)"):
    assert name in beside


def label(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  nibabel.save(nibabel.Nifti1Image(RNG.integers(0, 4, (5, 6, 7)).astype(np.int16), np.eye(4)), path)
  return path


@pytest.mark.parametrize("case", ["TCGA-CS-4942_1997.02.22", "BraTS20_Training_355", "p 1"])
def test_published_folders_are_one_study_each_and_say_what_they_leave_out(tmp_path, case):
  paths = {role: volume(tmp_path / f"{case}_{role}.nii.gz") for role in ("flair", "t1", "t1Gd", "t2", "ADC", "SWI")}
  for name in (f"{case}_GlistrBoost_ManuallyCorrected", "W39_1998.09.19_Segm"):
    label(tmp_path / f"{name}.nii.gz")
  volume(tmp_path / "unknown.nii.gz")
  (study,) = reader.find(tmp_path, {})
  assert study.given == {"pre": str(paths["t1"]), "post": str(paths["t1Gd"])}
  warnings = " ".join(reader.read(study).warnings)
  for word in ("t2.nii.gz (T2)", "ADC", "SWI", "GlistrBoost", "Segm", "unknown.nii.gz (not called FLAIR)"):
    assert word in warnings, warnings


def test_what_is_no_flair_is_no_study(tmp_path):
  for name in ("p1_t1", "p1_t2", "p2_ADC"):
    volume(tmp_path / f"{name}.nii.gz")
  volume(tmp_path / "p3" / "T1" / "image.nii.gz"), volume(tmp_path / "p3" / "FLAIR" / "image.nii.gz")
  label(tmp_path / "p4" / "image.nii.gz"), label(tmp_path / "p5" / "p5_seg.nii.gz")
  listed = {study.name: study for study in reader.find(tmp_path, {})}
  assert [*listed] == ["p1", "p2", "p3/FLAIR", "p3/T1", "p4"]
  for name, words in {
    "p1": ["no FLAIR", "p1_t1.nii.gz (T1 before contrast)", "p1_t2.nii.gz (T2)"],
    "p2": ["no FLAIR", "p2_ADC.nii.gz"],
    "p3/T1": ["no FLAIR", "image.nii.gz (T1"],
    "p4": ["whole numbers (0, 1, 2, 3)", "label"],
  }.items():
    refused(lambda name=name: reader.read(listed[name]), name, *words)
  assert reader.read(listed["p3/FLAIR"]).image.any()


def test_several_patients_of_one_folder_keep_their_rows(tmp_path):
  for name in ("a_flair", "a_t1", "b_flair", "c_t1", "c_t1ce", "a_seg", "other"):
    volume(tmp_path / f"{name}.nii.gz")
  listed = {study.name: study for study in reader.find(tmp_path, {})}
  assert [*listed] == ["a", "b", "c"]
  refused(lambda: reader.read(listed["c"]), "c has no FLAIR", "c_t1.nii.gz", "c_t1ce.nii.gz")
  assert "a_seg" not in " ".join(reader.read(listed["b"]).warnings)
  assert "other.nii.gz" in " ".join(reader.read(listed["b"]).warnings)


def test_two_files_of_one_sequence_are_not_chosen_from(tmp_path):
  for name in ("a_flair", "a_t2f", "a_t1"):
    volume(tmp_path / f"{name}.nii.gz")
  (study,) = reader.find(tmp_path, {})
  refused(lambda: reader.read(study), "several files of FLAIR", "a_flair.nii.gz", "a_t2f.nii.gz", "--flair")


def test_images_that_are_called_something_else_are_no_flair(tmp_path):
  for name, values in (("p1/flair", 3), ("p1/t1", 3), ("p2/t2", 3)):
    for number in range(values):
      picture(tmp_path / f"{name}_{number}.png")
  listed = {study.name: study for study in reader.find(tmp_path, {})}
  assert [*listed] == ["p1", "p2"]
  assert "t1_0.png and 2 more (T1 before contrast)" in " ".join(reader.read(listed["p1"]).warnings)
  refused(lambda: reader.read(listed["p2"]), "no FLAIR", "t2_0.png")


@pytest.mark.parametrize("said", [None, {"0": "T1", "1": "FLAIR", "2": "T1ce", "3": "T2"}, {"0": "T1", "1": "T2"}])
def test_numbered_sequences_of_nnu_net_are_one_study_by_dataset_json(tmp_path, said):
  folder = tmp_path / "nnunet"
  for number in range(4 if said is None else len(said)):
    for case in ("BRATS_001", "BRATS_002"):
      volume(folder / "imagesTr" / f"{case}_{number:04d}.nii.gz"), label(folder / "labelsTr" / f"{case}.nii.gz")
  if said:
    (folder / "dataset.json").write_text(json.dumps({"channel_names": said}))
  listed = {study.name: study for study in reader.find(tmp_path, {})}
  assert [*listed] == ["nnunet/imagesTr/BRATS_001", "nnunet/imagesTr/BRATS_002"]
  study = listed["nnunet/imagesTr/BRATS_002"]
  if said is None:
    refused(lambda: reader.read(study), "no dataset.json", "--flair")
  elif "FLAIR" not in said.values():
    refused(lambda: reader.read(study), "no FLAIR by dataset.json")
  else:
    scan = reader.read(study)
    assert [pathlib.Path(path).name for path in (*study.files, *study.given.values())] == [
      "BRATS_002_0001.nii.gz", "BRATS_002_0000.nii.gz", "BRATS_002_0002.nii.gz"
    ]  # fmt: skip
    assert "BRATS_002_0003.nii.gz (T2)" in " ".join(scan.warnings)


def test_patients_that_are_numbered_are_studies(tmp_path):
  for number in range(1, 4):
    volume(tmp_path / f"case_{number:04d}.nii.gz")
  assert list(found(tmp_path)) == ["case_0001", "case_0002", "case_0003"]


def test_a_full_temporary_folder_is_no_bad_study(tmp_path, monkeypatch):
  root = tmp_path / "in"
  for name in ("a", "b"):
    pack_one(root / f"{name}.zip")
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))  # as good as full
  (study, _) = reader.find(root, {})
  with pytest.raises(MachineError, match=r"temporary folder .*nowhere.*TMPDIR"):
    reader.read(study)


def pack_one(path):
  picture(path.parent / "s.png")
  pack(path, [("s.png", (path.parent / "s.png").read_bytes())])
  (path.parent / "s.png").unlink()


def test_series_of_one_study_go_together_wherever_they_lie(tmp_path):
  for study, folder in (("1.2.3", "p1/flair"), ("1.2.3", "p1/t1"), ("1.2.4", "p2/flair")):
    for number in (10, 9):
      dicom(tmp_path / folder / f"IM{number}", study)
  assert found(tmp_path) == {"p1": ["IM9", "IM10", "IM9", "IM10"], "p2/flair": ["IM9", "IM10"]}
  assert list(found(tmp_path / "p1", {"flair": "1.2.5"})) == [""]
  assert reader.find(tmp_path / "p1", {"flair": "1.2.5"})[0].given == {"flair": "1.2.5"}
  refused(lambda: reader.find(tmp_path, {"flair": "1.2.5"}), "2 studies", "flair picks a series of one", "--input")


def test_by_content_before_name(tmp_path):
  picture(tmp_path / "a.png").rename(tmp_path / "a.nii")
  volume(tmp_path / "v.nii.gz").rename(tmp_path / "upload")
  dicom(tmp_path / "IM1", "1.2.3").rename(tmp_path / "d.tif")
  formats = {study.files[0].name: study.format for study in reader.find(tmp_path, {})}
  assert formats == {"a.nii": "images", "upload": "nifti", "d.tif": "dicom"}
  (tmp_path / "empty.nii.gz").touch()
  (study,) = reader.find(tmp_path / "empty.nii.gz", {})
  refused(lambda: reader.read(study), "empty.nii.gz", "empty")


def test_a_dicom_that_begins_like_a_tiff_is_dicom():
  path = pydicom.data.get_testdata_file("MR_small.dcm", download=False)
  with open(path, "rb") as file:
    assert file.read(4) == b"II*\0"
  assert reader.find(pathlib.Path(path), {})[0].format == "dicom"


def test_what_is_left_out(tmp_path):
  picture(tmp_path / "s_1.png")
  for name in (".s_2.png", "s_1_mask.png", "contact_sheet.png", ".hidden/s.png", "__MACOSX/s.png", "masks/s.png"):
    picture(tmp_path / name)
  volume(tmp_path / "mask.nii.gz"), volume(tmp_path / "probability.nii.gz")
  (tmp_path / "prediction.json").write_text("{}")
  (tmp_path / "notes.txt").write_text("x")
  (tmp_path / "loop").symlink_to(tmp_path)
  (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
  assert found(tmp_path) == {"": ["s_1.png"]}


def test_no_two_studies_of_one_name(tmp_path):
  for name in ("a.png", "a.jpg", "sub/1.png", "1.png", "sub/2.jpg", "other/x.png"):
    picture(tmp_path / name)
  volume(tmp_path / "a.nii.gz"), volume(tmp_path / "a.nii")
  names = [study.name for study in reader.find(tmp_path, {})]
  assert len({*names}) == len(names) == 8 and {"sub/1", "sub/2", "other"} < {*names} and all(names)


def test_folders_of_masks_hold_no_scans(tmp_path):
  for folder in ("images", "masks", "labels", "p1", "p1/overlays"):
    picture(tmp_path / folder / "s_1.png"), picture(tmp_path / folder / "s_2.png")
  assert [study.name for study in reader.find(tmp_path, {})] == ["images", "p1"]


def test_files_by_role(tmp_path):
  flair, pre = volume(tmp_path / "x.nii"), volume(tmp_path / "y.nii")
  (study,) = reader.find(None, {"pre": str(pre), "flair": str(flair)})
  assert (study.name, study.format, study.files, study.given) == ("", "nifti", (flair,), {"pre": str(pre)})
  assert reader.read(study).name == "x" and reader.read(study).sha256 == files.sha256_of([flair, pre])
  find = lambda given, path=None: lambda: reader.find(path, {role: str(one) for role, one in given.items()})
  refused(find({"pre": pre}), "no FLAIR", "--flair")
  refused(find({}), "--input")
  refused(find({"flair": flair, "pre": tmp_path / "z.nii"}), "z.nii", "--pre")
  (tmp_path / "link.nii").symlink_to(flair)
  refused(find({"flair": flair, "pre": tmp_path / "link.nii"}), "link.nii", "twice")
  refused(find({"flair": flair, "pre": picture(tmp_path / "p.png")}), "images", "nifti")
  refused(find({"pre": pre}, flair), "x.nii", "--pre")
  (tmp_path / "copy.nii").write_bytes(flair.read_bytes())
  refused(lambda: reader.read(reader.find(None, {"flair": str(flair), "post": str(tmp_path / "copy.nii")})[0]), "twice")


def test_one_line_says_what_is_read(tmp_path):
  refused(lambda: reader.find(tmp_path / "nowhere", {}), "nowhere", ".nii.gz")
  refused(lambda: reader.find(tmp_path, {}), tmp_path, ".tif")
  (tmp_path / "a.docx").write_bytes(b"text")
  refused(lambda: reader.find(tmp_path / "a.docx", {}), "a.docx", ".nii.gz")
  (study,) = reader.find(picture(tmp_path / "a.png"), {})
  study.files[0].unlink()
  refused(lambda: reader.read(study), "a.png", "cannot be read")


def test_thousands_of_files_are_found_by_their_first_bytes(tmp_path):
  start = picture(tmp_path / "s_0.png").read_bytes()
  for number in range(1, 2000):
    (tmp_path / f"s_{number}.png").write_bytes(start[:40])
  ((name, names),) = found(tmp_path).items()
  assert name == "" and names == [f"s_{number}.png" for number in range(2000)]


@pytest.mark.parametrize("number", range(1, 6))
def test_shards_are_all_studies_once(number):
  listed = [reader.Study(str(index), "images", (), {}) for index in range(13)]
  shards = [reader.shard(listed, f"{one}/{number}") for one in range(1, number + 1)]
  assert sorted(itertools.chain(*shards), key=listed.index) == listed
  assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("part", ["0/2", "3/2", "1/0", "a/b", "1", "-1/2", "1/2/3", ""])
def test_a_shard_that_is_none(part):
  refused(lambda: reader.shard([], part), "--shard", "i/n")


def pack(path, contents):
  with zipfile.ZipFile(path, "w") as archive:
    for name, content in contents:
      archive.writestr(name, content)
  return path


def test_a_zip_is_the_study_in_it(tmp_path):
  values = [(f"case/s_{number}.png", picture(tmp_path / "in" / f"s_{number}.png").read_bytes()) for number in (2, 10)]
  (tmp_path / "z").mkdir()
  path = pack(tmp_path / "z" / "p1.zip", [*values, ("__MACOSX/._s.png", b"x"), ("case/", b"")])
  (study,) = reader.find(path, {})
  scan, unpacked = reader.read(study), reader.read(reader.find(tmp_path / "in", {})[0])
  assert (study.name, scan.name, scan.format, scan.slice_names) == ("", "p1", "images", ["s_2", "s_10"])
  np.testing.assert_array_equal(scan.image, unpacked.image)
  assert scan.sha256 == files.sha256_of([path]) != unpacked.sha256
  pack(tmp_path / "z" / "p2.zip", [(name.replace("s_", "s_1_"), content[:60]) for name, content in values])
  pack(tmp_path / "z" / "p3.zip", [("a.png", values[0][1]), ("b/b.png", values[1][1])])
  listed = {study.name: study for study in reader.find(tmp_path / "z", {})}
  assert list(listed) == ["p1", "p2", "p3"]
  refused(lambda: reader.read(listed["p2"]), "p2.zip: case/s_1_2.png", "damaged")  # no temporary path
  refused(lambda: reader.read(listed["p3"]), "p3.zip", "2 studies")
  (study,) = reader.find(pack(tmp_path / "p4.zip", [("notes.txt", b"x")]), {})
  refused(lambda: reader.read(study), f"{tmp_path}/p4.zip holds no scan")


def test_sha256_is_that_of_the_bytes_in_order(tmp_path):
  (tmp_path / "a").write_bytes(b"one"), (tmp_path / "b").write_bytes(b"two")
  assert files.sha256_of([tmp_path / "b", tmp_path / "a"]) == hashlib.sha256(b"twoone").hexdigest()
