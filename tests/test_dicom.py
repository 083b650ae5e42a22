import shutil

import numpy as np
import pydicom
import pytest

from bt_jax.errors import UserError
from bt_jax.scans import dicom, reader
from bt_jax.schema import CHANNELS
from tests.helpers.scanners import AXIAL, BUNDLED, FLAIR, PLANES, POST, PRE, WRITERS, body_start, distinct, write_series

ENCODINGS = ["", "_RLE", "_bigendian", "_implicit", "_expb", "_padded", "_jp2klossless", "_jpeg_ls_lossless"]


def read(path, given=None):
  (study,) = reader.find(path, given or {})
  return reader.read(study)


def flair(scan):
  return scan.image[..., CHANNELS.index("flair")]


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("plane", PLANES)
def test_voxels_lie_where_the_header_says_and_axes_run_as_those_of_the_training_slices(tmp_path, plane, writer):
  grid = PLANES[plane]
  values = distinct(grid.shape)
  writer(tmp_path, values, grid)
  scan = read(tmp_path)
  place = dict(zip(values.ravel(), grid.world().reshape(-1, 3), strict=True))
  world = np.array([place[value] for value in flair(scan).ravel()]).reshape(*flair(scan).shape, 3)
  assert scan.image.dtype == np.float32 and np.unique(flair(scan)).size == values.size
  # Slices go to the head, rows to the back and columns to the left: +z, +y, +x as DICOM counts.
  for axis, coordinate in enumerate((2, 1, 0)):
    steps = np.diff(world, axis=axis)
    step = steps.reshape(-1, 3)[0]
    np.testing.assert_allclose(steps, np.broadcast_to(step, steps.shape), atol=1e-9)
    assert abs(step).argmax() == coordinate and step[coordinate] > 0
    # Where slices are shifted against each other, the distance is that at right angles to them.
    normal = np.cross(grid.right, grid.down)
    length = abs(step @ normal) if axis == 0 and grid.tilt else np.linalg.norm(step)
    np.testing.assert_allclose(scan.spacing_mm[axis], length, rtol=1e-6)
  assert np.prod(scan.spacing_mm) == pytest.approx(np.prod(grid.spacing))
  assert any(f"sheared by {abs(grid.tilt):.0f} degrees" in warning for warning in scan.warnings) == bool(grid.tilt)
  assert any("axial plane" in warning for warning in scan.warnings) == ("al" in plane and "axial" not in plane)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_each_slice_has_its_own_slope_and_intercept_and_monochrome1_is_turned_over(tmp_path, writer, dtype):
  def scale(data, index):
    if index >= 0:
      data.RescaleSlope, data.RescaleIntercept = 0.5 + index, -10 * index

  def turn(data, index):
    scale(data, index)
    if index < 0 or writer is write_series:
      data.PhotometricInterpretation = "MONOCHROME1"

  values = distinct(AXIAL.shape).astype(dtype) - (100 if dtype is np.int16 else 0)
  index = np.arange(len(values))[:, None, None]
  turned = {np.uint16: 65535 - values.astype(int), np.int16: -1 - values.astype(int)}[dtype]
  for name, edit, stored in (("plain", scale, values), ("turned", turn, turned)):
    writer(tmp_path / name, values.astype(dtype), edit=edit)
    np.testing.assert_allclose(flair(read(tmp_path / name)), stored * (0.5 + index) - 10 * index, rtol=1e-6)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_real_slice_reads_alike_in_every_encoding(encoding):
  header = pydicom.dcmread(BUNDLED / "MR_small.dcm")
  scan = read(BUNDLED / f"MR_small{encoding}.dcm")
  np.testing.assert_array_equal(flair(scan)[0], header.pixel_array)
  assert scan.spacing_mm is None  # 64 x 0.3125 mm are less than a head
  assert any("field of view of 20 mm (voxels of 0.8 x 0.312 x 0.312 mm)" in warning for warning in scan.warnings)
  assert any("one slice" in warning for warning in scan.warnings)
  assert any("only one" in warning for warning in scan.warnings)  # it does not say what it is


def test_real_slices_of_a_folder_with_a_scout_are_sorted_by_height(tmp_path):
  shutil.copytree(BUNDLED / "dicomdirtests" / "98892001", tmp_path, dirs_exist_ok=True)
  headers = [pydicom.dcmread(path) for path in (tmp_path / "CT5N").iterdir()]
  expected = [one.pixel_array for one in sorted(headers, key=lambda one: float(one.ImagePositionPatient[2]))]
  scan = read(tmp_path)
  slope, intercept = float(headers[0].RescaleSlope), float(headers[0].RescaleIntercept)
  np.testing.assert_array_equal(flair(scan), np.stack(expected) * slope + intercept)
  assert any("this is CT" in odd for odd in scan.ood_warnings)


