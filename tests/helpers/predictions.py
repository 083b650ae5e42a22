"""Predictions with a mask that is known."""

import numpy as np

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.inference.predictor import Prediction
from bt_jax.scans.scan import Scan, numbered
from bt_jax.schema import CHANNELS


def make_prediction(mask, *, image=None, spacing=None, names=None, members=None, affine=None, **fields):
  count = len(mask)
  if image is None:
    image = np.arange(mask.size, dtype=np.float32).reshape(mask.shape)
  scan = Scan(
    "study", "array", np.stack([image.astype(np.float32)] * 3, axis=-1), spacing,
    dict.fromkeys(CHANNELS, "made up"), names or numbered(count), [], "ab12", affine=affine,
  )  # fmt: skip
  values = {
    "slice_probability": np.linspace(0.1, 0.9, count, dtype=np.float32), "gated": np.zeros(count, bool),
    "threshold": 0.4, "warnings": [], "looks_wrong": False, "about": {"bt_jax": "0"},
  }  # fmt: skip
  members = mask[None] if members is None else members
  return Prediction(
    scan=scan, masks=mask[..., None], probabilities=mask[..., None].astype(np.float32), members=members, info=INFO,
    **values | fields,
  )  # fmt: skip


def empty(*shape):
  return np.zeros(shape, bool)
