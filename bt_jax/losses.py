"""Losses, one value per example; each is a function of logits and targets."""

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bt_jax.distributed import global_batch
from bt_jax.errors import choose

Logits = Float[Array, "batch height width classes"]
Masks = Float[Array, "batch height width classes"]
Loss = Callable[[Float[Array, "batch *_"], Float[Array, "batch *_"]], Float[Array, "batch"]]

_SPACE = (1, 2)
_LEAST = 1e-6  # pixels, of a denominator; its square, which gradients divide by, is still a number in float32
_FLOOR = 1e-6  # of 1 - TI


def class_probabilities(
  logits: Float[Array, "*shape classes"], *, overlapping: bool = False
) -> Float[Array, "*shape classes"]:
  """Probability of each class, 0..1.

  Args:
    logits: of the classes; that of the background is 0.
    overlapping: whether a pixel may be of several classes: the sigmoid of each. Otherwise it is of one of them or of the
      background: softmax over them all, which for one class is the sigmoid again.
  """
  if overlapping or logits.shape[-1] == 1:
    return jax.nn.sigmoid(logits)
  return jax.nn.softmax(_with_background(logits))[..., 1:]


def _with_background(
  values: Float[Array, "*shape classes"], background: Float[Array, "*shape"] | float = 0.0
) -> Float[Array, "*shape classes+1"]:
  background = jnp.broadcast_to(jnp.asarray(background, values.dtype), values.shape[:-1])
  return jnp.concatenate([background[..., None], values], axis=-1)


def bce(logits: Logits, masks: Masks, *, overlapping: bool = False) -> Float[Array, "batch"]:
  """Cross-entropy, mean over pixels; 0 and up.

  Binary, and its mean over classes, of one class or of classes that overlap; else that of the softmax over classes and
  background.
  """
  if overlapping or logits.shape[-1] == 1:
    return optax.sigmoid_binary_cross_entropy(logits, masks).mean((*_SPACE, -1))
  targets = _with_background(masks, 1 - masks.sum(-1))
  return optax.softmax_cross_entropy(_with_background(logits), targets).mean(_SPACE)


def _pool(pooled: bool, *sums: Float[Array, "batch classes"]) -> list[Float[Array, "batch classes"]]:
  """The sums as they are or, pooled, each replaced by the sum over the batch."""
  return [jnp.broadcast_to(global_batch.total(part.sum(0)), part.shape) if pooled else part for part in sums]


def _counts(logits: Logits, masks: Masks, pooled: bool, overlapping: bool) -> list[Float[Array, "batch classes"]]:
  """True positives, false positives and false negatives of each class: soft, in pixels."""
  probabilities = class_probabilities(logits, overlapping=overlapping)
  return _pool(
    pooled,
    (probabilities * masks).sum(_SPACE),
    (probabilities * (1 - masks)).sum(_SPACE),
    ((1 - probabilities) * masks).sum(_SPACE),
  )


def _fraction(
  part: Float[Array, "batch classes"], total: Float[Array, "batch classes"]
) -> Float[Array, "batch classes"]:
  """The part of a total that is taken for `_LEAST` where it is smaller: 0 of nothing is 0, and so is its gradient."""
  return part / jnp.maximum(total, _LEAST)


def dice(
  logits: Logits, masks: Masks, *, smooth: float, pooled: bool, overlapping: bool = False
) -> Float[Array, "batch"]:
  """1 - (2 TP + smooth) / (2 TP + FP + FN + smooth), soft Dice (Milletari et al. 2016, arXiv:1606.04797); 0..1.

  Counts are soft: 2 TP + FP + FN is the sum of probabilities and masks. Of several classes it is the mean: a fraction of
  all their pixels would hardly see a small one. Without smoothing, an empty mask with no probability anywhere is a
  perfect match, of loss 0.
  """
  true_positive, false_positive, false_negative = _counts(logits, masks, pooled, overlapping)
  errors = false_positive + false_negative
  return _fraction(errors, 2 * true_positive + errors + smooth).mean(-1)


def bce_dice(
  logits: Logits, masks: Masks, *, smooth: float, pooled: bool, overlapping: bool = False
) -> Float[Array, "batch"]:
  """The sum of `bce` and `dice`."""
  overlap = dice(logits, masks, smooth=smooth, pooled=pooled, overlapping=overlapping)
  return bce(logits, masks, overlapping=overlapping) + overlap


def focal_tversky(
  logits: Logits,
  masks: Masks,
  *,
  fp_weight: float,
  fn_weight: float,
  exponent: float,
  smooth: float,
  pooled: bool,
  overlapping: bool = False,
) -> Float[Array, "batch"]:
  """(1 - TI) ** exponent with TI = (TP + smooth) / (TP + fp_weight FP + fn_weight FN + smooth); 0..1.

  Abraham and Khan (2018, arXiv:1810.07842), with their 1/gamma called `exponent`; the mean over classes. Counts are soft.
  1 - TI is at least 1e-6: a perfect match has a loss of 1e-6 ** exponent (3.2e-5 at an exponent of 0.75), and below that floor there is
  no gradient.
  """
  true_positive, false_positive, false_negative = _counts(logits, masks, pooled, overlapping)
  errors = fp_weight * false_positive + fn_weight * false_negative
  # errors / (...) is 1 - TI without cancellation. Below 1 the power's slope is infinite at 0, where a confident and
  # right slice arrives: the floor makes it 0 there.
  distance = jnp.maximum(_fraction(errors, true_positive + errors + smooth), _FLOOR)
  return (distance**exponent).mean(-1)


def cross_entropy(
  logits: Float[Array, "batch classes"], targets: Float[Array, "batch classes"], *, label_smoothing: float
) -> Float[Array, "batch"]:
  """Cross-entropy of softmax probabilities; targets are shares that add up to 1, smoothed towards equal shares."""
  return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))


# By name; each takes what it needs of the section `loss` of a configuration, and `overlapping`.
SEGMENTATION_LOSSES = {"bce": bce, "dice": dice, "bce_dice": bce_dice, "focal_tversky": focal_tversky}
CLASSIFICATION_LOSSES = {"cross_entropy": cross_entropy}


def make_loss(*, name: str, **fields: float | bool) -> Loss:
  """The loss of this name with those of the fields that it takes.

  Args:
    name: of `SEGMENTATION_LOSSES`, on logits and masks [batch, height, width, classes], or of `CLASSIFICATION_LOSSES`, on
      logits and shares [batch, classes].
    fields: for any loss, of which one takes what its signature names.
      `fp_weight`, `fn_weight` and `exponent`: of false positives and of false negatives, and of 1 - TI.
      `smooth`: pixels added to both sides of the fraction; at 0 an empty slice has a loss of 1 for any probability at all,
      without a gradient.
      `pooled`: take the fraction of the batch's sums rather than of each slice's. Most slices are empty, and an empty slice
      alone says nothing about overlap. Every example then has the batch's value.
      `overlapping`: whether a pixel may be of several classes of a mask, see `class_probabilities`.
      `label_smoothing`: share of the target that is spread over all classes.

  Raises:
    UserError: no such loss.
    TypeError: a field is none of any loss.
  """
  losses = SEGMENTATION_LOSSES | CLASSIFICATION_LOSSES
  choose("loss.name", name, losses)
  takes = {other: inspect.signature(loss).parameters.keys() for other, loss in losses.items()}
  if unknown := fields.keys() - set().union(*takes.values()):
    raise TypeError(f"no loss takes {', '.join(sorted(unknown))}")
  return functools.partial(losses[name], **{field: value for field, value in fields.items() if field in takes[name]})
