"""Networks, by name."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from bt_jax.errors import UserError, choose, nearest
from bt_jax.models.cnn import CNN
from bt_jax.models.efficientnet_lite import EfficientNetLite, LiteClassifier
from bt_jax.models.lite_unet import LiteUNet
from bt_jax.models.resnet import ResNet50, ResNet50Classifier
from bt_jax.models.resunet import ResUNet, ResUNetScratch
from bt_jax.models.unet import UNET, UNet
from bt_jax.options import fields_of, taken

__all__ = [
  "CLASSIFIERS",
  "CNN",
  "SEGMENTERS",
  "EfficientNetLite",
  "LiteClassifier",
  "LiteUNet",
  "ResNet50",
  "ResNet50Classifier",
  "ResUNet",
  "ResUNetScratch",
  "UNet",
  "make_model",
]  # fmt: skip
CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
  "cnn": CNN,
  "resnet50": ResNet50Classifier,
  "lite": LiteClassifier,
}
SEGMENTERS: dict[str, Callable[..., nn.Module]] = {
  "unet": UNet,
  "resunet": ResUNet,
  "resunet_scratch": ResUNetScratch,
  "lite_unet": LiteUNet,
}
MODELS = CLASSIFIERS | SEGMENTERS
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def __dir__() -> list[str]:
  return __all__


def make_model(options: dict[str, Callable[..., nn.Module]], name: str, **fields: Any) -> nn.Module:
  """The network with this name.

  >>> bt_jax.models.make_model(bt_jax.models.SEGMENTERS, "unet", width=8).width
  8
  >>> bt_jax.models.make_model(bt_jax.models.SEGMENTERS, "unet", pool="max")
  Traceback (most recent call last):
  bt_jax.errors.UserError: unet takes no pool: expected one of classes, depth, dtype, norm, width

  Args:
    options: the networks to choose from, by name.
    name: a name among them.
    fields: of the network, see `options.fields_of`.

  Raises:
    UserError: there is no such network, or it does not take one of the fields.
  """
  network = choose("model.name", name, options)
  for field in fields.keys() - fields_of(network):
    raise UserError(f"{name} takes no {field}: {nearest(field, sorted(fields_of(network)))}")
  return network(**fields)


def configured_model(options: dict[str, Callable[..., nn.Module]], section: Mapping[str, Any]) -> nn.Module:
  """The network that the section `model` of a configuration names, with those of the section's fields that it takes."""
  network = choose("model.name", section["name"], options)
  return network(**taken(network, {field: value for field, value in section.items() if field != "name"}))


def encoder_of(model: nn.Module) -> str:
  """The published network that the encoder is, or the whole of a U-Net, as weights name it, e.g. `keras` or `unet`.

  Empty where none was published, as of a U-Net with group norm.
  """
  if isinstance(model, UNet):
    return UNET if model.norm == "batch" else ""
  return getattr(model, "encoder", getattr(model, "variant", ""))
