import numpy as np
import pytest
from scipy.special import expit, logit

from bt_jax.evaluation import bootstrap, calibration
from tests.helpers.class_rows import rows_of
from tests.helpers.slices import PROBABILITY, TRUTH, make_slices


def error_of(probability, label):
  rows = [{"patient": "A", "label": int(y), "probability": float(p)} for p, y in zip(probability, label, strict=True)]
  numbers = calibration.slice_errors(rows, {"ece": "probability"})
  return bootstrap.estimate(numbers, 1, intervals=False)["ece"]


def test_error_of_the_calibrated_is_small_and_of_the_sure_and_wrong_is_one():
  rng = np.random.default_rng(1)
  probability = rng.random(20_000)
  assert error_of(probability, rng.random(20_000) < probability) < 0.02
  assert error_of(np.ones(4), np.zeros(4)) == 1


def test_error_by_hand():
  # The bin from .2 holds .2 and .28, of which one is a tumour; the bin from .9 holds 1.0, none.
  assert error_of([0.2, 0.28, 1.0], [0, 1, 0]) == pytest.approx((abs(0.48 - 1) + 1) / 3)


def test_temperature_is_found_and_calibrates():
  rng = np.random.default_rng(0)
  odds = rng.normal(0, 2, 50_000)
  label = rng.random(50_000) < expit(odds)
  for temperature in (0.5, 1.0, 3.0):  # the network's log odds are the true ones times this
    probability = expit(odds * temperature)
    found = calibration.fit_temperature(probability, label)
    assert found == pytest.approx(temperature, rel=0.05)
    assert error_of(calibration.calibrate(probability, found), label) < 0.01
  np.testing.assert_allclose(logit(calibration.calibrate(np.array([0.8]), 2.0)), logit(0.8) / 2)


def test_temperature_of_constant_and_of_certain_probabilities_is_within_its_limits():
  label = np.array([0, 1, 1, 0])
  assert 0.05 <= calibration.fit_temperature(np.full(4, 0.3), label) <= 20
  assert calibration.fit_temperature(np.array([0, 1, 1, 0], np.float32), label) == pytest.approx(0.05, rel=0.01)
  assert np.isfinite(calibration.calibrate(np.array([0.0, 1.0], np.float32), 0.05)).all()


def test_pixels_are_counted_by_patient_and_bin_and_their_error_is_that_of_the_pixels():
  slices = make_slices(TRUTH, "AAABBB")
  rows = calibration.pixel_rows(slices, PROBABILITY[..., None], 1.0, data="d", split="s")
  assert len(rows) == 2 * 2 * 10 and sum(row["pixels"] for row in rows if row["calibrated"] == 0) == 24
  (a9,) = [row for row in rows if (row["patient"], row["calibrated"], row["bin"]) == ("TCGA_XX_A", 0, 9)]
  assert (a9["pixels"], a9["tumor_pixels"]) == (2, 2) and a9["probability_sum"] == pytest.approx(1.8)
  found = bootstrap.estimate(calibration.pixel_errors(rows), 2)
  expected = error_of(PROBABILITY.ravel(), TRUTH.ravel())
  assert found["ece"] == pytest.approx(expected) and found["ece_calibrated"] == pytest.approx(expected, abs=1e-4)
  alone = calibration.pixel_errors(rows)(np.array([[0], [1]]))["ece"]
  by_patient = [error_of(PROBABILITY[at].ravel(), TRUTH[at].ravel()) for at in (slice(3), slice(3, 6))]
  assert alone.tolist() == pytest.approx(by_patient)


def test_slices_of_a_classifier():
  rows = [row | {"probability_calibrated": row["label"]} for row in rows_of()]
  numbers = calibration.slice_errors(rows, {"ece": "probability", "ece_calibrated": calibration.CALIBRATED})
  found = bootstrap.estimate(numbers, 2, intervals=False)
  assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.6 + 0.1 + 0.2) / 6) and found["ece_calibrated"] == 0
