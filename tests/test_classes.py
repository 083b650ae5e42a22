"""Several classes, that exclude one another or overlap: what losses, networks, statistics and predictions make of them."""

import dataclasses
import gzip
import json
import struct

import highdicom
import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import optax
import pytest
import tifffile
from PIL import Image

import bt_jax
from bt_jax import losses
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import UserError
from bt_jax.evaluation import aggregation, postprocess, records
from bt_jax.inference import exported_predictor, jax_export, loading, overlays
from bt_jax.inference.description import describe
from bt_jax.inference.segmented import segments_of
from bt_jax.models import SEGMENTERS
from bt_jax.schema import Predicted, Tumor
from bt_jax.serving import transport
from bt_jax.tasks import TASKS
from bt_jax.training.optimizer import make_optimizer
from bt_jax.training.step import make_predict_step, make_train_step
from bt_jax.training.train_state import init_state
from tests.helpers.arithmetic import network, sigmoid, volume
from tests.helpers.scanners import AXIAL, FLAIR, write_series
from tests.helpers.slices import make_slices
from tests.helpers.steps import components, options

THREE = DatasetInfo("three", ("a", "b"), ("core", "oedema", "rim"), (1, 2, 4), "b", 64)
REGIONS = dataclasses.replace(THREE, name="regions", overlapping=True)
SURE = 30.0


def test_probabilities_are_a_softmax_with_the_background_or_sigmoids():
  logits = jnp.array([[0.0, 1.0, -2.0]])
  shares = np.exp([0.0, 0.0, 1.0, -2.0])  # the background's logit is 0
  np.testing.assert_allclose(losses.class_probabilities(logits)[0], shares[1:] / shares.sum(), rtol=1e-6)
  np.testing.assert_allclose(losses.class_probabilities(logits, overlapping=True), sigmoid(logits), rtol=1e-6)
  one = losses.class_probabilities(logits[:, 1:2])
  np.testing.assert_allclose(one, sigmoid([[1.0]]), rtol=1e-6)


def test_cross_entropy_is_optaxs_of_labels_and_binary_of_regions():
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(2, 4, 4, 3)), jnp.float32)
  labels = rng.integers(0, 4, (2, 4, 4))
  masks = jnp.asarray(labels[..., None] == np.arange(1, 4), jnp.float32)
  whole = np.concatenate([np.zeros((2, 4, 4, 1), np.float32), logits], axis=-1)
  expected = optax.softmax_cross_entropy_with_integer_labels(whole, labels).mean((1, 2))
  np.testing.assert_allclose(losses.bce(logits, masks), expected, rtol=1e-5)
  expected = np.mean([losses.bce(logits[..., c : c + 1], masks[..., c : c + 1]) for c in range(3)], axis=0)
  np.testing.assert_allclose(losses.bce(logits, masks, overlapping=True), expected, rtol=1e-5)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_a_small_class_that_is_wholly_wrong_counts_as_much_as_a_large_one(overlapping, pooled):
  masks = np.zeros((1, 10, 10, 3), np.float32)
  masks[0, :5, :, 0] = masks[0, 5:9, :, 1] = masks[0, 9, :2, 2] = 1  # of 50, 40 and 2 pixels
  logits = np.where(masks == 1, SURE, -SURE).astype(np.float32)
  logits[..., 2] = -SURE  # the smallest is not found at all
  masks, logits = jnp.asarray(masks), jnp.asarray(logits)
  common = {"smooth": 0.0, "pooled": pooled, "overlapping": overlapping}
  np.testing.assert_allclose(losses.dice(logits, masks, **common), 1 / 3, rtol=1e-5)
  tversky = losses.focal_tversky(logits, masks, fp_weight=0.3, fn_weight=0.7, exponent=0.5, **common)
  np.testing.assert_allclose(tversky, (1 + 2 * 1e-6**0.5) / 3, rtol=1e-4)  # two at the floor of the loss


