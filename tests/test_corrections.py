"""Corrections of a reader: written on the scan's grid, and kept as a data set that trains."""

import dataclasses
import functools
import hashlib
import io
import json
import shlex

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from nibabel import orientations

from bt_jax import zoo
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.datasets.own_data import case_volumes, case_writer, inspection, layouts
from bt_jax.errors import UserError
from bt_jax.modes import serve
from bt_jax.scans.scan import Scan
from bt_jax.serving import app
from bt_jax.training import network_file
from bt_jax.version import __version__
from tests.helpers.launching import launch
from tests.helpers.own_folders import nifti
from tests.helpers.pages import VOLUME as HEAD
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


def keep(port, files, change, **texts):
  """Predicts a scan and keeps it as `change` corrects its mask; the answer, and the mask."""
  head, *_, bits = predict(port, *files)
  predicted = np.unpackbits(bits, count=int(np.prod(head["shape"]))).reshape(head["shape"]).astype(bool)
  mask = change(predicted.copy())
  said = {"threshold": "0.5", "sha256": head["prediction"]["input"]["sha256"], "kept": head["kept"], **texts}
  fields = [(name, None, text.encode()) for name, text in said.items()]
  masks = [("mask", "m", packed(mask)), ("predicted", "p", packed(predicted))]
  return post(port, "/keep", *files, *masks, *fields), mask


def corrected(mask):
  """Two voxels more in the second slice, and one fewer in the last."""
  mask[1, 2, 3:5] = ~mask[1, 2, 3:5]
  mask[-1, 0, 0] = ~mask[-1, 0, 0]
  return mask


@pytest.fixture
def kept(tmp_path):
  """A server that keeps, and its folder."""
  folder = tmp_path / "kept"
  command = functools.partial(serve.fine_tuning, ["lgg"])
  with serving(app.make_app(Brightness(), keep=folder, fine_tuning=command)) as port:
    yield port, folder


def read_back(data):
  """Image and numbers of the only case, as training reads them."""
  (case,) = layouts.find(data).cases
  return case, *case_volumes.read_case(case, INFO.channels)


