"""Secondary captures and structured reports: against arithmetic on the mask, the source's header, and another validator."""

import dataclasses
import functools
import json
import re
import shutil
import subprocess

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from scipy import spatial

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import UserError
from bt_jax.inference import batch_prediction, writer
from bt_jax.scans import reader
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.scan import NOTICE
from bt_jax.serving import corrections
from tests.helpers.scanners import FLAIR, PLANES, STUDY, WRITERS, write_series
from tests.helpers.viewers import Brightness, brightness_predictor, nifti_bytes, slices_of

SHAPE = (6, 24, 26)  # slices, rows and columns as stored
CLASSES = dataclasses.replace(INFO, classes=("core", "edema"), ids=(4, 9))


def head(bright=True):
  """A stored volume with one bright block, in which columns are all different."""
  values = np.random.default_rng(5).integers(0, 90, SHAPE)
  if bright:
    values[1:4, 8:17, 7:20] += 160
  return values.astype(np.uint16)


def dated(data, index):
  """What `dciodvfy` warns of where a source lacks it."""
  if index < 0 or "SOPInstanceUID" in data:
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20260102", "030405", "17", "A5"


def read(folder):
  (study,) = reader.find(folder, {})
  return reader.read(study)


def saved(folder, *, plane="axial", write=write_series, edit=dated, values=None, classes=False, **options):
  """A prediction of a made-up study, and the folder in which all that is written of it lies."""
  values = head() if values is None else values
  write(folder / "in", values, PLANES[plane]._replace(shape=values.shape), edit=edit)
  prediction = Brightness(passes=2).predict(read(folder / "in"))
  if classes:
    halves = np.indices(prediction.mask.shape)[2] < prediction.mask.shape[2] / 2
    masks = np.stack([prediction.mask & halves, prediction.mask & ~halves], axis=-1)
    probabilities = np.repeat(prediction.probabilities / 2, 2, axis=-1)
    prediction = dataclasses.replace(prediction, masks=masks, probabilities=probabilities, info=CLASSES)
  writer.save(prediction, folder / "out", also=("sr", "sc"), **options)
  return prediction, folder / "out"


def measured(path):
  """Of each group of a report: its name, and its values by name, with their units."""
  groups = highdicom.sr.srread(path).content.get_volumetric_roi_measurement_groups()
  values = lambda group: {
    one.name.meaning: (one.value, one.unit.value, one.unit.scheme_designator) for one in group.get_measurements()
  }
  return [(group.tracking_identifier, values(group)) for group in groups]


def farthest_mm(mask, spacing_mm):
  """The largest distance between corners of pixels of one slice; the mask is one part in each."""
  longest = 0.0
  for part in mask:
    points = np.argwhere(part)
    if len(points):
      corners = np.concatenate([points + np.array([down, right]) for down in (0, 1) for right in (0, 1)])
      longest = max(longest, spatial.distance.pdist(np.unique(corners, axis=0) * spacing_mm[1:]).max())
  return longest


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("plane, classes", [("axial", False), ("oblique sagittal", False), ("axial", True)])
def test_a_report_has_the_volume_and_the_diameter_of_each_segment(tmp_path, write, plane, classes):
  prediction, out = saved(tmp_path, plane=plane, write=write, classes=classes)
  groups = measured(out / "report.dcm")
  segments = highdicom.seg.segread(out / "mask.dcm")
  masks = np.moveaxis(prediction.masks, -1, 0)
  assert [name for name, _ in groups] == [segment.SegmentLabel for segment in segments.SegmentSequence]
  assert len(groups) == len(masks) and all(mask.any() for mask in masks)
  pixels, measures = segments.pixel_array, segments.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
  voxel_mm3 = np.prod(np.array([*measures.PixelSpacing, measures.SpacingBetweenSlices], float))
  of_frame = [segments.SegmentSequence[0].SegmentNumber] * len(pixels)
  if classes:
    frames = segments.PerFrameFunctionalGroupsSequence
    of_frame = [frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in frames]
  for number, (mask, (_, values)) in enumerate(zip(masks, groups, strict=True), start=1):
    stored = int(pixels[np.array(of_frame) == number].sum())
    assert values["Volume"] == (pytest.approx(stored * voxel_mm3 / 1000), "cm3", "UCUM")
    expected = farthest_mm(mask, prediction.scan.spacing_mm)
    assert values["Diameter"] == (pytest.approx(expected), "mm", "UCUM")
    assert values["Volume"][0] == pytest.approx(mask.sum() * np.prod(prediction.scan.spacing_mm) / 1000)


