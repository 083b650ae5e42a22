"""Right, left, front and back: from the geometry of the files, and nowhere else."""

import itertools

import nibabel
import numpy as np
import pytest
from PIL import Image

from bt_jax.inference import overlays
from bt_jax.inference.description import describe
from bt_jax.scans import directions, reader
from tests.helpers.predictions import empty, make_prediction
from tests.helpers.scanners import PLANES, distinct, write_series

CODES = [
  codes for order in itertools.permutations(["RL", "AP", "SI"]) for codes in itertools.product(*order)
]  # the 48 ways that axes can run along the patient's
OBLIQUE = np.array([[-0.8, 0.6, 0.0], [-0.6, -0.8, 0.0], [0.0, 0.0, 1.0]])  # columns and rows turned by 37 degrees


def read(path):
  (study,) = reader.find(path, {})
  return reader.read(study)


def nifti(path, affine, *, codes=(1, 1)):
  values = np.random.default_rng(5).permutation(5 * 6 * 7).reshape(5, 6, 7).astype(np.int16)
  image = nibabel.Nifti1Image(values, affine)
  image.set_qform(affine, codes[0])
  image.set_sform(affine, codes[1])
  nibabel.save(image, path)
  return values


@pytest.mark.parametrize("codes", CODES, ids="".join)
def test_every_voxel_of_a_nifti_keeps_its_position(tmp_path, codes):
  turn = nibabel.orientations.axcodes2ornt(codes)
  affine = nibabel.orientations.inv_ornt_aff(turn, (5, 6, 7)) @ np.diag([2.0, 3.0, 4.0, 1.0])
  values = nifti(tmp_path / "scan.nii", affine)
  scan = read(tmp_path / "scan.nii")
  place = {int(values[index]): affine @ (*index, 1) for index in np.ndindex(values.shape)}
  for slice_, row, column in np.ndindex(scan.image.shape[:3]):
    value = int(scan.image[slice_, row, column, 1])
    np.testing.assert_allclose(scan.affine @ (column, row, slice_, 1), place[value], atol=1e-5)
  assert nibabel.aff2axcodes(scan.affine) == ("L", "P", "S")
  assert directions.letters(scan.affine) == {"columns": "L", "rows": "P", "slices": "S"}


@pytest.mark.parametrize("plane", PLANES)
def test_every_voxel_of_dicom_keeps_its_position(tmp_path, plane):
  grid = PLANES[plane]
  values = distinct(grid.shape)
  write_series(tmp_path, values, grid)
  scan = read(tmp_path)
  world = grid.world() * (-1, -1, 1)  # from the axes of DICOM to RAS
  place = {int(values[index]): world[index] for index in np.ndindex(values.shape)}
  for slice_, row, column in np.ndindex(scan.image.shape[:3]):
    value = int(scan.image[slice_, row, column, 1])
    np.testing.assert_allclose((scan.affine @ (column, row, slice_, 1))[:3], place[value], atol=1e-3)
  if "oblique" not in plane and "tilted" not in plane:
    assert directions.letters(scan.affine) == {"columns": "L", "rows": "P", "slices": "S"}


def test_an_oblique_axis_has_two_letters_the_larger_part_first():
  affine = np.eye(4)
  affine[:3, :3] = OBLIQUE * (1.0, 2.0, 5.0)  # the size of voxels does not count
  assert directions.letters(affine) == {"columns": "LP", "rows": "PR", "slices": "S"}
  assert directions.opposite("LP") == "RA" and directions.opposite("SR") == "IL"


def test_files_that_do_not_say_have_no_letters(tmp_path):
  nifti(tmp_path / "scan.nii", np.diag([2.0, 3.0, 4.0, 1.0]), codes=(0, 0))
  assert read(tmp_path / "scan.nii").affine is None
  Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20), np.uint8)).save(tmp_path / "slice.png")
  assert read(tmp_path / "slice.png").affine is None
  write_series(
    tmp_path / "dicom", distinct((5, 7, 9)), edit=lambda data, index: delattr(data, "ImageOrientationPatient")
  )
  scan = read(tmp_path / "dicom")
  assert scan.affine is None and directions.letters(scan.affine) is None
  assert describe(make_prediction(empty(2, 3, 3)))["orientation"] is None


def glyphs(folder, affine):
  """The bright pixels of the left and of the right third of a dim overlay, from the edge on."""
  image = np.random.default_rng(1).normal(0, 1, (1, 200, 200)).clip(-2, 2)
  image[0, :2] = 100  # white; the rest is black beside it
  path, _ = overlays.save(folder, make_prediction(empty(1, 200, 200), image=image, affine=affine))
  shown = np.asarray(Image.open(path).convert("L")).astype(int)
  start = (shown.shape[1] - 200) // 2
  bright = shown[80:120, start : start + 200] > 90
  return bright[:, :60].sum(), bright[:, -60:].sum(), shown.shape[0]


def test_overlays_show_the_letters_of_their_sides(tmp_path):
  left, right, height = glyphs(tmp_path / "a", np.diag([-1.0, -1.0, 1.0, 1.0]))
  assert left > right > 0  # an R has more ink than an L
  assert glyphs(tmp_path / "b", np.diag([1.0, -1.0, 1.0, 1.0]))[:2] == (right, left)
  *none, taller = glyphs(tmp_path / "c", None)
  assert none == [0, 0] and taller > height  # the line that says so
