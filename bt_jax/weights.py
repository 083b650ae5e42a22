"""Published weights, each as a Linen module and its variables."""

import os
from typing import NamedTuple

from flax import linen as nn

from bt_jax.errors import check_local
from bt_jax.models import EfficientNetLite, LiteClassifier, ResNet50, ResNet50Classifier
from bt_jax.models.efficientnet_lite import ENCODERS
from bt_jax.models.unet import UNET_FIELDS, UNet
from bt_jax.pretrained import conversion
from bt_jax.training.train_state import PyTree

__all__ = ["Pretrained", "load"]


def __dir__() -> list[str]:
  return __all__


class Pretrained(NamedTuple):
  """A network with its weights.

  Attributes:
    module: returns logits of the classes that it was trained for (of pixels, for a U-Net) or, if the source has no classifier, features by
      stage.
    variables: `params` and `batch_stats`, float32.
    normalize: how its inputs are normalised, a name of `pipeline.preprocess.SCHEMES`.
  """

  module: nn.Module
  variables: PyTree
  normalize: str


def load(name: str | os.PathLike[str]) -> Pretrained:
  """Loads a network and its weights from a file, an installed package, a hub name or a folder of converted weights.

      module, variables, _ = bt_jax.weights.load("efficientnet-lite0")
      logits = module.apply(variables, images)  # [batch, height, width, 3] to [batch, 1000]

  >>> bt_jax.weights.load("resnet50.pth")  # doctest: +ELLIPSIS
  Traceback (most recent call last):
  bt_jax.errors.UserError: model.pretrained: there is no file resnet50.pth: name a file (.safetensors, ...

  Args:
    name: name or path of the weights, as for `model.pretrained`; see docs/models.md.

  Raises:
    UserError: there are no such weights, they cannot be read, or they are for a network that we do not have.
  """
  check_local(name, "model.pretrained")
  weights = conversion.load_weights(os.fspath(name))
  if weights.is_whole:
    classes = len(weights.variables["params"]["head"]["bias"])
    return Pretrained(UNet(**UNET_FIELDS, classes=classes), weights.variables, weights.normalize)
  lite = weights.variant in ENCODERS
  head = weights.variables["params"].get("head")
  if head is None:
    module = EfficientNetLite(weights.variant) if lite else ResNet50(weights.variant)
    variables = {collection: arrays["encoder"] for collection, arrays in weights.variables.items()}
  else:
    classes = len(head["dense"]["bias"])
    classifier = LiteClassifier if lite else ResNet50Classifier
    fields = {"encoder" if lite else "variant": weights.variant, "classes": classes}
    module, variables = classifier(**fields), weights.variables
  return Pretrained(module, variables, weights.normalize)