def test_a_report_refers_to_the_segmentation_and_to_every_source_image(tmp_path):
  _, out = saved(tmp_path, classes=True)
  report, segments = pydicom.dcmread(out / "report.dcm"), pydicom.dcmread(out / "mask.dcm")
  sources = {path.SOPInstanceUID for path in map(pydicom.dcmread, (tmp_path / "in").iterdir())}
  (study,) = report.CurrentRequestedProcedureEvidenceSequence
  evidence = {series.SeriesInstanceUID: series for series in study.ReferencedSeriesSequence}
  uids = lambda series: {one.ReferencedSOPInstanceUID for one in evidence[series].ReferencedSOPSequence}
  assert study.StudyInstanceUID == report.StudyInstanceUID == STUDY and len(sources) == SHAPE[0]
  assert uids(FLAIR) == sources and uids(segments.SeriesInstanceUID) == {segments.SOPInstanceUID}
  groups = highdicom.sr.srread(out / "report.dcm").content.get_volumetric_roi_measurement_groups()
  for number, group in enumerate(groups, start=1):
    named = group.referenced_segment
    assert named.referenced_sop_instance_uid == segments.SOPInstanceUID
    assert named[0].ReferencedSOPSequence[0].ReferencedSegmentNumber == number
  assert (report.PatientID, report.PatientName, report.Modality) == ("patient 7", "Doe^Jane", "SR")
  assert NOTICE in str(report) and NOTICE in report.SeriesDescription


def test_an_empty_mask_has_a_volume_of_nothing_and_no_diameter(tmp_path):
  prediction, out = saved(tmp_path, values=head(bright=False))
  ((_, values),) = measured(out / "report.dcm")
  assert not prediction.mask.any() and values == {"Volume": (0, "cm3", "UCUM")}
  assert len([*(out / "secondary_capture").iterdir()]) == SHAPE[0]


@pytest.mark.parametrize("plane", PLANES)
def test_secondary_captures_show_each_slice_in_the_patient_s_study(tmp_path, plane):
  prediction, out = saved(tmp_path, plane=plane)
  captures = [pydicom.dcmread(path) for path in sorted((out / "secondary_capture").iterdir())]
  frames = {data.SOPInstanceUID: data for data in map(pydicom.dcmread, (tmp_path / "in").iterdir())}
  assert len(captures) == len(prediction.mask) and len({data.pixel_array.shape for data in captures}) == 1
  assert len({data.SOPInstanceUID for data in captures}) == len(captures)
  assert {data.SeriesInstanceUID for data in captures} == {captures[0].SeriesInstanceUID} and (
    captures[0].SeriesInstanceUID != FLAIR
  )
  sides = {"R": "L", "L": "R", "A": "P", "P": "A", "H": "F", "F": "H"}
  for number, data in enumerate(captures, start=1):
    assert (data.PatientID, data.StudyInstanceUID, data.StudyDate) == ("patient 7", STUDY, "20260102")
    assert (data.InstanceNumber, data.BurnedInAnnotation) == (number, "YES") and NOTICE in data.SeriesDescription
    assert "PixelSpacing" not in data
    across, down = data.PatientOrientation
    assert across[0] == "L" and down[0] == "P" and not {sides[letter] for letter in across} & {*across}
    referred = [frames[one.ReferencedSOPInstanceUID] for one in data.SourceImageSequence]
    assert len(referred) == (SHAPE[0] if "sagittal" in plane or plane == "coronal" else 1)
    if len(referred) == 1:  # slices go from the feet to the head
      heights = sorted(float(frame.ImagePositionPatient[2]) for frame in frames.values())
      assert float(referred[0].ImagePositionPatient[2]) == heights[number - 1]
  orange = [
    int(((pixels := data.pixel_array.astype(int))[..., 0] - pixels[..., 2] > 100).sum()) > 20 for data in captures
  ]
  assert orange == prediction.mask.any((1, 2)).tolist() and any(orange) and not all(orange)


def test_sides_that_are_not_known_are_not_given(tmp_path):
  def lose(data, index):
    dated(data, index)
    del data.ImageOrientationPatient, data.ImagePositionPatient

  prediction, out = saved(tmp_path, edit=lose)
  data = pydicom.dcmread(out / "secondary_capture/0001.dcm")
  assert "PatientOrientation" in data and not data.PatientOrientation
  assert prediction.scan.spacing_mm is None and not (out / "report.dcm").exists()
  done = json.loads((out / "prediction.json").read_text())
  assert any("no sr" in line and "spacing" in line for line in done["warnings"])


def test_all_of_a_source_without_a_study_is_one_study(tmp_path):
  def lose(data, index):
    dated(data, index)
    data.StudyInstanceUID = ""

  _, out = saved(tmp_path, edit=lose)
  assert len({pydicom.dcmread(path).StudyInstanceUID for path in out.rglob("*.dcm")}) == 1


def test_a_study_with_what_was_written_of_it_is_read_as_before(tmp_path):
  prediction, out = saved(tmp_path, probabilities=True, uncertainty=True)
  for number, path in enumerate(out.rglob("*.dcm")):
    shutil.copy(path, tmp_path / "in" / f"IM{number}")
  again = read(tmp_path / "in")
  np.testing.assert_array_equal(again.image, prediction.scan.image)
  assert again.roles == prediction.scan.roles and again.warnings == prediction.scan.warnings


