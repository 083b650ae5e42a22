"""Errors near the true outline, against arithmetic on small masks; records of versions that did not count them."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from bt_jax import files
from bt_jax.evaluation import aggregation, classifier_gate, outline, records
from bt_jax.evaluation.record_tables import Tables
from tests.helpers.slices import make_slices

NAMES = {"data": "d", "split": "s"}


def square(size=9, low=2, high=7):
  mask = np.zeros((size, size))
  mask[low:high, low:high] = 1
  return mask


def rows_of(truth, predicted, patients, classes=("tumor",)):
  slices = make_slices(np.stack(truth), patients)
  masks = np.stack(predicted)[..., None] > 0
  return records.slice_records(slices, masks.max((1, 2, 3)) * 1.0, masks, **NAMES, classes=classes)


def test_a_band_of_two_pixels_along_the_outline_is_near_it():
  near = outline.near_outline(square()[None, ..., None] == 1)[0, ..., 0]
  expected = square(low=1, high=8) - square(low=3, high=6)
  expected[[1, 1, 7, 7], [1, 7, 1, 7]] = 0  # the corners touch the mask at a point only
  np.testing.assert_array_equal(near, expected)


def test_it_is_what_dilation_and_erosion_leave_in_every_slice_and_class_alone():
  truth = ndimage.uniform_filter(np.random.default_rng(0).random((5, 12, 14, 2)), (0, 3, 3, 0)) > 0.5
  near, cross = outline.near_outline(truth), ndimage.generate_binary_structure(2, 1)
  for number, name in np.ndindex(5, 2):
    mask = truth[number, ..., name]
    band = ndimage.binary_dilation(mask, cross) & ~ndimage.binary_erosion(mask, cross)
    np.testing.assert_array_equal(near[number, ..., name], band)


def test_errors_are_counted_by_slice_and_summed_by_patient():
  """Of a square of 25: one column more on its right, and a hole of one pixel in its middle; a slice without a tumour."""
  wider = square()
  wider[2:7, 7] = 1
  wider[4, 4] = 0
  far = np.zeros((9, 9))
  far[:2, 0] = 1
  rows = rows_of([square(), np.zeros((9, 9))], [wider, far], "AA")
  assert [(row["fp_outline"], row["fn_outline"]) for row in rows] == [(5, 0), (0, 0)]
  (patient,) = records.patient_records(rows)
  assert (patient["fp_outline"], patient["fn_outline"], patient["fp"], patient["fn"]) == (5, 0, 7, 1)
  summary = aggregation.summarize_outline(rows, intervals=False)
  assert summary["error_share"] == pytest.approx(5 / 8) and summary["patients"] == 1 and summary["why"] is None
  assert summary["dice_without_others"] == pytest.approx(2 * 25 / (2 * 25 + 5))


def test_a_mask_of_one_pixel_more_all_around_has_all_its_errors_there():
  wider = ndimage.binary_dilation(square() > 0) * 1.0
  rows = rows_of([square()], [wider], "A")
  assert rows[0]["fp_outline"] == rows[0]["fp"] == 20
  summary = aggregation.summarize_outline(rows, intervals=False)
  assert summary["error_share"] == 1
  assert summary["dice_without_others"] == pytest.approx(aggregation.summarize(rows)["patient"]["dice_mean"])


def older(rows):
  return [{name: value for name, value in row.items() if name not in outline.COLUMNS} for row in rows]


def test_of_records_with_and_without_it_the_known_volumes_are_counted(tmp_path):
  newer = rows_of([square(), square()], [square(low=3), square(low=2, high=6)], "AA")
  others = older(rows_of([square()], [np.zeros((9, 9))], "B"))
  assert aggregation.summarize_outline(others, intervals=False) == {}
  tables = Tables.joined([Tables(rows, records.patient_records(rows), [], []) for rows in (others, newer)])
  summary = aggregation.summarize_outline(tables.slices, intervals=False)
  assert summary["patients"] == 1 and summary["why"].startswith("1 of 2 volumes")
  assert summary["error_share"] == aggregation.summarize_outline(newer, intervals=False)["error_share"] == 1
  tables.write(tmp_path)
  header, first, *_ = (tmp_path / "slices.csv").read_text().splitlines()
  column = header.split(",").index("fn_outline")
  assert first.split(",")[column] == ""
  kinds = lambda name: files.Count | None if name in outline.COLUMNS else str
  assert [row["fn_outline"] for row in files.read_csv(tmp_path / "patients.csv", kinds)] == [None, 18]


def test_a_slice_that_the_gate_empties_is_not_known_where_there_is_a_tumour():
  rows = rows_of([square(), np.zeros((9, 9))], [square(), square()], "AB")
  gated = classifier_gate.gate(rows, np.array([False, False]))
  assert [(row["fp_outline"], row["fn_outline"]) for row in gated] == [(None, None), (0, 0)]
  assert aggregation.summarize_outline(gated, intervals=False)["patients"] == 1
  assert classifier_gate.gate(older(rows), np.array([False, False]))[0].keys() == older(rows)[0].keys()


def test_of_several_classes_it_is_the_mean_over_them():
  truth = np.stack([square(), square(low=4, high=5)], axis=-1)[None]
  predicted = np.stack([square(low=3), np.zeros((9, 9))], axis=-1)[None] > 0
  slices = dataclasses.replace(make_slices(truth[..., 0], "A"), mask=truth.astype(np.uint8))
  rows = records.slice_records(slices, np.ones(1), predicted, **NAMES, classes=("whole", "core"))
  summary = aggregation.summarize_outline(rows, intervals=False)
  assert summary["classes"]["core"]["error_share"] == summary["classes"]["whole"]["error_share"] == 1
  assert summary["dice_without_others"] == pytest.approx((2 * 16 / (2 * 16 + 9) + 0) / 2)