def test_three_roles_of_a_folder_are_guessed_and_reported_or_given_by_uid(tmp_path):
  series_of = {"flair": (FLAIR, "AX T2 FLAIR"), "pre": (PRE, "AX T1"), "post": (POST, "AX T1 +C")}
  volumes = {role: distinct(AXIAL.shape, seed) for seed, role in enumerate(series_of)}
  for role, (series, description) in series_of.items():
    write_series(tmp_path / role, volumes[role], series=series, description=description)
  write_series(tmp_path / "t2", distinct(AXIAL.shape, 9), series="2.25.6", description="AX T2")
  scan = read(tmp_path)
  for place, role in enumerate(CHANNELS):
    np.testing.assert_array_equal(scan.image[..., place], volumes[role])
    assert series_of[role][1] in scan.roles[role] and series_of[role][0] in scan.roles[role]
  assert not scan.warnings
  exchanged = read(tmp_path, {"flair": POST, "post": FLAIR})
  np.testing.assert_array_equal(exchanged.image, scan.image[..., [0, 2, 1]])
  with pytest.raises(UserError, match=r"not a series of .* AX T2 FLAIR .*2\.25\.3"):
    read(tmp_path, {"flair": "2.25.99"})
  with pytest.raises(UserError, match="one series is given for two roles"):
    read(tmp_path, {"flair": FLAIR, "pre": FLAIR})


@pytest.mark.parametrize(
  "description, role",
  [
    ("t2_tirm_tra_dark-fluid", "flair"),
    ("Ax T1 FLAIR post GAD", "post"),
    ("T1 SE without contrast", "pre"),
    ("MPRAGE", "pre"),
    ("t1_mprage_sag_Gd", "post"),
    ("T1 C-", "pre"),
    ("T1w C+", "post"),
    ("AX T2", None),
    ("t1 subtraction", None),
    ("ep2d_diff_flair", None),
    ("localizer flair", None),
  ],
)
def test_a_role_is_guessed_from_the_description(tmp_path, description, role):
  write_series(tmp_path, distinct(AXIAL.shape), series=FLAIR, description="FLAIR AX p2")
  other = distinct((7, *AXIAL.shape[1:]), 1)  # more slices than the other FLAIR has, which is then preferred
  write_series(tmp_path, other, AXIAL._replace(shape=other.shape), series=PRE, description=description)
  roles = read(tmp_path).roles
  assert [one for one in CHANNELS if description in roles[one] and "in its place" not in roles[one]] == [role] * bool(
    role
  )


@pytest.mark.parametrize("plane", ["sagittal", "oblique"])
def test_another_grid_in_the_same_space_is_resampled_by_world_coordinates(tmp_path, plane):
  slope = 0.01
  ramp = lambda grid: grid.world() @ [1.5, -1.0, 2.5] + 300  # what linear interpolation keeps
  fine = PLANES[plane]._replace(spacing=(1.1, 0.7, 1.7), shape=(70, 90, 60))
  middle = AXIAL.world().mean((0, 1, 2)) - fine.world().mean((0, 1, 2))
  fine = fine._replace(origin=tuple(np.array(fine.origin) + middle))  # around all of FLAIR

  def scale(data, index):
    data.RescaleSlope, data.RescaleIntercept = slope, 0

  write_series(tmp_path, distinct(AXIAL.shape), series=FLAIR)
  stored = np.rint(ramp(fine) / slope).astype(np.uint16)
  assert ramp(fine).min() > 0 and ramp(fine).max() / slope < 2**16
  write_series(tmp_path, stored, fine, series=PRE, description="T1", edit=scale)
  scan = read(tmp_path)
  np.testing.assert_allclose(scan.image[..., CHANNELS.index("pre")], ramp(AXIAL), atol=slope)
  assert any("resampled" in warning for warning in scan.warnings)


def test_the_outermost_slices_are_kept_by_a_grid_that_ends_with_them(tmp_path):
  values = np.full(AXIAL.shape, 7, np.uint16)
  values[2] = 9
  write_series(tmp_path, distinct(AXIAL.shape), series=FLAIR)
  inner = AXIAL._replace(origin=tuple(np.array(AXIAL.origin) + 0.3))  # less than a voxel inside
  write_series(tmp_path, values, inner, series=PRE, description="T1")
  assert read(tmp_path).image[..., CHANNELS.index("pre")].min() >= 7


@pytest.mark.parametrize("moved", [0.0, 2.0])
def test_another_frame_of_reference_is_left_out_but_for_the_same_grid(tmp_path, moved):
  def elsewhere(data, index):
    data.FrameOfReferenceUID = "2.25.8"

  values = distinct(AXIAL.shape, 1)
  write_series(tmp_path, distinct(AXIAL.shape), series=FLAIR)
  grid = AXIAL._replace(origin=tuple(np.array(AXIAL.origin) + moved))
  write_series(tmp_path, values, grid, series=PRE, description="T1", edit=elsewhere)
  scan = read(tmp_path)
  np.testing.assert_array_equal(scan.image[..., CHANNELS.index("pre")], flair(scan) if moved else values)
  assert any("another frame of reference" in warning for warning in scan.warnings)


def test_slices_without_a_position_follow_their_numbers(tmp_path):
  order = [3, 0, 4, 1, 2]

  def strip(data, index):
    del data.ImagePositionPatient
    data.InstanceNumber = 8 + order.index(index)  # up to 12, which comes before 8 in the order of letters

  values = distinct(AXIAL.shape)
  write_series(tmp_path, values, edit=strip)
  scan = read(tmp_path)
  np.testing.assert_array_equal(flair(scan), values[order])
  assert scan.spacing_mm is None and any("order of their numbers" in warning for warning in scan.warnings)


def test_a_file_without_preamble_is_known_and_read(tmp_path):
  path = tmp_path / "IM1"
  path.write_bytes((BUNDLED / "MR_small_implicit.dcm").read_bytes()[body_start("MR_small_implicit.dcm") :])
  assert dicom.is_dicom(path)
  np.testing.assert_array_equal(flair(read(path)), flair(read(BUNDLED / "MR_small.dcm")))
