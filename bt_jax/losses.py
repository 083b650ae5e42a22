"""Losses, one value per example; each is a function of logits and targets."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bt_jax.distributed import global_batch
from bt_jax.errors import choose

Logits = Float[Array, "batch height width 1"]
Masks = Float[Array, "batch height width 1"]
Loss = Callable[[Float[Array, "batch *_"], Float[Array, "batch *_"]], Float[Array, "batch"]]

_PIXELS = (1, 2, 3)
_LEAST = 1e-6  # pixels, of a denominator; its square, which gradients divide by, is still a number in float32
_FLOOR = 1e-6  # of 1 - TI


def bce(logits: Logits, masks: Masks) -> Float[Array, "batch"]:
  """Binary cross-entropy, mean over pixels; 0 and up."""
  return optax.sigmoid_binary_cross_entropy(logits, masks).mean(_PIXELS)


def _pool(pooled: bool, *sums: Float[Array, "batch"]) -> list[Float[Array, "batch"]]:
  """The sums as they are or, pooled, each replaced by the sum over the batch."""
  return [jnp.broadcast_to(global_batch.total(part.sum()), part.shape) if pooled else part for part in sums]


def _counts(logits: Logits, masks: Masks, pooled: bool) -> list[Float[Array, "batch"]]:
  """True positives, false positives and false negatives: soft, in pixels."""
  probabilities = jax.nn.sigmoid(logits)
  return _pool(
    pooled,
    (probabilities * masks).sum(_PIXELS),
    (probabilities * (1 - masks)).sum(_PIXELS),
    ((1 - probabilities) * masks).sum(_PIXELS),
  )


def _fraction(part: Float[Array, "batch"], total: Float[Array, "batch"]) -> Float[Array, "batch"]:
  """The part of a total that is taken for `_LEAST` where it is smaller: 0 of nothing is 0, and so is its gradient."""
  return part / jnp.maximum(total, _LEAST)


def dice(logits: Logits, masks: Masks, *, smooth: float, pooled: bool) -> Float[Array, "batch"]:
  """1 - (2 TP + smooth) / (2 TP + FP + FN + smooth), soft Dice (Milletari et al. 2016, arXiv:1606.04797); 0..1.

  Counts are soft: 2 TP + FP + FN is the sum of probabilities and masks. Without smoothing, an empty mask with no
  probability anywhere is a perfect match, of loss 0.
  """
  true_positive, false_positive, false_negative = _counts(logits, masks, pooled)
  errors = false_positive + false_negative
  return _fraction(errors, 2 * true_positive + errors + smooth)


def bce_dice(logits: Logits, masks: Masks, *, smooth: float, pooled: bool) -> Float[Array, "batch"]:
  """The sum of `bce` and `dice`."""
  return bce(logits, masks) + dice(logits, masks, smooth=smooth, pooled=pooled)


def focal_tversky(
  logits: Logits,
  masks: Masks,
  *,
  fp_weight: float,
  fn_weight: float,
  exponent: float,
  smooth: float,
  pooled: bool,
) -> Float[Array, "batch"]:
  """(1 - TI) ** exponent with TI = (TP + smooth) / (TP + fp_weight FP + fn_weight FN + smooth); 0..1.

  Abraham and Khan (2018, arXiv:1810.07842), with their 1/gamma called `exponent`. Counts are soft. 1 - TI is at least
  1e-6: a perfect match has a loss of 1e-6 ** exponent (3.2e-5 at an exponent of 0.75), and below that floor there is
  no gradient.
  """
  true_positive, false_positive, false_negative = _counts(logits, masks, pooled)
  errors = fp_weight * false_positive + fn_weight * false_negative
  # errors / (...) is 1 - TI without cancellation. Below 1 the power's slope is infinite at 0, where a confident and
  # right slice arrives: the floor makes it 0 there.
  distance = jnp.maximum(_fraction(errors, true_positive + errors + smooth), _FLOOR)
  return distance**exponent


def cross_entropy(
  logits: Float[Array, "batch classes"], targets: Float[Array, "batch classes"], *, label_smoothing: float
) -> Float[Array, "batch"]:
  """Cross-entropy of softmax probabilities; targets are shares that add up to 1, smoothed towards equal shares."""
  return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))


SEGMENTATION_LOSSES = ("bce", "dice", "bce_dice", "focal_tversky")
CLASSIFICATION_LOSSES = ("cross_entropy",)


def make_loss(
  *,
  name: str,
  fp_weight: float,
  fn_weight: float,
  exponent: float,
  smooth: float,
  pooled: bool,
  label_smoothing: float,
) -> Loss:
  """The loss of this name; it takes what it needs of the other arguments.

  Args:
    name: one of `SEGMENTATION_LOSSES`, on logits and masks [batch, height, width, 1], or of `CLASSIFICATION_LOSSES`, on
      logits and shares [batch, classes].
    fp_weight: of false positives, in `focal_tversky`.
    fn_weight: of false negatives, in `focal_tversky`.
    exponent: in `focal_tversky`.
    smooth: pixels added to both sides of the fraction, in all but `bce`; at 0 an empty slice has a loss of 1 for any
      probability at all, without a gradient.
    pooled: take the fraction of the batch's sums rather than of each slice's, in all but `bce`. Most slices are empty,
      and an empty slice alone says nothing about overlap. Every example then has the batch's value.
    label_smoothing: share of the target that is spread over all classes, in `cross_entropy`.

  Raises:
    UserError: no such loss.
  """
  losses = {
    "bce": bce,
    "dice": functools.partial(dice, smooth=smooth, pooled=pooled),
    "bce_dice": functools.partial(bce_dice, smooth=smooth, pooled=pooled),
    "focal_tversky": functools.partial(
      focal_tversky, fp_weight=fp_weight, fn_weight=fn_weight, exponent=exponent, smooth=smooth, pooled=pooled
    ),
    "cross_entropy": functools.partial(cross_entropy, label_smoothing=label_smoothing),
  }
  return choose("loss.name", name, losses)