def test_a_pixel_is_of_the_likeliest_class_where_any_is_likely_enough():
  probabilities = np.array([[0.30, 0.25, 0.05], [0.10, 0.15, 0.20], [0.0, 0.9, 0.05]])
  masks = postprocess.class_masks(probabilities, threshold=0.5, overlapping=False)
  np.testing.assert_array_equal(masks, [[1, 0, 0], [0, 0, 0], [0, 1, 0]])
  regions = postprocess.class_masks(probabilities, threshold=0.2, overlapping=True)
  np.testing.assert_array_equal(regions, [[1, 1, 0], [0, 0, 1], [0, 1, 0]])


def rows_of(truth, predicted, cases, info=THREE):
  """Rows of masks, [slices, height, width, classes], and the slices."""
  slices = dataclasses.replace(make_slices(truth.any(-1).astype(int), cases), mask=truth.astype(np.uint8))
  table = records.slice_records(
    slices, predicted.any((1, 2, 3)).astype(float), predicted, data="d", split="s", classes=info.classes
  )
  return slices, table


def test_statistics_are_the_mean_of_those_of_each_class():
  rng = np.random.default_rng(0)
  truth, predicted = (rng.random((12, 8, 8, 3)) < 0.3 for _ in range(2))
  _, table = rows_of(truth, predicted, "AABBCCDDEEFF")
  assert len(table) == 36 and [row["class"] for row in table[:3]] == list(THREE.classes)
  summary = aggregation.summarize(table, intervals=True)
  assert summary["slices"] == 12 and summary["patients"] == 6
  alone = {}
  for number, name in enumerate(THREE.classes):
    one = dataclasses.replace(INFO, classes=(name,))
    _, of_one = rows_of(truth[..., number : number + 1], predicted[..., number : number + 1], "AABBCCDDEEFF", one)
    alone[name] = aggregation.summarize(of_one)
    for path in ("pooled.dice", "patient.dice_median", "slice.iou_nonempty_truth", "detection.sensitivity"):
      assert aggregation.score_of(summary["classes"][name], path) == pytest.approx(
        aggregation.score_of(alone[name], path)
      )
  mean = np.mean([of["patient"]["dice_mean"] for of in alone.values()])
  assert summary["patient"]["dice_mean"] == pytest.approx(mean)
  low, high = summary["patient"]["dice_mean_ci95"]
  assert low <= mean <= high


def test_a_class_without_a_value_does_not_count_in_the_mean():
  truth = np.zeros((2, 4, 4, 3), bool)
  truth[:, :2, :, 0] = True  # the other two are nowhere
  _, table = rows_of(truth, truth, "AB")
  summary = aggregation.summarize(table)
  assert summary["slice"]["dice_nonempty_truth"] == 1 and summary["detection"]["sensitivity"] == 1
  assert summary["classes"]["rim"]["detection"]["sensitivity"] is None


def test_a_class_may_have_a_dot_in_its_name():
  info = dataclasses.replace(THREE, classes=("grade 1.5", "grade 2.", "."))
  truth = np.zeros((2, 4, 4, 3), bool)
  truth[:, :2, :, 0] = True
  _, table = rows_of(truth, truth, "AB", info)
  summary = aggregation.summarize(table, intervals=True)
  assert set(summary["classes"]) == set(info.classes)
  assert summary["classes"]["grade 1.5"]["detection"]["sensitivity"] == 1
  assert set(summary["classes"]["."]) == set(summary["classes"]["grade 2."]) == set(summary["classes"]["grade 1.5"])


def test_rows_of_classes_come_together_by_slice_and_by_patient():
  truth = np.zeros((2, 4, 4, 3), bool)
  truth[0, 0, :, 1] = truth[0, 1, :2, 2] = True
  _, table = rows_of(truth, truth & False, "AB")
  first, second = records.of_any_class(table)
  assert (first["label"], first["fn"], first["tp"]) == (1, 6, 0) and second["label"] == 0 and "class" not in first
  patients = records.patient_records(table)
  assert [(row["patient"], row["class"]) for row in patients[:3]] == [("TCGA_XX_A", name) for name in THREE.classes]
  together = records.of_any_class(patients)
  assert [row["fn"] for row in together] == [6, 0]
  assert together[0]["dice"] == pytest.approx((1 + 0 + 0) / 3)  # the class that is nowhere is right
  single = [{name: value for name, value in row.items() if name != "class"} for row in table[:3]]
  assert records.of_any_class(single) is single


