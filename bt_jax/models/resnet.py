"""ResNet-50 (He et al. 2015, arXiv:1512.03385) as published: two networks that differ in stride, bias and padding."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bt_jax.errors import UserError, choose
from bt_jax.models.layers import BatchNorm, Dropout


class Variant(NamedTuple):
  """How the published networks differ.

  Attributes:
    stride_in: which convolution of a block, 1 or 2, has the stride.
    bias: whether convolutions have a bias.
    epsilon: of batch norm.
    momentum: share of the running statistics that stays.
    unbiased: whether the running variance is divided by n - 1.
  """

  stride_in: int
  bias: bool
  epsilon: float
  momentum: float
  unbiased: bool


VARIANTS = {
  "torchvision": Variant(stride_in=2, bias=False, epsilon=1e-5, momentum=0.9, unbiased=True),  # and timm: "v1.5"
  "keras": Variant(stride_in=1, bias=True, epsilon=1.001e-5, momentum=0.99, unbiased=False),  # "v1"
}
BLOCKS = (3, 4, 6, 3)
STAGES = ("stem", *(f"stage{number + 1}" for number in range(len(BLOCKS))))
HALVINGS = len(STAGES)
_WIDTH = 64  # channels of the stem


class Bottleneck(nn.Module):
  """1 x 1, 3 x 3 and 1 x 1 convolutions, each with batch norm, around a shortcut.

  Attributes:
    features: channels of the first two convolutions; four times as many come out.
    stride: 1 or 2.
    project: whether the shortcut has a convolution.
    variant: see `Variant`.
    dtype: of the computation.
  """

  features: int
  stride: int
  project: bool
  variant: Variant
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch out_height out_width _"]:
    conv, norm = _conv(self.variant, self.dtype), _norm(self.variant, self.dtype)
    strides = {self.variant.stride_in: self.stride}
    shortcut = x
    if self.project:
      shortcut = conv(4 * self.features, (1, 1), strides=self.stride, name="shortcut_conv")(x)
      shortcut = norm(name="shortcut_norm")(shortcut, use_running_average=not train)
    for index, (size, features) in enumerate(((1, self.features), (3, self.features), (1, 4 * self.features)), 1):
      # The padding is given: SAME would put a stride of 2 one pixel off.
      x = conv(features, (size, size), strides=strides.get(index, 1), padding=size // 2, name=f"conv{index}")(x)
      x = norm(name=f"norm{index}")(x, use_running_average=not train)
      x = nn.relu(x) if index < 3 else x
    return nn.relu(x + shortcut)


class Stem(nn.Module):
  """The 7 x 7 convolution with stride 2, batch norm and ReLU."""

  features: int
  variant: Variant
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch out_height out_width features"]:
    x = _conv(self.variant, self.dtype)(self.features, (7, 7), strides=2, padding=3, name="conv")(x)
    return nn.relu(_norm(self.variant, self.dtype)(name="norm")(x, use_running_average=not train))


class Stage(nn.Module):
  """Bottlenecks of one size; the first may have a stride."""

  features: int
  blocks: int
  stride: int
  variant: Variant
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch out_height out_width _"]:
    for block in range(self.blocks):
      stride = self.stride if block == 0 else 1
      x = Bottleneck(self.features, stride, block == 0, self.variant, self.dtype, name=f"block{block + 1}")(
        x, train=train
      )
    return x


class ResNet50(nn.Module):
  """ResNet-50 without a head: features by stage.

  >>> network = bt_jax.models.ResNet50()
  >>> images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
  >>> features, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
  >>> {stage: array.shape[1:] for stage, array in features.items()}  # doctest: +NORMALIZE_WHITESPACE
  {'stage1': (16, 16, 256), 'stage2': (8, 8, 512), 'stage3': (4, 4, 1024), 'stage4': (2, 2, 2048),
   'stem': (32, 32, 64)}

  Attributes:
    variant: `torchvision` or `keras`.
    dtype: of the computation; parameters and batch statistics are float32.
  """

  variant: str = "torchvision"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> dict[str, Float[Array, "batch _ _ _"]]:
    """Returns the features of each of `STAGES`; stage n is 2 ** (n + 1) times smaller than the input, the stem 2 times."""
    variant = choose("model.variant", self.variant, VARIANTS)
    features = {"stem": Stem(_WIDTH, variant, self.dtype, name="stem")(x, train=train)}
    # After a ReLU, padding with zeros (Keras) equals padding with minus infinity (torchvision).
    x = nn.max_pool(features["stem"], (3, 3), (2, 2), ((1, 1), (1, 1)))
    for number, (stage, blocks) in enumerate(zip(STAGES[1:], BLOCKS, strict=True)):
      stride = 1 if number == 0 else 2
      x = Stage(_WIDTH * 2**number, blocks, stride, variant, self.dtype, name=stage)(x, train=train)
      features[stage] = x
    return features


class LinearHead(nn.Module):
  """The mean over all pixels and one dense layer, as published."""

  classes: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch classes"]:
    return nn.Dense(self.classes, name="dense")(x.mean((1, 2), dtype=jnp.float32))


class PaperHead(nn.Module):
  """The head of the recipe behind the paper: 4 x 4 means, flattened; twice dense 256, ReLU, dropout 0.3; dense."""

  classes: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch classes"]:
    if min(x.shape[1:3]) < 4:
      raise UserError(
        f"model.head=paper takes means of 4 x 4 pixels and gets {x.shape[1]} x {x.shape[2]}: set data.size to 128 or more",
        "data.size",
      )
    x = nn.avg_pool(x.astype(jnp.float32), (4, 4), (4, 4))
    x = x.reshape(x.shape[0], -1)
    for index in (1, 2):
      x = nn.relu(nn.Dense(256, name=f"dense{index}")(x))
      x = Dropout(0.3)(x, train=train)
    return nn.Dense(self.classes, name="dense3")(x)


HEADS = {"linear": LinearHead, "paper": PaperHead}


class ResNet50Classifier(nn.Module):
  """ResNet-50 with a head.

  >>> network = bt_jax.models.ResNet50Classifier(classes=1000)
  >>> images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
  >>> logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
  >>> logits.shape
  (8, 1000)

  Attributes:
    variant: `torchvision` or `keras`.
    head: `linear` or `paper`.
    classes: logits that come out.
    dtype: of the computation; parameters, batch statistics and logits are float32.
  """

  variant: str = "torchvision"
  head: str = "linear"
  classes: int = 2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch classes"]:
    """Returns logits; raises UserError where the image is too small for the head."""
    head = choose("model.head", self.head, HEADS)
    features = ResNet50(self.variant, dtype=self.dtype, name="encoder")(x, train=train)
    return head(self.classes, name="head")(features[STAGES[-1]], train=train)


def _conv(variant: Variant, dtype: Any) -> Any:
  return functools.partial(
    nn.Conv, use_bias=variant.bias, padding=0, kernel_init=nn.initializers.he_normal(), dtype=dtype
  )


def _norm(variant: Variant, dtype: Any) -> Any:
  return functools.partial(
    BatchNorm,
    momentum=variant.momentum,
    epsilon=variant.epsilon,
    unbiased=variant.unbiased,
    dtype=dtype,
  )
