"""Segmentation: a U-Net that marks FLAIR abnormality in every slice.

  python launch.py --config=configs/seg.py:phantom                              synthetic data, minutes on a laptop
  python launch.py --config=configs/seg.py:small --config.data.root=DIR         the real data on a CPU
  python launch.py --config=configs/seg.py --config.data.root=DIR               the real data on an accelerator

Test scores to expect are in docs/results.md, with the commands that print them.
"""

from ml_collections import ConfigDict

from bt_jax.errors import UserError
from configs import common

PRESETS = ("", "small", "phantom")


def get_config(preset: str = "") -> ConfigDict:
  """The configuration of a preset; raises UserError where there is none of that name."""
  if preset not in PRESETS:
    raise UserError(
      f"configs/seg.py has no preset {preset!r}: there are {', '.join(filter(None, PRESETS))}, or none at all"
    )
  config = common.get_config()
  config.preset = preset
  if preset == "":
    config.model.dtype = "bfloat16"
  if preset in ("small", "phantom"):
    config.data.size = 128
    config.model.width = 8
    config.train.batch_size = 8  # the more steps in the few epochs a CPU has time for
    config.train.epochs = 8
    config.train.learning_rate = 3e-3
    # A net this small sees too little in eight epochs to overfit: flips alone did better on the validation part.
    config.augment.update(rotation_degrees=0.0, scale=0.0, shift=0.0, gamma=0.0, noise=0.0)
  if preset == "phantom":
    config.data.name = "phantom"
    config.train.learning_rate = 5e-3
  return config