@pytest.mark.parametrize("info", [THREE, REGIONS], ids=["exclusive", "regions"])
def test_a_step_learns_classes_and_a_checkpoint_says_what_they_are(info):
  rng = np.random.default_rng(0)
  label = np.zeros((8, 32, 32), int)
  for at in range(8):
    label[at, 2:14, 2:14], label[at, 16:28, 4:20], label[at, 4:12, 18:28] = 1, 2, 3
  masks = (label[..., None] == np.arange(1, 4)).astype(np.float32)
  if info.overlapping:
    masks[..., 0] = masks.any(-1)  # the whole of it
  images = (label[..., None] * np.array([0.3, 0.2]) + rng.normal(0, 0.02, (8, 32, 32, 2))).astype(np.float32)
  task = TASKS["segmentation"](info)
  model = SEGMENTERS["unet"](width=4, depth=2, classes=task.outputs)
  preprocess = lambda batch, augment=None, key=None: (batch["image"], batch["mask"])
  optimizer = make_optimizer(name="adamw", momentum=0.9, epsilon=1e-8, weight_decay=0.0)
  fields = {"fp_weight": 0.3, "fn_weight": 0.7, "exponent": 0.75, "smooth": 1.0, "pooled": True, "label_smoothing": 0.0}
  loss = losses.make_loss(name="bce_dice", **fields, overlapping=info.overlapping)
  made = components(model=model, task=task, preprocess=preprocess, augment=None, loss=loss, optimizer=optimizer)
  step = jax.jit(make_train_step(made, options()))
  state = init_state(model, optimizer, size=32, channels=2, seed=0, average=False)
  batch = {"image": images, "mask": masks, "label": np.ones(8, np.int32), "weight": np.ones(8, np.float32)}
  for _ in range(60):
    state, value = step(state, batch, 1e-2)
  assert np.isfinite(value) and int(state.nonfinite_step) == -1
  predict = jax.jit(make_predict_step(model=model, task=task, preprocess=preprocess))
  tumor = jax.tree.map(np.asarray, task.probabilities(predict(state.variables, batch)))
  assert tumor.pixels.shape == (8, 32, 32, 3)
  slices = dataclasses.replace(make_slices(masks.any(-1).astype(int), "AABBCCDD"), mask=masks.astype(np.uint8))
  threshold = task.choose_threshold([Predicted(slices, tumor)], False)
  table = task.slice_records(slices, tumor, task.predict(tumor, slices, threshold, False), data="d", split="s")
  for name, numbers in task.summarize(table)["classes"].items():
    assert numbers["pooled"]["dice"] > 0.8, name
  assert DatasetInfo.from_json(info.to_json()) == info


def two_logits(variables, batch):
  """Of pre-contrast and of FLAIR, each 0 at 127.5."""
  pixels = (batch["image"][..., :2] - 127.5) * variables["slope"]
  return Tumor(pixels, pixels.max((1, 2, 3)))


