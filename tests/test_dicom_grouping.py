"""Which files are one series and one study, and what is refused rather than chosen."""

import shutil

import numpy as np
import pydicom
import pytest
from pydicom import config
from pydicom.fileset import FileSet

from bt_jax.scans import dicom, reader
from bt_jax.scans.algorithm import Algorithm
from bt_jax.schema import CHANNELS
from tests.helpers.refusals import refused
from tests.helpers.scanners import AXIAL, FLAIR, PLANES, POST, PRE, distinct, write_enhanced, write_series

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # of pydicom, where it writes such files here
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName")


def read(path, given=None):
  (study,) = reader.find(path, given or {})
  return reader.read(study)


def channel(scan, role):
  return scan.image[..., CHANNELS.index(role)]


def own_uid(size=1):
  """A SeriesInstanceUID for every so many slices."""
  return lambda data, index: setattr(data, "SeriesInstanceUID", f"1.2.3.{data.SeriesInstanceUID}.{index // size + 1}")


@pytest.fixture
def lenient_writing(monkeypatch):
  monkeypatch.setattr(config.settings, "_writing_validation_mode", config.IGNORE)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_slices_with_a_series_uid_of_their_own_are_joined(tmp_path, size):
  flair, pre = distinct(AXIAL.shape), distinct(AXIAL.shape, 1)

  def edit(number):
    def change(data, index):
      own_uid(size)(data, index)
      data.SeriesNumber = number

    return change

  write_series(tmp_path / "a", flair, edit=edit(3))
  write_series(tmp_path / "b", pre, series=PRE, description="AX T1", edit=edit(4))
  scan = read(tmp_path)
  np.testing.assert_array_equal(channel(scan, "flair"), flair)
  np.testing.assert_array_equal(channel(scan, "pre"), pre)
  assert any("joined" in warning for warning in scan.warnings)
  again = read(
    tmp_path, {"flair": f"1.2.3.{FLAIR}.2" if size < 3 else f"1.2.3.{FLAIR}.1"}
  )  # any of them names the series
  np.testing.assert_array_equal(again.image, scan.image)


def test_single_slices_that_form_no_row_are_refused_for_that(tmp_path):
  write_series(tmp_path, distinct(AXIAL.shape), edit=own_uid())[2].unlink()
  refused(lambda: read(tmp_path), "missing or too many", "4 mm apart, but 8 mm")


def test_volumes_that_form_no_row_are_not_joined_and_not_chosen_from(tmp_path):
  for index, uid in enumerate((FLAIR, PRE)):
    write_series(tmp_path / uid, distinct(AXIAL.shape, index), series=uid)
  refused(lambda: read(tmp_path), "flair of", "could be", FLAIR, PRE, "--flair=SeriesInstanceUID")
  np.testing.assert_array_equal(channel(read(tmp_path, {"flair": PRE}), "flair"), distinct(AXIAL.shape, 1))


def test_of_equal_candidates_for_another_role_none_is_chosen_either(tmp_path):
  write_series(tmp_path / "flair", distinct(AXIAL.shape))
  for index, uid in enumerate((PRE, POST)):
    write_series(tmp_path / uid, distinct(AXIAL.shape, index + 1), series=uid, description=f"AX T1 {index}")
  refused(lambda: read(tmp_path), "pre of", PRE, POST, "--pre=SeriesInstanceUID")
  assert channel(read(tmp_path, {"pre": POST}), "pre").max() > 0


@pytest.mark.parametrize("sequences", [["AX FLAIR"], ["AX FLAIR", "AX T1", "AX T1 +C"]])
def test_uids_that_are_not_unique_are_read_by_positions_and_silently(tmp_path, sequences, lenient_writing, capfd):
  volumes = [distinct(AXIAL.shape, seed) for seed in range(len(sequences))]

  def anonymize(number):
    def change(data, index):
      data.SeriesNumber = number
      for keyword in UIDS:
        setattr(data, keyword, "anonymized")

    return change

  for number, (volume, description) in enumerate(zip(volumes, sequences, strict=True)):
    for path in write_series(tmp_path / "scratch", volume, description=description, edit=anonymize(number)):
      (tmp_path / "in").mkdir(exist_ok=True)
      path.rename(tmp_path / "in" / f"{number}{path.name}")
  (tmp_path / "scratch").rmdir()
  capfd.readouterr()
  scan = read(tmp_path / "in")
  for role, volume in zip(("flair", "pre", "post"), volumes, strict=False):
    np.testing.assert_array_equal(channel(scan, role), volume)
  said = " ".join(scan.warnings)
  assert "UIDs are missing or not unique" in said and "Invalid value for VR UI" in said
  (mask,) = dicom.write(scan, tmp_path, channel(scan, "flair") > 99, {}, algorithm=Algorithm("x"))
  np.testing.assert_array_equal(pydicom.dcmread(mask).pixel_array[::-1], volumes[0] > 99)  # from head to foot
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("uid", ["", "anonymized"])
def test_series_without_a_uid_of_their_own_are_separated_by_what_they_have_in_common(tmp_path, uid, lenient_writing):
  paths = []
  for number, (description, plane) in enumerate([("AX FLAIR", "axial"), ("AX T1", "axial"), ("AX FLAIR", "sagittal")]):

    def edit(data, index, number=number):
      data.SOPInstanceUID, data.SeriesNumber, data.SeriesInstanceUID = f"2.25.{number}.{index}", number % 2, uid

    shape = (5, 7, 9) if plane == "axial" else (4, 7, 9)
    grid = PLANES[plane]._replace(shape=shape)
    paths += write_series(tmp_path / str(number), distinct(shape, number), grid, description=description, edit=edit)
  for index, path in enumerate(paths):
    path.rename(tmp_path / f"{index}.dcm")
  scan = read(tmp_path)
  np.testing.assert_array_equal(channel(scan, "flair"), distinct(AXIAL.shape))
  np.testing.assert_array_equal(channel(scan, "pre"), distinct(AXIAL.shape, 1))


