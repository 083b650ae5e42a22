"""Rows of a classifier of six slices of two patients, counted by hand."""

import numpy as np

from bt_jax.evaluation import class_statistics
from tests.helpers.slices import make_slices

LABEL = np.array([0, 0, 1, 1, 1, 0])
PROBABILITY = np.array([0.1, 0.6, 0.8, 0.4, 0.9, 0.2], np.float32)  # at 0.5: TN FP TP FN TP TN


def rows_of(label=LABEL, probability=PROBABILITY, threshold=0.5):
  slices = make_slices(np.repeat(label, 4).reshape(-1, 2, 2), "ABABAB"[: len(label)])
  return class_statistics.class_rows(slices, probability, probability >= threshold, data="made up", split="by hand")
