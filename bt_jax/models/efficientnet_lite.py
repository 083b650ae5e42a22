"""EfficientNet-Lite (Tan and Le 2019, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6) as it is published."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bt_jax.errors import choose
from bt_jax.models.depthwise import DepthwiseConv, same_padding
from bt_jax.models.layers import BatchNorm, Dropout


class Scaling(NamedTuple):
  """How the published sizes differ.

  Attributes:
    width: factor of the channels of stages 1 to 7, rounded to multiples of 8.
    depth: factor of the blocks of stages 2 to 6, rounded up.
    dropout: before the classifier.
  """

  width: float
  depth: float
  dropout: float


class StagePlan(NamedTuple):
  """The inverted bottlenecks of one stage; the first has the stride."""

  blocks: int
  size: int  # of the depthwise kernel
  stride: int
  expand: int
  features: int


ENCODERS = {"lite0": Scaling(1.0, 1.0, 0.2), "lite1": Scaling(1.0, 1.1, 0.2), "lite2": Scaling(1.1, 1.2, 0.3)}
_STAGES = (
  StagePlan(1, 3, 1, 1, 16),
  StagePlan(2, 3, 2, 6, 24),
  StagePlan(2, 5, 2, 6, 40),
  StagePlan(3, 3, 2, 6, 80),
  StagePlan(3, 5, 1, 6, 112),
  StagePlan(4, 5, 2, 6, 192),
  StagePlan(1, 3, 1, 6, 320),
)
STAGES = ("stem", *(f"stage{number + 1}" for number in range(len(_STAGES))))
# The last stage at each of the strides 2, 4, 8, 16 and 32.
SKIPS = ("stage1", "stage2", "stage3", "stage5", "stage7")
_STEM, _TOP = 32, 1280  # channels, of every size


def stage_plans(encoder: str) -> tuple[StagePlan, ...]:
  """The stages of a size, a name in `ENCODERS`; raises UserError for another name."""
  scaling = choose("model.encoder", encoder, ENCODERS)
  last = len(_STAGES) - 1
  return tuple(
    plan._replace(
      features=_round_channels(plan.features * scaling.width),
      blocks=plan.blocks if number in (0, last) else math.ceil(plan.blocks * scaling.depth),
    )
    for number, plan in enumerate(_STAGES)
  )


def _round_channels(channels: float) -> int:
  """To the nearest multiple of 8, and up where that would lose more than a tenth."""
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded


class InvertedBottleneck(nn.Module):
  """A 1 x 1 convolution to more channels, a depthwise one, and a 1 x 1 back to few, around a shortcut where shapes allow.

  Attributes:
    features: channels that come out.
    size: of the depthwise kernel.
    stride: of the depthwise convolution.
    expand: factor of the channels; at 1 the first convolution is left out.
    dtype: of the computation.
  """

  features: int
  size: int
  stride: int
  expand: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch out_height out_width features"]:
    inputs = x
    if self.expand > 1:
      x = _pointwise(self.expand * x.shape[-1], self.dtype, name="expand_conv")(x)
      x = jax.nn.relu6(_norm(self.dtype, name="expand_norm")(x, use_running_average=not train))
    x = DepthwiseConv(self.size, self.stride, dtype=self.dtype, name="depthwise_conv")(x)
    x = jax.nn.relu6(_norm(self.dtype, name="depthwise_norm")(x, use_running_average=not train))
    x = _pointwise(self.features, self.dtype, name="project_conv")(x)
    x = _norm(self.dtype, name="project_norm")(x, use_running_average=not train)
    return x + inputs if x.shape == inputs.shape else x


class Stem(nn.Module):
  """The 3 x 3 convolution with stride 2, batch norm and ReLU6."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch out_height out_width 32"]:
    padding = [same_padding(pixels, 3, 2) for pixels in x.shape[1:3]]
    x = nn.Conv(
      _STEM, (3, 3), strides=2, padding=padding, use_bias=False, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name="conv"
    )(x)  # fmt: skip
    return jax.nn.relu6(_norm(self.dtype, name="norm")(x, use_running_average=not train))


class Stage(nn.Module):
  """The inverted bottlenecks of a plan."""

  plan: StagePlan
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch out_height out_width _"]:
    for block in range(self.plan.blocks):
      stride = self.plan.stride if block == 0 else 1
      x = InvertedBottleneck(
        self.plan.features, self.plan.size, stride, self.plan.expand, self.dtype, name=f"block{block + 1}"
      )(x, train=train)
    return x


class EfficientNetLite(nn.Module):
  """EfficientNet-Lite without its head: features by stage.

  >>> network = bt_jax.models.EfficientNetLite()
  >>> images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
  >>> features, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
  >>> {stage: array.shape[1:] for stage, array in features.items()}  # doctest: +NORMALIZE_WHITESPACE
  {'stage1': (32, 32, 16), 'stage2': (16, 16, 24), 'stage3': (8, 8, 40), 'stage4': (4, 4, 80),
   'stage5': (4, 4, 112), 'stage6': (2, 2, 192), 'stage7': (2, 2, 320), 'stem': (32, 32, 32)}

  Attributes:
    encoder: its size, a name of `ENCODERS`.
    dtype: of the computation; parameters and batch statistics are float32.
  """

  encoder: str = "lite0"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> dict[str, Float[Array, "batch _ _ _"]]:
    """Returns the features of each of `STAGES`; height and width are arbitrary."""
    features = {"stem": Stem(self.dtype, name="stem")(x, train=train)}
    x = features["stem"]
    for stage, plan in zip(STAGES[1:], stage_plans(self.encoder), strict=True):
      features[stage] = x = Stage(plan, self.dtype, name=stage)(x, train=train)
    return features


class LiteHead(nn.Module):
  """A 1 x 1 convolution to 1,280 channels, batch norm, ReLU6, the mean over all pixels, dropout and one dense layer."""

  classes: int
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch classes"]:
    x = _pointwise(_TOP, self.dtype, name="conv")(x)
    x = jax.nn.relu6(_norm(self.dtype, name="norm")(x, use_running_average=not train))
    x = Dropout(self.dropout)(x.mean((1, 2), dtype=jnp.float32), train=train)
    return nn.Dense(self.classes, name="dense")(x)


class LiteClassifier(nn.Module):
  """EfficientNet-Lite with its head.

  >>> network = bt_jax.models.LiteClassifier(classes=1000)
  >>> images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
  >>> logits, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
  >>> logits.shape
  (8, 1000)

  Attributes:
    encoder: its size, a name of `ENCODERS`.
    classes: logits that come out.
    dtype: of the computation; parameters, batch statistics and logits are float32.
  """

  encoder: str = "lite0"
  classes: int = 2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], *, train: bool = False
  ) -> Float[Array, "batch classes"]:
    """Returns logits."""
    scaling = choose("model.encoder", self.encoder, ENCODERS)
    features = EfficientNetLite(self.encoder, dtype=self.dtype, name="encoder")(x, train=train)
    return LiteHead(self.classes, scaling.dropout, self.dtype, name="head")(features[STAGES[-1]], train=train)


def _pointwise(features: int, dtype: Any, name: str) -> nn.Conv:
  return nn.Conv(features, (1, 1), use_bias=False, kernel_init=nn.initializers.he_normal(), dtype=dtype, name=name)


# The published momentum is 0.99; fine-tuning is short, and the running statistics must keep pace with the parameters.
_norm = functools.partial(BatchNorm, 0.9, 1e-3, False)