def test_volumes_that_nothing_tells_apart_are_refused_for_what_they_are(tmp_path, lenient_writing):
  def anonymize(data, index):
    for keyword in UIDS:
      setattr(data, keyword, "anonymized")

  for seed in range(2):
    write_series(tmp_path / f"{seed}", distinct(AXIAL.shape, seed), edit=anonymize)
  for path in (tmp_path / "1").iterdir():
    path.rename(tmp_path / "0" / f"b{path.name}")
  refused(lambda: read(tmp_path / "0"), "two images at one position")


def dicomdir(root, name):
  """A DICOMDIR of the files below a folder, under some name."""
  files = FileSet()
  for path in sorted(root.rglob("*.dcm")):
    data = pydicom.dcmread(path)
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20200101", "101010", "1", ""
    files.add(data)
  media = root.with_name(f"media of {root.name}")
  files.write(media)
  shutil.copy(media / "DICOMDIR", root / name)
  shutil.rmtree(media)


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir", "DICOMDIR.dcm", "flair/dicomdir", "flair/A", "0"])
def test_a_dicomdir_changes_nothing_wherever_it_lies_and_whatever_it_is_called(tmp_path, name):
  root = tmp_path / "cd"
  write_series(root / "flair", distinct(AXIAL.shape))
  write_series(root / "t1", distinct(AXIAL.shape, 1), series=PRE, description="AX T1")
  before = read(root)
  dicomdir(root, name)
  after = read(root)
  np.testing.assert_array_equal(after.image, before.image)
  assert (after.warnings, after.sha256, after.roles) == (before.warnings, before.sha256, before.roles)


@pytest.mark.parametrize("kind", ["report", "segmentation", "other study"])
def test_what_comes_first_does_not_name_the_study(tmp_path, kind):
  write_series(tmp_path / "flair", distinct(AXIAL.shape))
  paths = write_series(tmp_path / "t1", distinct(AXIAL.shape, 1), series=PRE, description="AX T1")
  data = pydicom.dcmread(paths[0])
  if kind == "report":
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.BasicTextSRStorage
    data.Modality, data.StudyInstanceUID = "SR", "2.25.999"
    del data.PixelData, data.Rows, data.Columns
  elif kind == "segmentation":
    data.Modality, data.StudyInstanceUID = "SEG", "2.25.999"
  else:
    data.StudyInstanceUID, data.SOPInstanceUID = "2.25.999", "2.25.998"
  data.save_as(tmp_path / "t1" / "0.dcm")
  if kind == "other study":  # no half of a study is predicted beside it
    refused(lambda: read(tmp_path), "2 studies", "2.25.999")
  else:
    assert read(tmp_path).roles["pre"].startswith("AX T1")


def test_one_uid_of_two_patients_is_two_studies(tmp_path):
  for patient in ("a", "b"):
    write_series(
      tmp_path / patient,
      distinct(AXIAL.shape),
      edit=lambda data, _, patient=patient: setattr(data, "PatientID", patient),
    )
  assert [study.name for study in reader.find(tmp_path, {})] == ["a", "b"]


def test_a_damaged_file_is_of_the_study_in_its_folder(tmp_path):
  paths = write_series(tmp_path, distinct(AXIAL.shape))
  paths[0].write_bytes(b"")
  refused(lambda: read(tmp_path), paths[0].name, "empty")


@pytest.mark.parametrize(
  ("description", "word"),
  [
    ("AX T1", "AX T1"),
    ("AX T2", "AX T2"),
    ("ADC", "ADC"),
    ("t1 subtraction", "subtraction"),
    ("SWI", "SWI"),
    ("FLAIR seg", "seg"),
  ],
)
def test_the_only_series_is_no_flair_where_it_is_called_otherwise(tmp_path, description, word):
  write_series(tmp_path, distinct(AXIAL.shape), description=description)
  refused(lambda: read(tmp_path), "no series that is called FLAIR", word)
  assert read(tmp_path, {"flair": FLAIR}).image.any()  # whoever names it knows


def test_a_grid_four_micrometres_off_is_the_same(tmp_path):
  values = distinct(AXIAL.shape, 1)
  write_series(tmp_path / "flair", distinct(AXIAL.shape))
  moved = AXIAL._replace(origin=tuple(np.array(AXIAL.origin) + 0.004))
  write_series(tmp_path / "t1", values, moved, series=PRE, description="AX T1")
  scan = read(tmp_path)
  np.testing.assert_array_equal(channel(scan, "pre"), values)
  assert not any("resampled" in warning for warning in scan.warnings)


def test_a_grid_that_is_turned_by_little_is_another_where_corners_are_off(tmp_path):
  grid = PLANES["axial"]._replace(shape=(5, 200, 200))
  turned = grid._replace(
    right=np.array([np.cos(5e-4), np.sin(5e-4), 0]), down=np.array([-np.sin(5e-4), np.cos(5e-4), 0])
  )
  write_enhanced(tmp_path / "flair", (distinct((5, 200, 200)) % 5000).astype(np.uint16), grid)
  write_enhanced(
    tmp_path / "t1", (distinct((5, 200, 200), 1) % 5000).astype(np.uint16), turned, series=PRE, description="AX T1"
  )
  # 200 pixels of 1.3 mm by 5e-4 are 0.13 mm at the far corner, a seventh of a pixel.
  assert any("resampled" in warning for warning in read(tmp_path).warnings)