@pytest.mark.parametrize("codes", ["LPS", "ASR"])
def test_a_correction_of_nifti_is_kept_on_its_own_grid(kept, tmp_path, codes):
  port, folder = kept
  path = nifti(tmp_path / "sub-07.nii.gz", VOLUME.astype(np.uint8), codes=codes)
  sent = nibabel.load(path)
  (status, _, content), mask = keep(port, [("scan", path.name, path.read_bytes())], corrected)
  assert status == 200, content
  case, image, numbers = read_back(folder / "corrections")
  assert case.patient == "sub-07"
  np.testing.assert_array_equal(numbers.values[..., 0], mask)
  np.testing.assert_array_equal(image.values, np.stack([VOLUME] * 3, -1))  # FLAIR stands for the others
  for written in (case.masks[0], *(group[0] for group in case.images), folder / "0001/corrected/mask.nii.gz"):
    loaded = nibabel.load(written)
    assert loaded.shape == sent.shape and nibabel.aff2axcodes(loaded.affine) == tuple(codes)
    np.testing.assert_allclose(loaded.affine, sent.affine)
    turned = loaded.as_reoriented(orientations.ornt_transform(*map(orientations.axcodes2ornt, (codes, "LPS"))))
    axial = np.asarray(turned.dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(axial, VOLUME if "imagesTr" in written.parts else mask)


def test_the_origin_of_a_correction_is_recorded(kept):
  port, folder = kept
  keep(port, [GOOD], corrected)
  record = json.loads((folder / "0001/corrected/correction.json").read_text())
  predicted = np.float32(0.5) <= VOLUME / np.float32(255)
  signs = [int(predicted[1, 2, 3:5].sum()), int(predicted[2, 0, 0])]  # voxels that were predicted, and removed
  assert [(one["index"], one["number"], one["voxels_added"], one["voxels_removed"]) for one in record["slices"]] == [
    (1, 2, 2 - signs[0], signs[0]),
    (2, 3, 1 - signs[1], signs[1]),
  ]
  assert record["input"]["sha256"] == hashlib.sha256(GOOD[2]).hexdigest() and record["threshold"] == 0.5
  assert record["corrected"] is True and record["model"] == Brightness.about and record["prediction"] == "0001"
  assert record["software"] == f"bt_jax {__version__}"
  (case,) = layouts.find(folder / "corrections").cases
  assert json.loads((folder / f"corrections/origins/{case.name}.json").read_text()) == record
  assert record["case"] == case.name


def test_a_correction_of_a_stack_of_slices_leaves_the_size_of_voxels_open(kept):
  port, folder = kept
  content = io.BytesIO()
  tifffile.imwrite(content, VOLUME.astype(np.uint16), photometric="minisblack", metadata=None)
  (status, _, answer), mask = keep(port, [("scan", "a.tif", content.getvalue())], corrected)
  assert status == 200, answer
  case, image, numbers = read_back(folder / "corrections")
  assert image.spacing_mm is None and case.masks[0].suffix == ".tif"
  np.testing.assert_array_equal(numbers.values[..., 0], mask)
  np.testing.assert_array_equal(image.values[..., 1], VOLUME)
  beside = tifffile.imread(folder / "0001/corrected/masks/a_mask.tif")
  np.testing.assert_array_equal(beside, mask * 255)


def test_a_correction_of_dicom_trains_as_nifti_where_the_scanner_put_it(kept, tmp_path):
  port, folder = kept
  values = np.random.default_rng(4).integers(0, 256, AXIAL.shape, np.uint16)
  paths = write_series(tmp_path / "series", values)
  files = [("scan", path.name, path.read_bytes()) for path in paths]
  (status, _, answer), mask = keep(port, files, corrected)
  assert status == 200, answer
  case, image, numbers = read_back(folder / "corrections")
  np.testing.assert_array_equal(numbers.values[..., 0], mask)
  assert image.spacing_mm == pytest.approx(AXIAL.spacing)
  flair = nibabel.load(case.images[1][0])
  world = (
    np.stack(np.meshgrid(*map(np.arange, flair.shape), indexing="ij"), -1) @ flair.affine[:3, :3].T
    + flair.affine[:3, 3]
  )
  expected = AXIAL.world() * [-1, -1, 1]  # LPS to RAS
  order = lambda points, of: sorted(zip(np.round(points.reshape(-1, 3), 3).tolist(), of.ravel().tolist(), strict=True))
  assert order(world, np.asarray(flair.dataobj)) == order(expected, values.astype(float))
  written = pydicom.dcmread(folder / "0001/corrected/mask.dcm")
  assert written.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"


def test_a_folder_of_corrections_is_a_data_set_and_a_scan_is_in_it_once(kept, capsys):
  port, folder = kept
  lines = []
  for seed in (11, 12, 12, 13):
    scan = ("scan", f"p{seed}.nii", nifti_bytes(slices_of(seed=seed, shape=SHAPE).volume))
    status, _, content = keep(port, [scan], corrected)[0]
    assert status == 200, content
    lines.append(json.loads(content))
  data = folder / "corrections"
  assert (
    lines[2]["line"]
    == f"2 corrections of 2 patients in {data}; training needs 1 more patient, and then this fine-tunes from them"
  )
  assert lines[3]["line"] == f"3 corrections of 3 patients in {data}; this fine-tunes from them"
  assert shlex.split(lines[3]["command"]) == [
    "python", "launch.py", "--config=configs/seg.py:own", f"--config.data.root={data}", "--config.model.pretrained=lgg",
    "--config.data.folds=3",
  ]  # fmt: skip
  assert lines[3]["command"] in capsys.readouterr().out
  collection = layouts.find(data)
  found = inspection.inspect(collection, "", 3)
  assert collection.problems == [] and len(collection.cases) == 3
  assert (found.info.channels, found.info.classes, found.info.ids) == (INFO.channels, INFO.classes, INFO.ids)
  assert json.loads((data / "dataset.json").read_text())["numTraining"] == 3


def test_what_cannot_be_kept_is_refused_in_one_line(kept, port):
  keeps, folder = kept
  other = ("scan", "b.nii", nifti_bytes(slices_of(seed=8, shape=SHAPE).volume))
  predict(keeps, other)  # 0001
  for texts, expected in (
    ({"kept": "0001"}, "kept prediction 0001 is of another scan"),
    ({"kept": "../0001"}, "no kept prediction"),
    ({"kept": "0099"}, "no kept prediction '0099'"),
    ({"sha256": "0" * 64}, "of another scan"),
    ({"threshold": "2"}, "threshold is 2"),
  ):
    status, _, content = keep(keeps, [GOOD], corrected, **texts)[0]
    assert status == 422 and expected in error_in(content), content
  status, _, content = keep(keeps, [GOOD], lambda mask: mask)[0]
  assert status == 422 and "as it was predicted" in error_in(content)
  status, _, content = post(keeps, "/keep", GOOD, ("mask", "m", b"123"), ("predicted", "p", b"123"))
  assert status == 422 and "3 bytes" in error_in(content)
  assert post(keeps, "/keep", GOOD, ("mask", "m", b"123"))[0] == 400
  assert not (folder / "corrections").exists() and not [*folder.glob("*/corrected")]
  status, _, content = post(port, "/keep", GOOD, ("mask", "m", b"123"), ("predicted", "p", b"123"))
  assert status == 403 and "keeps nothing" in error_in(content)


REGIONS = DatasetInfo(
  name="made up", channels=("FLAIR",), classes=("whole", "core", "enhancing"), ids=(1, 2, 4), reference="FLAIR", size=24,
  overlapping=True,
)  # fmt: skip


def scan_of(image):
  return Scan("a", "images", image[..., None], None, {}, [], [], "0" * 64)


def test_every_combination_of_overlapping_classes_comes_back(tmp_path):
  masks = np.stack([drawn(seed) for seed in (21, 22, 23)], -1)  # which do not contain one another
  case_writer.add(tmp_path, "a", scan_of(VOLUME), masks, REGIONS, "a test")
  collection = layouts.find(tmp_path, masks=False)
  assert collection.problems == [] and collection.labels.overlapping and collection.labels.ids == (1, 2, 4)
  numbers = case_volumes.read_numbers(collection.cases[0])
  np.testing.assert_array_equal(case_volumes.to_masks(numbers, collection.labels), masks)
  nested = np.stack([drawn(21) | drawn(22), drawn(22), drawn(22) & drawn(23)], -1)
  case_writer.add(tmp_path, "a", scan_of(VOLUME), nested, REGIONS, "a test")
  written = tifffile.imread(tmp_path / "labelsTr/a.tif")
  np.testing.assert_array_equal(written, np.select([nested[..., 2], nested[..., 1], nested[..., 0]], [4, 2, 1], 0))


def test_classes_that_exclude_each_other_and_folders_of_others_are_refused(tmp_path):
  exclusive = dataclasses.replace(REGIONS, overlapping=False)
  masks = np.stack([drawn(21), np.zeros(SHAPE, bool), ~drawn(21)], -1)
  case_writer.add(tmp_path, "a", scan_of(VOLUME), masks, exclusive, "a test")
  np.testing.assert_array_equal(tifffile.imread(tmp_path / "labelsTr/a.tif"), np.where(drawn(21), 1, 4))
  with pytest.raises(UserError, match="1,440 voxels have two of whole, core, enhancing"):
    case_writer.add(tmp_path, "b", scan_of(VOLUME), masks | True, exclusive, "a test")
  with pytest.raises(UserError, match="other channels or classes"):
    case_writer.add(tmp_path, "b", scan_of(VOLUME), masks, REGIONS, "a test")
  assert [path.name for path in (tmp_path / "imagesTr").iterdir()] == ["a_0000.tif"]


def test_the_command_names_what_differs_from_the_preset(tmp_path, monkeypatch):
  variables, record = network_file.read(zoo.path_of("lgg"))
  record["config"]["model"]["width"], record["config"]["data"]["size"] = 99, 96
  path = network_file.write(tmp_path / "my network.safetensors", variables, record)
  info = dataclasses.replace(INFO, window=(-160.0, 240.0))
  assert shlex.split(serve.fine_tuning([str(path)], tmp_path / "data", 9, info))[2:] == [
    "--config=configs/seg.py:own", f"--config.data.root={tmp_path / 'data'}", f"--config.model.pretrained={path}",
    "--config.data.size=96", "--config.data.window=-160,240", "--config.model.width=99",
  ]  # fmt: skip
  monkeypatch.setattr("sys.argv", ["/usr/local/bin/bt-jax", "serve"])
  assert serve.fine_tuning(["lgg"], tmp_path / "data", 9, INFO).startswith(
    "bt-jax --config=seg.py:own --config.data.root="
  )
  (tmp_path / "exported.bin").write_bytes(b"")
  assert serve.fine_tuning([str(tmp_path / "exported.bin")], tmp_path / "data", 9, INFO) is None


@pytest.mark.slow
def test_the_command_that_is_printed_fine_tunes_from_the_corrections(kept, tmp_path):
  port, _ = kept
  for seed in (11, 12, 13):
    noise = np.random.default_rng(seed).integers(0, 9, HEAD.shape)
    scan = ("scan", f"p{seed}.nii", nifti_bytes(np.minimum(HEAD + noise, 255)))  # slices with a tumour, and without
    _, _, content = keep(port, [scan], corrected)[0]
  words = shlex.split(json.loads(content)["command"])
  small = ["--config.train.epochs=1", "--config.data.size=64", f"--config.data.dir={tmp_path / 'tfds'}"]
  status, out, err = launch([*words[2:], *small, f"--workdir={tmp_path / 'run'}"])
  assert status == 0, err
  assert "network from" in out + err and (tmp_path / "run/summary.json").is_file()
