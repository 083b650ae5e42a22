"""Uncertainty: one number of a study, by which studies are sorted, and maps of it in the format of the scan."""

import csv
import json

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile

from bt_jax.inference import batch_prediction, measurements, writer
from bt_jax.scans import reader
from tests.helpers.scanners import PLANES, write_series
from tests.helpers.viewers import Brightness, brightness_predictor, nifti_bytes, slices_of

RNG = np.random.default_rng(11)


def test_entropy_is_that_of_yes_or_no():
  p = RNG.uniform(0.001, 0.999, (3, 4, 5))
  expected = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
  np.testing.assert_allclose(measurements.entropy(p), expected, rtol=1e-6)
  np.testing.assert_allclose(measurements.entropy(p), measurements.entropy(1 - p), rtol=1e-6)
  assert measurements.entropy(np.array([0, 0.5, 1], np.float32)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("sharpness", [0.5, 2, 8])
def test_one_minus_uncertainty_is_the_dice_to_be_expected_where_probabilities_are_right(sharpness):
  p = 1 / (1 + np.exp(-sharpness * RNG.normal(-0.5, 1, (4, 40, 40))))
  mask = p >= 0.5
  truths = RNG.random((200, *p.shape)) < p
  dice = 2 * (truths & mask).sum((1, 2, 3)) / (truths.sum((1, 2, 3)) + mask.sum())
  assert 1 - measurements.uncertainty(p, mask, p.max((1, 2))) == pytest.approx(dice.mean(), abs=0.005)


def test_a_sure_mask_has_no_uncertainty_and_an_empty_one_that_of_its_likeliest_slice():
  mask = RNG.random((3, 5, 6)) > 0.5
  assert measurements.uncertainty(mask.astype(np.float32), mask, np.ones(3, np.float32)) == 0
  empty, low = np.zeros_like(mask), np.full(mask.shape, 0.1, np.float32)
  assert measurements.uncertainty(low, empty, np.array([0.1, 0.37, 0.2])) == pytest.approx(0.37)


def read(path):
  (study,) = reader.find(path, {})
  return reader.read(study)


def scan_of(kind, folder):
  folder.mkdir()
  values = slices_of(seed=9, shape=(4, 7, 9)).volume
  if kind == "nifti":
    (folder / "scan.nii").write_bytes(nifti_bytes(values))
  elif kind == "images":
    for number, picture in enumerate(values, start=1):
      tifffile.imwrite(folder / f"x_{number}.tif", picture.astype(np.uint8))
  else:
    write_series(folder, values.astype(np.uint16), PLANES["oblique sagittal"]._replace(shape=values.shape))
  return read(folder)


def frames_by_position(path):
  data = pydicom.dcmread(path)
  pixels = np.frombuffer(data.FloatPixelData, "<f4").reshape(-1, data.Rows, data.Columns)
  place = lambda group: tuple(round(float(value), 2) for value in group.PlanePositionSequence[0].ImagePositionPatient)
  groups = data.PerFrameFunctionalGroupsSequence
  return {place(group): frame for group, frame in zip(groups, pixels, strict=True)}


@pytest.mark.parametrize("kind", ["nifti", "images", "dicom"])
def test_maps_lie_on_the_files_own_grid(tmp_path, kind):
  scan = scan_of(kind, tmp_path / "in")
  prediction = Brightness(passes=2).predict(scan)
  paths = writer.save(prediction, tmp_path / "out", uncertainty=True)
  names = {path.relative_to(tmp_path / "out").as_posix() for path in paths}
  for name, values in (("entropy", prediction.entropy), ("disagreement", prediction.disagreement)):
    if kind == "nifti":
      image = nibabel.load(tmp_path / "out" / f"{name}.nii")
      np.testing.assert_array_equal(image.get_fdata(dtype=np.float32).transpose(2, 1, 0), values)
    elif kind == "images":
      folder = {"entropy": "entropies", "disagreement": "disagreements"}[name]
      for number in range(4):
        np.testing.assert_array_equal(
          tifffile.imread(tmp_path / "out" / folder / f"x_{number + 1}_{name}.tif"), values[number]
        )
    else:
      frames = frames_by_position(tmp_path / "out" / f"{name}.dcm")
      for path in (tmp_path / "in").iterdir():  # each source image has its frame, where it lies
        source = pydicom.dcmread(path)
        p = source.pixel_array.astype(np.float32) / np.float32(255)
        expected = measurements.entropy(p) if name == "entropy" else p * (1 - p)
        place = tuple(round(float(value), 2) for value in source.ImagePositionPatient)
        np.testing.assert_allclose(frames[place], expected, atol=1e-6)
  assert not any("probabilit" in name for name in names)
  with pytest.raises(Exception, match="holds .* already"):
    (tmp_path / "out" / "prediction.json").unlink()
    writer.save(prediction, tmp_path / "out")


def test_a_single_pass_has_no_disagreement_to_write(tmp_path):
  paths = writer.save(Brightness().predict(scan_of("nifti", tmp_path / "in")), tmp_path / "out", uncertainty=True)
  assert {path.name for path in paths} >= {"entropy.nii"} and "disagreement.nii" not in {path.name for path in paths}


def test_studies_are_sorted_by_uncertainty_and_the_console_says_where_to_look_first(tmp_path, capsys):
  (tmp_path / "in").mkdir()
  for name, bright in (("a", 250), ("b", 140), ("c", 190)):  # b is hardly above the threshold
    volume = np.resize(np.arange(37, dtype=np.uint8), (3, 12, 14))
    volume[1, 3:8, 4:9] = bright
    (tmp_path / "in" / f"{name}.nii").write_bytes(nifti_bytes(volume))
  (tmp_path / "in" / "aa.nii").write_bytes(b"broken")
  with pytest.raises(Exception, match="1 of 4 studies"):
    batch_prediction.predict(
      tmp_path / "in", tmp_path / "out", given={}, probabilities=False, uncertainty=True, shard=None,
      load=brightness_predictor,
    )  # fmt: skip
  with open(tmp_path / "out" / "studies.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["study"] for row in rows] == ["b", "c", "a", "aa"] and rows[-1]["uncertainty"] == ""
  for row in rows[:3]:
    described = json.loads((tmp_path / "out" / row["study"] / "prediction.json").read_text())
    assert float(row["uncertainty"]) == described["uncertainty"] and described["options"]["uncertainty"] is True
    assert "entropy.nii" in described["files"]
  values = [f"{name} ({float(row['uncertainty']):.2f})" for name, row in zip("bca", rows, strict=False)]
  assert f"look at these first, by uncertainty: {', '.join(values)}" in capsys.readouterr().out
