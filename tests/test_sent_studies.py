"""Several studies in one upload: which the server lists, that each is then predicted by itself, and limits for all of them."""

import io
import json
import zipfile

import highdicom
import numpy as np
import pydicom
import pytest

from bt_jax.scans.scan import NOTICE
from bt_jax.serving import app
from tests.helpers.scanners import AXIAL, write_series
from tests.helpers.viewers import Brightness, error_in, nifti_bytes, post, predict, serving, slices_of, temporary_files

SHAPE = (4, 20, 24)
GRID = AXIAL._replace(shape=SHAPE)


@pytest.fixture(scope="module")
def port(tmp_path_factory):
  with temporary_files(tmp_path_factory.mktemp("temporary")) as folder:
    with serving(app.make_app(Brightness(), limit_mb=2, limit_files=60)) as port:
      yield port
    assert [*folder.iterdir()] == []


def dicom(folder, seed, study=None, **options):
  """The files of a study of one series by their names, and its values."""
  values = slices_of(seed, SHAPE).volume.astype(np.uint16)

  def edit(data, index):
    data.StudyInstanceUID, data.PatientID = study or f"2.25.77{seed}", f"patient {seed}"
    data.SeriesInstanceUID = f"{data.SeriesInstanceUID}.{seed}"
    data.SOPInstanceUID = f"{data.SOPInstanceUID}.{seed}"

  paths = write_series(folder, values, GRID, edit=edit, **options)
  return {path.name: path.read_bytes() for path in paths}, values


def parts(files):
  return [("scan", name, content) for name, content in files.items()]


def zipped(files):
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, data in files.items():
      archive.writestr(name, data)
  return content.getvalue()


def listed(port, sent):
  status, headers, content = post(port, "/predict", *sent)
  assert status == 200 and headers["Content-Type"] == "application/json", content
  return json.loads(content)


def of_list(port, sent, study):
  """Predicts a study of the list with the files that it needs alone."""
  chosen = sent if study["files"] is None else [sent[number] for number in study["files"]]
  return predict(port, *chosen, ("sha256", None, study["sha256"].encode())), chosen


@pytest.fixture
def two_patients(tmp_path):
  """Files by path of two studies in nested folders, and the values of each."""
  files, flair = {}, {}
  for seed in (1, 2):
    some, flair[f"p{seed}"] = dicom(tmp_path / str(seed), seed)
    files |= {f"drop/p{seed}/study/flair/{name}": content for name, content in some.items()}
  return files, flair


def test_studies_of_a_folder_are_listed_and_each_is_predicted_from_its_own_files(port, two_patients):
  files, flair = two_patients
  sent = parts({"drop/README.txt": b"of the hospital", **files})
  found = listed(port, sent)
  assert [study["name"] for study in found["studies"]] == ["drop/p1/study/flair", "drop/p2/study/flair"]
  assert found["twice"] == []
  for study, values in zip(found["studies"], flair.values(), strict=True):
    answer, chosen = of_list(port, sent, study)
    assert len(chosen) == SHAPE[0] and all(study["name"] in name for _, name, _ in chosen)
    assert answer.head["prediction"]["study"] == study["name"]
    np.testing.assert_array_equal(answer.channels[0], values)
    mask = ("mask", "m", answer.bits.tobytes())
    sha256 = ("sha256", None, study["sha256"].encode())
    status, _, content = post(port, "/mask", *chosen, mask, sha256)
    assert status == 200
    assert pydicom.dcmread(io.BytesIO(content)).PatientID == f"patient {study['name'][6]}"


