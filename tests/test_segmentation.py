import warnings

import highdicom
import numpy as np
import pydicom
import pytest

from bt_jax.scans import dicom, reader
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.dicom import seg
from bt_jax.scans.scan import NOTICE
from tests.helpers.scanners import AXIAL, BUNDLED, FLAIR, PLANES, SPACE, STUDY, WRITERS, distinct, write_series

THRESHOLD = 200  # of stored values, above which a test paints


def read(path):
  (study,) = reader.find(path, {})
  return reader.read(study)


def paint(scan):
  """A mask that follows intensities alone, and so can be painted on any grid."""
  return scan.image[..., 1] > THRESHOLD


def write(scan, folder, probability=None):
  paths = dicom.write(
    scan,
    folder,
    paint(scan),
    {} if probability is None else {"probability": probability},
    algorithm=Algorithm("bt_jax 9"),
  )
  return [pydicom.dcmread(path) for path in paths]


def numbers(values):
  return [float(value) for value in values]


def sources(paths):
  """The values and the place of every frame there is, by SOPInstanceUID and number of the frame."""
  found = {}
  for path in paths:
    data = pydicom.dcmread(path)
    groups = data.get("PerFrameFunctionalGroupsSequence")
    for index, plane in enumerate(data.pixel_array if groups else [data.pixel_array]):
      place = groups[index].PlanePositionSequence[0].ImagePositionPatient if groups else data.ImagePositionPatient
      found[data.SOPInstanceUID, index + 1 if groups else None] = plane, numbers(place)
  return found


