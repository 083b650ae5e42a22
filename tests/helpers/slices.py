"""Slices with masks and probabilities that are known, and few enough to count by hand."""

import numpy as np

from bt_jax.schema import Slices


def make_slices(truth, cases):
  """Slices of the given masks [n, height, width]; `cases` is a letter per slice."""
  numbers = [cases[: at + 1].count(case) for at, case in enumerate(cases)]
  names = np.array([f"TCGA_XX_{case}_20000101" for case in cases])
  patients = np.array([f"TCGA_XX_{case}" for case in cases])
  count = len(cases)
  image = np.zeros((count, *truth.shape[1:], 3), np.uint8)
  stats = np.ones((count, 3), np.float32)
  return Slices(names, patients, np.array(numbers), image, truth[..., None].astype(np.uint8), stats, stats)


# Six slices of two patients, four pixels each. Truth and probabilities so that at 0.5, by hand:
#   A1 TP 2 FP 0 FN 0 | A2 TP 1 FP 1 FN 1 | A3 both empty | B1 TP 0 FP 0 FN 4 | B2 empty truth, FP 1 | B3 TP 3 FP 0 FN 0
TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]]).reshape(6, 2, 2)
PROBABILITY = np.array(
  [
    [0.9, 0.8, 0.1, 0],
    [0.9, 0.2, 0.6, 0],
    [0.1, 0.2, 0.3, 0],
    [0.4, 0.3, 0.2, 0.1],
    [0, 0, 0, 0.7],
    [0.9, 0.9, 0.5, 0.4],
  ],
  np.float32,
).reshape(6, 2, 2)
