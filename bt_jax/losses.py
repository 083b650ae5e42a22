"""Losses, one value per example; each is a function of logits and targets."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bt_jax.distributed import global_batch
from bt_jax.errors import UserError, choose, nearest
from bt_jax.options import fields_of, taken

__all__ = [
  "CLASSIFICATION_LOSSES", "SEGMENTATION_LOSSES", "bce", "bce_dice", "class_probabilities", "cross_entropy", "dice",
  "focal_tversky", "make_loss",
]  # fmt: skip
Logits = Float[Array, "batch height width classes"]
Masks = Float[Array, "batch height width classes"]
Loss = Callable[[Float[Array, " batch *_"], Float[Array, " batch *_"]], Float[Array, " batch"]]

_SPACE = (1, 2)
_LEAST = 1e-6  # pixels, of a denominator; its square, which gradients divide by, is still a number in float32
_FLOOR = 1e-6  # of 1 - TI


def __dir__() -> list[str]:
  return __all__


def class_probabilities(
  logits: Float[Array, "*shape classes"], *, overlapping: bool = False
) -> Float[Array, "*shape classes"]:
  """Probability of each class, 0..1.

  >>> logits = jax.numpy.log(jax.numpy.array([1.0, 2.0]))  # of two classes; the background's is log(1)
  >>> bt_jax.losses.class_probabilities(logits).tolist()  # 1/4 and 2/4
  [0.25, 0.5]
  >>> bt_jax.losses.class_probabilities(logits, overlapping=True).tolist()  # 1/2 and 2/3  # doctest: +ELLIPSIS
  [0.5, 0.666...]

  Args:
    logits: one for each class; the background's is 0.
    overlapping: whether a pixel may belong to several classes: the sigmoid of each. Otherwise it belongs to one of them
      or to the background: the softmax over them all, which for one class is the sigmoid again.
  """
  if overlapping or logits.shape[-1] == 1:
    return jax.nn.sigmoid(logits)
  return jax.nn.softmax(_with_background(logits))[..., 1:]


def _with_background(
  values: Float[Array, "*shape classes"], background: Float[Array, "*shape"] | float = 0.0
) -> Float[Array, "*shape classes+1"]:
  background = jnp.broadcast_to(jnp.asarray(background, values.dtype), values.shape[:-1])
  return jnp.concatenate([background[..., None], values], axis=-1)


def bce(logits: Logits, masks: Masks, *, overlapping: bool = False) -> Float[Array, " batch"]:
  """Cross-entropy, mean over pixels; 0 and up.

  Binary cross-entropy, averaged over classes, for one class or for classes that overlap; otherwise the cross-entropy of
  the softmax over classes and background.

  A logit of 0 is a probability of 1/2, and -log(1/2) is 0.693:

  >>> logits, masks = jnp.zeros((1, 4, 4, 1)), jnp.ones((1, 4, 4, 1))
  >>> float(bt_jax.losses.bce(logits, masks)[0])  # doctest: +ELLIPSIS
  0.693...
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
) -> Float[Array, " batch"]:
  """1 - (2 TP + smooth) / (2 TP + FP + FN + smooth), soft Dice (Milletari et al. 2016, arXiv:1606.04797); 0..1.

  Counts are soft: 2 TP + FP + FN is the sum of probabilities and masks. Of several classes it is the mean: a fraction of
  their pixels would hardly see a small one. Without smoothing, an empty mask with no probability anywhere is a
  perfect match, of loss 0.

  A probability of 1/2 at each of 16 pixels, all of them tumour: TP = FN = 8, FP = 0, and 1 - 16 / 24 is 1/3:

  >>> logits, masks = jnp.zeros((1, 4, 4, 1)), jnp.ones((1, 4, 4, 1))
  >>> float(bt_jax.losses.dice(logits, masks, smooth=0.0, pooled=False)[0])  # doctest: +ELLIPSIS
  0.333...
  """
  true_positive, false_positive, false_negative = _counts(logits, masks, pooled, overlapping)
  errors = false_positive + false_negative
  return _fraction(errors, 2 * true_positive + errors + smooth).mean(-1)


