"""Numbers of slices: whatever a person reads counts from 1, and indices in files from 0."""

import json
import re

import numpy as np
import pydicom
import pytest

from bt_jax.inference import batch_prediction
from tests.helpers.scanners import AXIAL, write_series
from tests.helpers.viewers import brightness_predictor, nifti_bytes

FIRST, LAST, COUNT = 3, 8, 12  # the slices with something bright, from 1


def bright():
  volume = np.full((COUNT, 16, 18), 40, np.uint8) + np.arange(18, dtype=np.uint8)
  volume[FIRST - 1 : LAST, 4:9, 5:11] = 200
  return volume


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_console_files_and_overlays_agree(tmp_path, capsys, kind):
  source, output = tmp_path / "in", tmp_path / "out"
  if kind == "dicom":
    write_series(source, bright().astype(np.uint16), AXIAL._replace(shape=bright().shape, spacing=(5.0, 3.0, 3.0)))
  else:
    source.mkdir()
    (source / "scan.nii").write_bytes(nifti_bytes(bright()))
  batch_prediction.predict(source, output, given={}, probabilities=False, shard=None, load=brightness_predictor)
  (numbers,) = re.findall(r"slices (\d+) to (\d+) of (\d+)", capsys.readouterr().out)
  assert [int(number) for number in numbers] == [FIRST, LAST, COUNT]
  described = json.loads((output / "prediction.json").read_text())
  assert described["slice_range"] == [FIRST - 1, LAST - 1] and described["slice_number_range"] == [FIRST, LAST]
  rows = described["slices"]
  assert [row["index"] for row in rows] == [*range(COUNT)] and [row["number"] for row in rows] == [*range(1, COUNT + 1)]
  assert [row["number"] for row in rows if row["tumor"]] == [*range(FIRST, LAST + 1)]
  for row in rows:
    assert row["name"] == f"{row['number']:04d}" and (output / "overlays" / f"{row['name']}.png").is_file()
  if kind == "dicom":  # frames of a Segmentation may have any order: by their positions, from the feet up
    mask = pydicom.dcmread(output / "mask.dcm")
    heights = [
      float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) for frame in mask.PerFrameFunctionalGroupsSequence
    ]
    upwards = mask.pixel_array[np.argsort(heights)]
    assert [number for number, frame in enumerate(upwards, start=1) if frame.any()] == [*range(FIRST, LAST + 1)]