TWO = dataclasses.replace(INFO, name="two", classes=("core", "oedema"), ids=(3, 7))


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_prediction_has_the_masks_of_all_classes_and_so_has_its_export(overlapping, tmp_path):
  info = dataclasses.replace(TWO, overlapping=overlapping)
  networks = [network(two_logits, slice_head=True, info=info, tumors=(0.0,))]
  image = volume(3)
  found = loading.of_networks(networks, []).predict(image)
  logits = (image[..., :2].astype(np.float64) - 127.5) * 0.05
  each = sigmoid(logits) if overlapping else np.exp(logits) / (1 + np.exp(logits).sum(-1, keepdims=True))
  np.testing.assert_allclose(found.probabilities, each, atol=1e-4)
  likely = each >= 0.5
  if not overlapping:
    likely = (each.argmax(-1)[..., None] == np.arange(2)) & (each.sum(-1, keepdims=True) >= 0.5)
  sure = (np.abs(each - 0.5).min(-1) > 1e-3) & (np.abs(each.sum(-1) - 0.5) > 1e-3)
  np.testing.assert_array_equal(found.masks[sure], likely[sure])
  np.testing.assert_array_equal(found.mask, found.masks.any(-1))
  expected = np.where(found.masks[..., 1], 7, np.where(found.masks[..., 0], 3, 0))
  np.testing.assert_array_equal(found.labels, expected)
  said = describe(found)
  assert {name: one["voxels"] for name, one in said["classes"].items()} == {
    "core": int(found.masks[..., 0].sum()), "oedema": int(found.masks[..., 1].sum()),
  }  # fmt: skip
  assert said["classes"]["oedema"]["id"] == 7

  path = tmp_path / "two.bin"
  jax_export.write(path, networks, [], tta=False, threshold=None, sensitivity=1.0)
  exported = exported_predictor.load(path, None).predict(image)
  assert exported.info == info
  np.testing.assert_allclose(exported.probabilities, found.probabilities, atol=1e-5)
  np.testing.assert_array_equal(exported.masks[sure], found.masks[sure])


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_viewer_gets_the_masks_of_each_class_at_every_threshold(overlapping):
  info = dataclasses.replace(TWO, overlapping=overlapping)
  networks = [network(two_logits, slice_head=True, info=info, tumors=(0.0,))]
  found = loading.of_networks(networks, []).predict(volume(2, 40, 50))
  content = gzip.decompress(transport.pack(describe(found), found))
  (length,) = struct.unpack("<I", content[:4])
  head, size = json.loads(content[4 : 4 + length]), 2 * 40 * 50
  arrays = np.frombuffer(content[4 + length :], np.uint8)[size * sum(one["bytes"] for one in head["channels"]) :]
  levels = np.moveaxis(arrays[: 2 * size].reshape(2, 2, 40, 50), 0, -1)
  assert [one["name"] for one in head["classes"]] == ["core", "oedema"] and head["plain"]
  for index in (head["own"], 20, 80):
    threshold = head["thresholds"][index]
    expected = postprocess.class_masks(found.probabilities, threshold=threshold, overlapping=overlapping)
    np.testing.assert_array_equal(levels > index, expected)
  masks = transport.unpack_masks(arrays[2 * size :].tobytes(), (2, 40, 50), 2)
  np.testing.assert_array_equal(masks, found.masks)
  with pytest.raises(UserError, match="predict this scan again"):
    transport.unpack_masks(arrays[2 * size :].tobytes(), (2, 40, 50), 1)


def test_an_overlay_has_a_colour_and_a_line_for_each_class(tmp_path):
  image = np.zeros((1, 64, 64, 3), np.float32)
  image[0, :32, :, 0] = image[0, 32:, :, 1] = image[0, 0, 0, 2] = 255  # core above, oedema below
  found = loading.of_networks([network(two_logits, slice_head=True, info=TWO, tumors=(0.0,))], []).predict(image)
  single = loading.of_networks([network()], []).predict(image)
  (several, *_), (one, *_) = overlays.save(tmp_path / "several", found), overlays.save(tmp_path / "one", single)
  several, one = (np.array(Image.open(path).convert("RGB")).astype(int) for path in (several, one))
  assert len(several) > len(one)  # the legend
  for colour in overlays.colours(TWO):
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    assert (several[: len(one)] == wanted).all(-1).any()