def bce_dice(
  logits: Logits, masks: Masks, *, smooth: float, pooled: bool, overlapping: bool = False
) -> Float[Array, " batch"]:
  """The sum of `bce` and `dice`.

  >>> logits, masks = jnp.zeros((1, 4, 4, 1)), jnp.ones((1, 4, 4, 1))
  >>> float(bt_jax.losses.bce_dice(logits, masks, smooth=0.0, pooled=False)[0])  # 0.693 + 0.333  # doctest: +ELLIPSIS
  1.026...
  """
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
) -> Float[Array, " batch"]:
  """(1 - TI) ** exponent with TI = (TP + smooth) / (TP + fp_weight FP + fn_weight FN + smooth); 0..1.

  Abraham and Khan (2018, arXiv:1810.07842), with their 1/gamma called `exponent`; the mean over classes. Counts are soft.
  1 - TI is at least 1e-6: a perfect match has a loss of 1e-6 ** exponent (3.2e-5 at an exponent of 0.75), and below that floor there is
  no gradient.

  With the counts of the example of `dice`, TI = 8 / (8 + 0.7 x 8) is 0.588:

  >>> logits, masks = jnp.zeros((1, 4, 4, 1)), jnp.ones((1, 4, 4, 1))
  >>> weights = {"fp_weight": 0.3, "fn_weight": 0.7, "exponent": 1.0}
  >>> float(bt_jax.losses.focal_tversky(logits, masks, **weights, smooth=0.0, pooled=False)[0])  # doctest: +ELLIPSIS
  0.411...
  """
  true_positive, false_positive, false_negative = _counts(logits, masks, pooled, overlapping)
  errors = fp_weight * false_positive + fn_weight * false_negative
  # errors / (...) is 1 - TI without cancellation. Below 1 the power's slope is infinite at 0, where a confident and
  # right slice arrives: the floor makes it 0 there.
  distance = jnp.maximum(_fraction(errors, true_positive + errors + smooth), _FLOOR)
  return (distance**exponent).mean(-1)


def cross_entropy(
  logits: Float[Array, "batch classes"], targets: Float[Array, "batch classes"], *, label_smoothing: float
) -> Float[Array, " batch"]:
  """Cross-entropy of softmax probabilities; targets are shares that add up to 1, smoothed towards equal shares.

  Probabilities of 1/4 and 3/4, the second right, and -log(3/4) is 0.287:

  >>> logits = jnp.log(jnp.array([[1.0, 3.0]]))
  >>> float(bt_jax.losses.cross_entropy(logits, jnp.array([[0.0, 1.0]]), label_smoothing=0.0)[0])  # doctest: +ELLIPSIS
  0.287...
  """
  return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))


# By name. The keyword arguments of each are fields of a configuration's section `loss`, and `overlapping`.
SEGMENTATION_LOSSES = {"bce": bce, "dice": dice, "bce_dice": bce_dice, "focal_tversky": focal_tversky}
CLASSIFICATION_LOSSES = {"cross_entropy": cross_entropy}


def make_loss(*, name: str, **fields: float | bool) -> Loss:
  """The loss with this name, its fields filled in; fields that only other losses take are ignored.

  >>> loss = bt_jax.losses.make_loss(name="dice", smooth=0.0, pooled=False, label_smoothing=0.1)
  >>> loss(jnp.zeros((2, 4, 4, 1)), jnp.ones((2, 4, 4, 1))).shape
  (2,)

  Args:
    name: one of `SEGMENTATION_LOSSES`, on logits and masks [batch, height, width, classes], or of
      `CLASSIFICATION_LOSSES`, on logits and shares [batch, classes].
    fields: of all losses.
      `fp_weight`, `fn_weight`: weights of false positives and of false negatives. `exponent`: of 1 - TI.
      `smooth`: pixels added to numerator and denominator. At 0 an empty slice has a loss of 1 for any probability at
      all, without a gradient.
      `pooled`: whether the fraction is of the batch's sums rather than of each slice's. Most slices are empty, and an
      empty slice alone says nothing about overlap. Every example then has the batch's value.
      `overlapping`: whether a pixel may belong to several classes of a mask, see `class_probabilities`.
      `label_smoothing`: share of the target that is spread over all classes.

  Raises:
    UserError: there is no such loss, or no loss takes one of the fields.
  """
  losses = SEGMENTATION_LOSSES | CLASSIFICATION_LOSSES
  choose("loss.name", name, losses)
  known = set().union(*map(fields_of, losses.values()))
  for field in sorted(fields.keys() - known):
    raise UserError(f"no loss takes {field}: {nearest(field, sorted(known))}")
  return functools.partial(losses[name], **taken(losses[name], fields))