def beside(data, known):
  """Each frame of a segmentation with its place, the source frame that it refers to with its own, and which that is."""
  for painted, group in zip(
    data.pixel_array.reshape(-1, data.Rows, data.Columns), data.PerFrameFunctionalGroupsSequence, strict=True
  ):
    (item,) = group.DerivationImageSequence[0].SourceImageSequence
    key = item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber")
    yield painted, numbers(group.PlanePositionSequence[0].ImagePositionPatient), *known[key], key


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("plane", PLANES)
def test_every_frame_lies_on_the_source_it_refers_to_and_agrees_with_it(tmp_path, plane, writer):
  grid = PLANES[plane]
  values = distinct(grid.shape)
  known = sources(writer(tmp_path / "in", values, grid))
  (mask,) = write(read(tmp_path / "in"), tmp_path)
  measures = mask.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
  np.testing.assert_allclose(numbers(measures.PixelSpacing), grid.spacing[1:], rtol=1e-6)
  assert float(measures.SpacingBetweenSlices) == pytest.approx(grid.spacing[0])
  orientation = mask.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
  np.testing.assert_allclose(numbers(orientation), [*grid.right, *grid.down], atol=1e-6)
  seen = set()
  for painted, position, source, place, key in beside(mask, known):
    np.testing.assert_array_equal(painted, source > THRESHOLD)
    np.testing.assert_allclose(position, place, atol=1e-6)
    seen.add(key)
  assert seen == set(known)  # and so are the frames without tumour
  named = {item.ReferencedSOPInstanceUID for item in mask.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
  assert named == {uid for uid, _ in known}
  assert mask.ReferencedSeriesSequence[0].SeriesInstanceUID == FLAIR


# That reader makes a volume at right angles of a segmentation, and refuses what is sheared.
@pytest.mark.parametrize("plane", [plane for plane, grid in PLANES.items() if not grid.tilt])
def test_another_reader_finds_the_tumour_at_the_same_world_coordinates(tmp_path, plane):
  grid = PLANES[plane]
  values = distinct(grid.shape)
  write_series(tmp_path / "in", values, grid)
  write(read(tmp_path / "in"), tmp_path)
  volume = highdicom.seg.segread(tmp_path / "mask.dcm").get_volume(combine_segments=True)
  places = volume.map_indices_to_reference(np.argwhere(volume.array))
  order = lambda points: points[np.lexsort(np.round(points, 3).T)]
  np.testing.assert_allclose(order(places), order(grid.world()[values > THRESHOLD]), atol=1e-4)


def test_probabilities_are_kept_in_steps_of_one_in_255(tmp_path):
  values = distinct(AXIAL.shape)
  known = sources(write_series(tmp_path / "in", values))
  scan = read(tmp_path / "in")
  probability = scan.image[..., 1] / (values.size - 1)  # from 0 to 1
  mask, kept = write(scan, tmp_path, probability)
  assert (mask.SegmentationType, kept.SegmentationType) == ("BINARY", "FRACTIONAL")
  assert (kept.MaximumFractionalValue, kept.SegmentationFractionalType) == (255, "PROBABILITY")
  for stored, _, source, _, _ in beside(kept, known):
    np.testing.assert_allclose(stored / 255, source / (values.size - 1), atol=0.5 / 255 + 1e-6)
  assert {0, 255} <= set(kept.pixel_array.ravel())
  assert mask.SeriesInstanceUID == kept.SeriesInstanceUID and mask.SOPInstanceUID != kept.SOPInstanceUID


def test_it_says_whose_it_is_who_made_it_and_that_it_is_for_research(tmp_path):
  write_series(tmp_path / "in", distinct(AXIAL.shape))
  (mask,) = write(read(tmp_path / "in"), tmp_path)
  assert (mask.PatientID, mask.PatientName) == ("patient 7", "Doe^Jane")
  assert (mask.StudyInstanceUID, mask.FrameOfReferenceUID) == (STUDY, SPACE)
  assert mask.SeriesInstanceUID != FLAIR and mask.Modality == "SEG"
  assert NOTICE in mask.SeriesDescription and NOTICE in mask.ContentDescription
  assert max(len(mask.SeriesDescription), len(mask.ContentDescription)) <= 64  # as DICOM allows
  (segment,) = mask.SegmentSequence
  assert segment.SegmentAlgorithmType == "AUTOMATIC" and mask.SoftwareVersions == "bt_jax 9"
  assert mask.ContentQualification == "RESEARCH"


@pytest.mark.parametrize("painted", [0, 1])
def test_slices_without_tumour_have_frames_too(tmp_path, painted):
  write_series(tmp_path / "in", distinct(AXIAL.shape))
  mask = np.zeros(AXIAL.shape, bool)
  mask[:painted] = True
  (path,) = dicom.write(read(tmp_path / "in"), tmp_path, mask, {}, algorithm=Algorithm("bt_jax 9"))
  pixels = pydicom.dcmread(path).pixel_array
  assert pixels.shape == AXIAL.shape and pixels.sum() == mask.sum()


def bend(data, index):
  """What scanners and anonymisers write, and the standard does not allow."""
  data.PatientID, data.PatientName = "x" * 80, "a=b=c=d^^^^^^"
  data.AccessionNumber, data.StudyID = "1234567890-1234567890", "a\\b"
  data.PatientBirthDate, data.StudyDate, data.StudyTime, data.PatientSex = "unknown", "2020.01.01", "noon", "?"
  data.StudyInstanceUID = "1.02.3"


def strip(data, index):
  """What anonymisers take away."""
  for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
    delattr(data, keyword)


def misplace(data, index):
  del data.ImagePositionPatient, data.ImageOrientationPatient


@pytest.mark.parametrize("edit", [bend, strip, misplace])
def test_a_poor_header_still_yields_a_mask_without_noise(tmp_path, edit):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the writer of the input
    paths = write_series(tmp_path / "in", distinct(AXIAL.shape), edit=edit)
  with warnings.catch_warnings(record=True) as raised:
    warnings.simplefilter("always")
    (path,) = dicom.write(scan := read(tmp_path / "in"), tmp_path, paint(scan), {}, algorithm=Algorithm("bt_jax 9"))
  assert not raised
  values = {data.SOPInstanceUID: data.pixel_array for data in map(pydicom.dcmread, paths)}
  mask = pydicom.dcmread(path)
  known = {(uid, None): (plane, None) for uid, plane in values.items()}
  assert [np.array_equal(painted, plane > THRESHOLD) for painted, _, plane, _, _ in beside(mask, known)] == [True] * 5


def test_where_one_file_fails_none_is_written(tmp_path, monkeypatch):
  write_series(tmp_path / "in", distinct(AXIAL.shape))
  scan = read(tmp_path / "in")
  encode = seg.encode

  def fail_second(*arguments, number, **options):
    if number == 2:
      raise MemoryError
    return encode(*arguments, number=number, **options)

  monkeypatch.setattr(seg, "encode", fail_second)
  with pytest.raises(MemoryError):
    dicom.write(
      scan, tmp_path / "out", paint(scan), {"probability": scan.image[..., 1] / 1000}, algorithm=Algorithm("bt_jax 9")
    )
  assert not (tmp_path / "out").exists()


def test_a_real_slice_goes_the_whole_way(tmp_path):
  source = BUNDLED / "MR_small.dcm"
  header = pydicom.dcmread(source)
  (mask,) = write(read(source), tmp_path)
  ((painted, position, values, place, _),) = beside(mask, sources([source]))
  np.testing.assert_array_equal(painted, values > THRESHOLD)
  np.testing.assert_allclose(position, place)
  (item,) = mask.SourceImageSequence
  assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (header.SOPClassUID, header.SOPInstanceUID)


def test_what_made_a_mask_is_recorded_in_it(tmp_path):
  write_series(tmp_path / "in", distinct(AXIAL.shape))
  scan = read(tmp_path / "in")
  made = Algorithm("bt_jax 9", "unet of a data set " + "with a long name " * 5, 0.437)
  (path,) = dicom.write(scan, tmp_path, paint(scan), {}, algorithm=made)
  (item,) = pydicom.dcmread(path).SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
  assert item.AlgorithmName == f"bt_jax {made.name}"[:64] and item.AlgorithmVersion == "bt_jax 9"
  assert item.AlgorithmParameters == "threshold=0.437"