def test_networks_of_other_data_are_refused_in_one_line():
  with pytest.raises(UserError, match="with classes tumor, and by hand of two with core, oedema"):
    loading.of_networks([network(), network(two_logits, slice_head=True, info=TWO)], [])
  fewer = dataclasses.replace(INFO, name="two channels", channels=("pre", "flair"))
  with pytest.raises(UserError, match=r"has 3 channels, and these networks were trained on 2 of two channels"):
    scan = loading.of_networks([network(channels="pre,flair")], []).predict(volume(2)).scan
    loading.of_networks([network(channels="pre,flair", info=fewer)], []).predict(scan)
  with pytest.raises(ValueError, match="expected one for each"):
    dataclasses.replace(INFO, ids=(1, 2))
  with pytest.raises(ValueError, match="different numbers from 1 to 255"):
    dataclasses.replace(INFO, ids=(0,))
  with pytest.raises(ValueError, match="reference channel"):
    dataclasses.replace(INFO, reference="t2")


def segmented(folder, write_scan):
  """The prediction of a scan in a folder by two classes that exclude one another, and the files of it that were saved."""
  write_scan(folder / "in")
  found = loading.of_networks([network(two_logits, slice_head=True, info=TWO, tumors=(0.0,))], []).predict(
    bt_jax.read(folder / "in")
  )
  assert set(np.unique(found.labels)) == {0, 3, 7}  # some of each, or nothing is shown
  bt_jax.save(found, folder / "out")
  return found, folder / "out"


def test_a_nifti_mask_is_a_map_of_labels(tmp_path):
  def write_scan(folder):
    folder.mkdir()
    values = volume(3, 40, 50)
    for index, role in enumerate(INFO.channels):
      image = nibabel.Nifti1Image(values[..., index].T, np.diag([-1.0, -1.0, 4.0, 1.0]))
      image.to_filename(folder / f"{role}.nii.gz")

  found, out = segmented(tmp_path, write_scan)
  mask = nibabel.load(out / "mask.nii.gz")
  np.testing.assert_array_equal(np.asarray(mask.dataobj).T, found.labels)
  said = json.loads((out / "prediction.json").read_text())["classes"]
  assert {name: one["id"] for name, one in said.items()} == {"core": 3, "oedema": 7}


def test_masks_of_images_hold_labels(tmp_path):
  def write_scan(folder):
    folder.mkdir()
    for number, pixels in enumerate(volume(3, 40, 50)):
      tifffile.imwrite(folder / f"slice_{number}.tif", pixels.astype(np.uint8), photometric="rgb")

  found, out = segmented(tmp_path, write_scan)
  written = [tifffile.imread(out / f"masks/slice_{number}_mask.tif") for number in range(3)]
  np.testing.assert_array_equal(written, found.labels)


def test_a_file_of_one_class_names_it_unless_it_is_that_of_lgg():
  masks = np.ones((1, 2, 2, 1), bool)
  assert segments_of(masks, INFO)[1] is None
  other = dataclasses.replace(INFO, channels=("ct",), reference="ct", classes=("kidney",), ids=(255,))
  mask, names = segments_of(masks, other)
  assert mask.shape == (1, 2, 2) and mask.max() == 1 and names == {1: "kidney"}


def test_a_dicom_segmentation_has_a_segment_for_each_class(tmp_path):
  def write_scan(folder):
    rng = np.random.default_rng(0)
    for role, uid in (("AX T1", "1.2.3"), ("AX FLAIR", FLAIR), ("AX T1 +C", "1.2.5")):
      write_series(folder, rng.integers(0, 256, AXIAL.shape).astype(np.uint16), series=uid, description=role)

  found, out = segmented(tmp_path, write_scan)
  written = highdicom.seg.segread(out / "mask.dcm")
  assert [written.get_segment_description(number).segment_label for number in (1, 2)] == ["core", "oedema"]
  assert written.SeriesDescription.startswith("Segmentation. ") and "FLAIR" not in written.ContentDescription
  array = written.get_volume(combine_segments=True).array
  assert [(array == number).sum() for number in (1, 2)] == [(found.labels == label).sum() for label in TWO.ids]
