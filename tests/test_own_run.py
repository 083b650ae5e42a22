"""A run on two channels and three classes, numbered with a gap, against MONAI, nibabel and highdicom."""

import json
import shutil

import highdicom
import nibabel
import numpy as np
import pytest

from bt_jax.datasets import samples
from bt_jax.datasets.own_data import synthetic
from bt_jax.reporting.page import run_files, sprites
from tests.helpers.launching import launch, table_of
from tests.helpers.own_folders import about, nifti

pytestmark = pytest.mark.slow

CLASSES = {"rim": 1, "core": 2, "enhancing": 5}
CASES, SLICES = 8, 10


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """The folder of the data, whose files are stored in two orientations, and that of a run on them."""
  folder = tmp_path_factory.mktemp("two")
  data, run = folder / "data", folder / "run"
  about(data, ("T1", "FLAIR"), {"background": 0, **CLASSES})
  for number in range(CASES + 1):
    image, labels, _ = synthetic.make_case(number)
    part, codes = ("imagesTr" if number < CASES else "imagesTs"), ("LPS", "RAS")[number % 2]
    for channel, index in enumerate((0, 3)):
      path = data / part / f"case_{number}_{channel:04d}.nii.gz"
      nifti(path, np.rint(image[..., index]).astype(np.int16), codes=codes)
    if number < CASES:
      nifti(
        data / "labelsTr" / f"case_{number}.nii.gz", np.array([0, *CLASSES.values()], np.uint8)[labels], codes=codes
      )
  rows = [f"case_{number},{number % 4},{'' if number else 'yes'}" for number in range(CASES)]
  (data / "cases.csv").write_text("\n".join(["case,fold,has_T1", *rows, ""]))
  flags = [
    "--config=configs/seg.py:own", f"--config.data.root={data}", f"--config.data.dir={folder / 'tfds'}",
    "--config.model.name=unet", "--config.model.width=8", "--config.model.depth=3", "--config.model.pretrained=", "--config.data.size=64",
    "--config.train.epochs=10", "--config.train.batch_size=8", "--config.train.learning_rate=5e-3", f"--workdir={run}",
  ]  # fmt: skip
  status, _, err = launch(flags)
  assert status == 0, err
  return data, run


def predict(run, source, output, *flags):
  status, _, err = launch(["--mode=predict", f"--checkpoint={run}", f"--input={source}", f"--output={output}", *flags])
  assert status == 0, err
  return output


def test_dice_of_each_class_is_monais(trained):
  monai, torch = pytest.importorskip("monai.metrics"), pytest.importorskip("torch")
  _, run = trained
  rows = table_of(run / "patients.csv")
  assert [row["patient"] for row in rows[:: len(CLASSES)]] == ["case_0", "case_4"]
  assert {row["class"] for row in rows} == {*CLASSES} and max(float(row["dice"]) for row in rows) > 0.3
  means = []
  for patient in dict.fromkeys(row["patient"] for row in rows):
    volume = sprites.read_volume(run / "volumes", patient, SLICES, run_files.read(run).info)
    masks = [torch.tensor(np.moveaxis(mask, -1, 0)[None]) for mask in (volume.prediction, volume.truth)]
    dice = monai.DiceMetric(include_background=True, ignore_empty=False)(*masks)[0].tolist()
    ours = [float(row["dice"]) for row in rows if row["patient"] == patient]
    assert ours == pytest.approx(dice, abs=1e-6)
    means.append(dice)
  summary = json.loads((run / "summary.json").read_text())["test"]["classes"]
  of_classes = [summary[name]["patient"]["dice_mean"] for name in CLASSES]
  assert of_classes == pytest.approx(np.mean(means, 0).tolist(), abs=1e-6)


def test_a_column_of_the_users_table_groups_patients_by_its_text(trained, tmp_path):
  _, run = trained
  table = table_of(run / "patients.csv")
  assert {(row["patient"], row["has_T1"]) for row in table} == {("case_0", "yes"), ("case_4", "")}
  groups = json.loads((run / "summary.json").read_text())["test"]["subgroups"]["has_T1"]
  assert [(group["group"], group["patients"]) for group in groups] == [("yes", 1), ("not known", 1)]
  status, _, err = launch(["--mode=report", f"--workdir={shutil.copytree(run, tmp_path / 'run')}"])
  assert status == 0, err


def test_masks_are_on_the_grid_of_the_scan_and_have_the_dice_of_the_evaluation(trained, tmp_path):
  """Computed from the user's own files with nibabel alone."""
  data, run = trained
  predict(run, data / "imagesTr", tmp_path, "--layout=nnunet")
  for row in table_of(run / "patients.csv"):
    mask, truth, scan = (
      nibabel.load(path)
      for path in (
        tmp_path / f"{row['patient']}.nii.gz",
        data / "labelsTr" / f"{row['patient']}.nii.gz",
        data / "imagesTr" / f"{row['patient']}_0000.nii.gz",
      )
    )
    assert mask.shape == scan.shape and np.allclose(mask.affine, scan.affine)
    numbers, expected = (np.asarray(image.dataobj) for image in (mask, truth))
    assert {*np.unique(numbers)} <= {0, *CLASSES.values()}
    one, other = (values == CLASSES[row["class"]] for values in (numbers, expected))
    dice = 2 * (one & other).sum() / max(one.sum() + other.sum(), 1) if one.any() or other.any() else 1
    assert float(row["dice"]) == pytest.approx(dice, abs=0.01)


def test_layouts_and_folders_hold_one_mask(trained, tmp_path):
  data, run = trained
  plain = predict(run, data, tmp_path / "plain")
  flat = predict(run, data, tmp_path / "nnunet", "--layout=nnunet")
  bids = predict(run, data, tmp_path / "bids", "--layout=bids")
  name, paths = f"case_{CASES}", {}
  paths["nnunet"], (paths["plain"],) = flat / f"{name}.nii.gz", plain.glob("**/mask.nii*")
  paths["bids"] = bids / f"sub-case{CASES}/anat/sub-case{CASES}_desc-btjax_dseg.nii.gz"
  arrays = [np.asarray(nibabel.load(path).dataobj) for path in paths.values()]
  assert all((array == arrays[0]).all() for array in arrays)
  assert [path.name for path in flat.glob("*.nii.gz")] == [f"{name}.nii.gz"]
  table = (paths["bids"].parent / f"sub-case{CASES}_desc-btjax_dseg.tsv").read_text()
  assert table == "index\tname\n" + "".join(f"{number}\t{label}\n" for label, number in CLASSES.items())


def test_dicom_gets_a_segment_for_each_class(trained, tmp_path):
  _, run = trained
  samples.write(tmp_path / "external")
  output = predict(run, tmp_path / "external/dicom.zip", tmp_path / "out")
  (path,) = output.rglob("mask.dcm")
  segmentation = highdicom.seg.segread(path)
  labels = [segmentation.get_segment_description(number).segment_label for number in segmentation.segment_numbers]
  assert labels == [*CLASSES]
