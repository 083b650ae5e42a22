"""Corrections of a reader: written on the scan's grid, and kept as a data set that trains."""

import hashlib

import nibabel
import numpy as np
import pydicom
import pytest

from bt_jax.serving import app
from tests.helpers.scanners import AXIAL, write_series
from tests.helpers.viewers import Brightness, error_in, nifti_bytes, post, predict, serving, slices_of

SHAPE = (3, 20, 24)
VOLUME = slices_of(seed=7, shape=SHAPE).volume
GOOD = ("scan", "a.nii", nifti_bytes(VOLUME))


def packed(mask):
  """8 voxels in a byte, as the page sends them."""
  return np.packbits(mask.ravel()).tobytes()


def drawn(seed, shape=SHAPE):
  return np.random.default_rng(seed).random(shape) < 0.3


@pytest.fixture(scope="module")
def port():
  with serving(app.make_app(Brightness())) as port:
    yield port


def test_a_corrected_mask_says_so_in_its_file(port):
  mask = drawn(1)
  status, _, content = post(port, "/mask", GOOD, ("mask", "m", packed(mask)), ("corrected", None, b"by hand"))
  image = nibabel.Nifti1Image.from_bytes(content)
  assert status == 200 and b"corrected by hand" in image.header["descrip"].item()
  np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), mask)


def test_a_corrected_segmentation_is_semiautomatic(port, tmp_path):
  paths = write_series(tmp_path, np.random.default_rng(4).integers(0, 256, AXIAL.shape, np.uint16))
  files = [("scan", path.name, path.read_bytes()) for path in paths]
  shape = predict(port, *files).head["shape"]
  mask = ("mask", "m", packed(drawn(2, shape)))
  for sent, expected in (([], "AUTOMATIC"), ([("corrected", None, b"by hand")], "SEMIAUTOMATIC")):
    content = post(port, "/mask", *files, mask, *sent)[2]
    (tmp_path / "mask.dcm").write_bytes(content)
    assert pydicom.dcmread(tmp_path / "mask.dcm").SegmentSequence[0].SegmentAlgorithmType == expected


def test_a_mask_of_another_scan_or_outside_the_volume_is_refused(port):
  mask = packed(drawn(3))
  of_scan = hashlib.sha256(GOOD[2]).hexdigest()
  assert post(port, "/mask", GOOD, ("mask", "m", mask), ("sha256", None, of_scan.encode()))[0] == 200
  status, _, content = post(port, "/mask", GOOD, ("mask", "m", mask), ("sha256", None, b"0" * 64))
  assert status == 422 and "another scan" in error_in(content)
  small = ("scan", "b.nii", nifti_bytes(VOLUME[:, :19, :23]))  # 1311 voxels in 164 bytes, whose last bit is of none
  bits = np.zeros(164 * 8, bool)
  bits[-1] = True
  status, _, content = post(port, "/mask", small, ("mask", "m", packed(bits)))
  assert status == 422 and "1 voxel outside the volume of 1,311" in error_in(content)