def test_a_zip_of_several_studies_is_listed_and_one_of_a_single_study_has_its_name(port, two_patients, tmp_path):
  files, flair = two_patients
  third, _ = dicom(tmp_path / "3", 3)
  sent = [
    ("scan", "many.zip", zipped(files)),
    ("scan", "one.zip", zipped({f"a/b/{name}": content for name, content in third.items()})),
    ("scan", "slice.nii", nifti_bytes(slices_of(5).volume)),
  ]
  found = listed(port, sent)
  names = ["many/drop/p1/study/flair", "many/drop/p2/study/flair", "one", "slice"]
  assert [(study["name"], study["files"]) for study in found["studies"]] == list(
    zip(names, ([0], [0], [1], None), strict=True)
  )
  for study, values in zip(found["studies"][:2], flair.values(), strict=True):
    answer, _ = of_list(port, sent, study)
    np.testing.assert_array_equal(answer.channels[0], values)
  assert of_list(port, sent, found["studies"][2])[0].head["prediction"]["study"] == "one"
  assert of_list(port, sent, found["studies"][3])[0].head["prediction"]["voxels"] == (slices_of(5).volume > 127).sum()


def test_files_that_others_explain_are_sent_with_them(port):
  """Which of nnU-Net's numbers is FLAIR stands in `dataset.json` alone."""
  volumes = {case: [slices_of(seed).volume for seed in (10 * case, 10 * case + 1)] for case in (1, 2)}
  files = {
    f"d/imagesTs/case{case}_000{number}.nii": nifti_bytes(volume)
    for case, two in volumes.items()
    for number, volume in enumerate(two)
  }
  sent = parts(files | {"d/dataset.json": json.dumps({"channel_names": {"0": "T1", "1": "FLAIR"}}).encode()})
  found = listed(port, sent)
  assert [study["files"] for study in found["studies"]] == [None, None]
  for study, (_, flair) in zip(found["studies"], volumes.values(), strict=True):
    np.testing.assert_array_equal(of_list(port, sent, study)[0].channels[0], flair)


@pytest.mark.parametrize("kind", ["folder and its copy", "folder and zip", "two zips", "files of NIfTI"])
def test_a_study_that_is_sent_twice_is_listed_once_and_said_so(port, tmp_path, kind):
  files, values = dicom(tmp_path, 4)
  folder = lambda name: {f"{name}/{file}": content for file, content in files.items()}
  volume = slices_of(6).volume
  sent = parts(
    {
      "folder and its copy": folder("case") | folder("case copy"),
      "folder and zip": folder("case") | {"other.zip": zipped(folder("x"))},
      "two zips": {"case.zip": zipped(files), "other.zip": zipped(folder("x"))},
      "files of NIfTI": {"a/case.nii": nifti_bytes(volume), "b/other.nii": nifti_bytes(volume)},
    }[kind]
  )
  found = listed(port, sent)
  (study,), (line,) = found["studies"], found["twice"]
  assert "same" in line and "\n" not in line and ("listed once" in line or "4 DICOM files in" in line)
  answer, _ = of_list(port, sent, study)
  np.testing.assert_array_equal(answer.channels[0], volume if "NIfTI" in kind else values)


def test_slices_that_are_alike_stay_in_their_volume(port):
  png = slices_of(7).files
  sent = parts({f"case/x_{number}.png": png[1 if number < 4 else 2] for number in range(1, 6)})
  assert predict(port, *sent).head["shape"][0] == 5


def test_one_bad_study_of_several_is_listed_and_refused_alone(port, tmp_path):
  files, _ = dicom(tmp_path, 8)
  sent = parts({f"good/{name}": content for name, content in files.items()})
  other, _ = dicom(tmp_path / "o", 12)
  names = sorted(other, key=lambda name: pydicom.dcmread(io.BytesIO(other[name])).ImagePositionPatient[2])
  gap = [("scan", f"bad gap/{name}", other[name]) for name in (names[0], *names[2:])]
  sent += [*gap, ("scan", "bad.nii", nifti_bytes(slices_of(1).volume)[:500]), ("scan", "bad.zip", b"PK\3\4 no zip")]
  found = {study["name"]: study for study in listed(port, sent)["studies"]}
  assert len(found) == 4 and {"good", "bad gap"} <= {*found}
  refused = []
  for name, study in found.items():
    chosen = sent if study["files"] is None else [sent[number] for number in study["files"]]
    status, _, content = post(port, "/predict", *chosen, ("sha256", None, study["sha256"].encode()))
    if status != 200:
      assert status == 422 and "bt_jax_" not in error_in(content)
      refused.append(name)
  assert sorted(refused) == sorted(name for name in found if name.startswith("bad"))


