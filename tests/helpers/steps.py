"""What a training step is made of, each component with something to do."""

import types

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.pipeline.preprocess import make_preprocess

AUGMENT = {
  "flip": True,
  "rotation_degrees": 15.0,
  "scale": 0.1,
  "shift": 0.05,
  "gain": 0.1,
  "offset": 0.02,
  "gamma": 0.2,
  "noise": 0.02,
  "drop_sequence": 0.5,
}
LOSS = {
    "name": "bce_dice", "fp_weight": 0.3, "fn_weight": 0.7, "exponent": 0.75, "smooth": 1.0, "pooled": True,
    "label_smoothing": 0.0,
}  # fmt: skip
PREPROCESS = make_preprocess(size=32, normalize="volume", channels="pre,flair,post", info=INFO)


def options(**fields):
  """How a step trains: as little as can be, but for these fields."""
  return types.SimpleNamespace(**{"ema_decay": 0.0, "mixup": 0.0, "accumulate": 1, "remat": False, "seed": 0} | fields)


def components(**fields):
  """What a step is made of; all but `kept_statistics` must be given."""
  return types.SimpleNamespace(**{"kept_statistics": ()} | fields)
