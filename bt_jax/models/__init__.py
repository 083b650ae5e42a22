"""Networks, by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from bt_jax.errors import choose
from bt_jax.models.cnn import CNN
from bt_jax.models.efficientnet_lite import LiteClassifier
from bt_jax.models.lite_unet import LiteUNet
from bt_jax.models.resnet import ResNet50Classifier
from bt_jax.models.resunet import ResUNet, ResUNetScratch
from bt_jax.models.unet import UNet

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


def make_model(options: dict[str, Callable[..., nn.Module]], name: str, **fields: Any) -> nn.Module:
  """The network of this name among `options`; it takes those of the fields that it has.

  Raises:
    UserError: no such network.
  """
  network = choose("model.name", name, options)
  known = {field.name for field in dataclasses.fields(network)} - {"name", "parent"}
  return network(**{key: value for key, value in fields.items() if key in known})


def encoder_of(model: nn.Module) -> str:
  """Which published network the encoder of `model` is, as weights name it, e.g. `keras` or `lite0`; empty without one."""
  return getattr(model, "encoder", getattr(model, "variant", ""))