def test_the_limits_hold_for_all_studies_together(port):
  zeros = nifti_bytes(np.zeros((30, 200, 200)))  # 1.2 MB, of the 2 MB of the limit
  packed = zipped({"a.nii": zeros})
  for sent in (
    [("scan", "a.zip", packed), ("scan", "b.zip", packed)],
    [("scan", "a.zip", packed), ("scan", "b.nii", zeros)],
  ):
    assert sum(len(content) for *_, content in sent) < 2 * 2**20
    status, _, content = post(port, "/predict", *sent)
    assert status == 422 and "2,097,152" in error_in(content) and "send fewer" in error_in(content)
  many = zipped({f"{number}.txt": b"x" for number in range(40)})
  status, _, content = post(port, "/predict", ("scan", "a.zip", many), ("scan", "b.zip", many))
  assert status == 422 and "80 files" in error_in(content)


def test_a_mask_of_several_scans_is_of_the_one_that_is_named(port):
  sent = parts({"a/x.nii": nifti_bytes(slices_of(1).volume), "b/y.nii": nifti_bytes(slices_of(2).volume)})
  mask = ("mask", "m", bytes(180))
  status, _, content = post(port, "/mask", *sent, mask)
  assert status == 422 and "2 scans were sent" in error_in(content)
  status, _, content = post(port, "/mask", *sent, mask, ("sha256", None, b"0" * 64))
  assert status == 422 and "not among those that were sent" in error_in(content)


def test_what_shows_and_measures_the_mask_as_shown_is_made_on_request(port, tmp_path):
  files, values = dicom(tmp_path, 3)
  sent = parts(files)
  answer = predict(port, *sent)
  shown = answer.levels > 70  # another threshold than the model's
  fields = [("mask", "m", np.packbits(shown).tobytes()), ("threshold", None, b"0.71")]
  status, headers, content = post(port, "/mask", *sent, *fields, ("also", None, b"sr"))
  assert status == 200 and headers["Content-Disposition"].endswith("report.zip")
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    assert sorted(archive.namelist()) == ["mask.dcm", "report.dcm"]
    (tmp_path / "report.dcm").write_bytes(archive.read("report.dcm"))
    segmentation = pydicom.dcmread(io.BytesIO(archive.read("mask.dcm")))
  report = highdicom.sr.srread(tmp_path / "report.dcm")
  (group,) = report.content.get_volumetric_roi_measurement_groups()
  assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
  volume = next(one for one in group.get_measurements() if one.name.meaning == "Volume")
  assert volume.value == pytest.approx(shown.sum() * np.prod(GRID.spacing) / 1000)
  assert "threshold=0.71" in str(group) and (values.shape == shown.shape)
  status, headers, content = post(port, "/mask", *sent, *fields, ("also", None, b"sc"))
  assert status == 200 and headers["Content-Disposition"].endswith("secondary_capture.zip")
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    captures = [pydicom.dcmread(io.BytesIO(archive.read(name))) for name in sorted(archive.namelist())]
  assert [one.InstanceNumber for one in captures] == [1, 2, 3, 4] and NOTICE in captures[0].SeriesDescription


def test_what_is_of_dicom_alone_is_refused_for_other_scans(port):
  sent = ("scan", "a.nii", nifti_bytes(slices_of(1).volume))
  for also, words in ((b"sc", "DICOM alone"), (b"sr", "DICOM alone"), (b"pdf", "expected one of sc, sr")):
    status, _, content = post(port, "/mask", sent, ("mask", "m", bytes(180)), ("also", None, also))
    assert status == 422 and words in error_in(content)