def run(folder, out, also):
  batch_prediction.predict(folder, out, given={}, probabilities=False, also=also, shard=None, load=brightness_predictor)
  return json.loads((out / "prediction.json").read_text())


def test_a_scan_that_is_not_dicom_is_predicted_and_says_what_was_not_written(tmp_path):
  (tmp_path / "in").mkdir()
  (tmp_path / "in/scan.nii").write_bytes(nifti_bytes(slices_of(seed=2).volume))
  done = run(tmp_path / "in", tmp_path / "out", ["sr", "sc", "sr"])
  assert any("sc and sr are of DICOM alone, and this scan is nifti" in line for line in done["warnings"])
  assert nibabel.load(tmp_path / "out/mask.nii").shape and not [*(tmp_path / "out").rglob("*.dcm")]
  assert done["options"]["also"] == ["sc", "sr"]


def test_an_unknown_name_is_answered_with_those_there_are(tmp_path):
  for names, words in ((["sr", "pdf"], "expected one of sc, sr"), (["src"], "did you mean")):
    with pytest.raises(UserError, match=words) as error:
      run(tmp_path, tmp_path / "out", names)
    assert repr(names[-1]) in str(error.value) and error.value.arguments == ("also",)
  assert not (tmp_path / "out").exists()


def test_a_finished_study_is_skipped_and_one_without_its_report_is_not(tmp_path):
  write_series(tmp_path / "in", head(), PLANES["axial"]._replace(shape=SHAPE))
  first = run(tmp_path / "in", tmp_path / "out", ["sr"])
  assert "report.dcm" in first["files"] and not any(name.startswith("secondary") for name in first["files"])
  before = (tmp_path / "out/report.dcm").read_bytes()
  run(tmp_path / "in", tmp_path / "out", ["sr"])
  assert (tmp_path / "out/report.dcm").read_bytes() == before
  (tmp_path / "out/report.dcm").unlink()
  run(tmp_path / "in", tmp_path / "out", ["sr"])
  assert measured(tmp_path / "out/report.dcm")
  with pytest.raises(UserError, match="differs in also"):
    run(tmp_path / "in", tmp_path / "out", ["sc"])


@functools.cache
def validator():
  return shutil.which("dciodvfy") or pytest.skip("no dciodvfy (Debian's dicom3tools) to validate with")


OF_SOURCE = r"Missing attribute or value that would be needed to build DICOMDIR - (Study (Date|Time|ID)|.*)"
# A defined term of the standard's CP 1851 and later, which the validator of 2022 does not know.
NEWER = r"Unrecognized defined term <QUANTITY> for value 4 of attribute <(Image|Frame) Type>"


def complaints(path):
  """The lines of dciodvfy but those that name the object."""
  done = subprocess.run([validator(), str(path)], capture_output=True, text=True, timeout=60)
  return [line for line in (done.stdout + done.stderr).splitlines() if re.match(r"Error|Warning", line)]


@pytest.mark.slow
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("plane, classes", [("axial", False), ("oblique sagittal", False), ("axial", True)])
def test_no_dicom_that_is_written_has_an_error(tmp_path, write, plane, classes):
  _, out = saved(tmp_path, write=write, plane=plane, classes=classes, probabilities=True, uncertainty=True)
  paths = [*out.glob("*.dcm"), out / "secondary_capture/0002.dcm"]
  names = {path.name for path in paths}
  assert names == {"mask.dcm", "probability.dcm", "entropy.dcm", "disagreement.dcm", "report.dcm", "0002.dcm"}
  for path in paths:
    assert [line for line in complaints(path) if not re.fullmatch(f"Warning - {NEWER}", line)] == []


@pytest.mark.slow
def test_what_a_bare_source_lacks_is_all_that_is_warned_of(tmp_path):
  _, out = saved(tmp_path, edit=lambda data, index: None, probabilities=True, uncertainty=True)
  for path in (*out.glob("*.dcm"), out / "secondary_capture/0001.dcm"):
    lines = complaints(path)
    assert lines and all(re.fullmatch(f"Warning - ({OF_SOURCE}|{NEWER})", line) for line in lines)


@pytest.mark.slow
def test_a_correction_that_is_kept_has_no_error(tmp_path):
  write_series(tmp_path / "in", head(), PLANES["axial"]._replace(shape=SHAPE), edit=dated)
  prediction = Brightness().predict(read(tmp_path / "in"))
  writer.save(prediction, tmp_path / "kept/0001")
  corrected = prediction.masks.copy()
  corrected[2, 10:13, 9:15] = False
  algorithm = Algorithm(writer.SOFTWARE, "brightness", 0.5, corrected=True)
  correction = corrections.Correction(prediction.scan, corrected, prediction.masks, algorithm, "0001")
  corrections.keep(tmp_path / "kept", correction, INFO, Brightness.about)
  path = tmp_path / "kept/0001/corrected/mask.dcm"
  assert complaints(path) == [] and pydicom.dcmread(path).SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
