import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from bt_jax import losses
from bt_jax.errors import UserError

FIELDS = {"fp_weight": 0.3, "fn_weight": 0.7, "exponent": 0.75, "smooth": 1.0, "pooled": False, "label_smoothing": 0.0}
ALL = ("bce", "dice", "bce_dice", "focal_tversky")
SURE = 40.0  # a logit whose sigmoid is 1 in float32


def make(name, **changes):
  return losses.make_loss(name=name, **FIELDS | changes)


def pictures(*rows):
  """One example of four pixels for each row."""
  return jnp.array(rows, jnp.float32).reshape(len(rows), 2, 2, 1)


TRUTHS = {
  "perfect": ([SURE, SURE, -SURE, -SURE], [1, 1, 0, 0]),
  "disjoint": ([SURE, SURE, -SURE, -SURE], [0, 0, 1, 1]),
  "empty truth": ([SURE, SURE, -SURE, -SURE], [0, 0, 0, 0]),
  "both empty": ([-SURE, -SURE, -SURE, -SURE], [0, 0, 0, 0]),
  "both full": ([SURE, SURE, SURE, SURE], [1, 1, 1, 1]),
}

# By hand, of counts TP, FP, FN over four pixels and smooth 1: BCE is 40 for each pixel surely wrong, over four;
# Dice is 1 - (2 TP + 1) / (2 TP + FP + FN + 1); focal Tversky ((.3 FP + .7 FN) / (TP + .3 FP + .7 FN + 1)) ** .75.
EXPECTED = {
  "perfect": (0.0, 0.0, 0.0),
  "disjoint": (40.0, 1 - 1 / 5, (2.0 / 3.0) ** 0.75),
  "empty truth": (20.0, 1 - 1 / 3, (0.6 / 1.6) ** 0.75),
  "both empty": (0.0, 0.0, 0.0),
  "both full": (0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("case", TRUTHS)
@pytest.mark.parametrize("pooled", [False, True])
def test_values_by_hand_and_finite_gradients(case, pooled):
  logits, masks = (pictures(row) for row in TRUTHS[case])
  bce, dice, tversky = EXPECTED[case]
  for name, value in {"bce": bce, "dice": dice, "bce_dice": bce + dice, "focal_tversky": tversky}.items():
    loss = make(name, pooled=pooled)
    assert loss(logits, masks).shape == (1,)
    np.testing.assert_allclose(loss(logits, masks)[0], value, rtol=1e-5, atol=1e-4)
    assert np.isfinite(jax.grad(lambda x, loss=loss: loss(x, masks).mean())(logits)).all()


# Of four pixels without a tumour, by hand: any probability at all is all of the sum, until that is below 1e-6.
@pytest.mark.parametrize(
  ("logit", "expected"), [(-1000.0, 0.0), (-90.0, 0.0), (-40.0, 4 * np.exp(-40.0) / 1e-6), (-10.0, 1.0), (2.0, 1.0)]
)
@pytest.mark.parametrize("pooled", [False, True])
def test_empty_masks_without_smoothing_have_a_value_and_a_gradient(logit, expected, pooled):
  logits, masks = pictures([logit] * 4), pictures([0] * 4)
  for name, value in {"dice": expected, "focal_tversky": max(expected, 1e-6) ** 0.75}.items():
    loss = make(name, smooth=0.0, pooled=pooled)
    np.testing.assert_allclose(loss(logits, masks)[0], value, rtol=1e-4, atol=1e-8)
    gradient = jax.grad(lambda x, loss=loss: loss(x, masks).sum())(logits)
    assert np.isfinite(gradient).all()
    if expected in (0, 1):
      np.testing.assert_allclose(gradient, 0, atol=1e-6)
  assert np.isfinite(make("bce_dice", smooth=0.0, pooled=pooled)(logits, masks)).all()


@pytest.mark.parametrize("case", ["perfect", "disjoint", "both full"])
def test_masks_without_smoothing_by_hand(case):
  logits, masks = (pictures(row) for row in TRUTHS[case])
  assert float(make("dice", smooth=0.0)(logits, masks)[0]) == pytest.approx(float(case == "disjoint"), abs=1e-6)


def test_focal_tversky_has_a_floor_without_a_gradient():
  logits, masks = (pictures(row) for row in TRUTHS["perfect"])
  assert float(make("focal_tversky")(logits, masks)[0]) == pytest.approx(3.1623e-5, rel=1e-4)  # 1e-6 ** .75
  assert not jax.grad(lambda x: make("focal_tversky")(x, masks).sum())(logits).any()


def test_one_value_per_example():
  logits, masks = (pictures(*rows) for rows in zip(*TRUTHS.values(), strict=True))
  for name in ALL:
    each = [make(name)(logits[at : at + 1], masks[at : at + 1])[0] for at in range(len(TRUTHS))]
    np.testing.assert_allclose(make(name)(logits, masks), each, rtol=1e-6)


def test_pooled_is_the_fraction_of_the_sums():
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(0, 2, (5, 8, 8, 1)), jnp.float32)
  masks = jnp.asarray(rng.random((5, 8, 8, 1)) < 0.3, jnp.float32)
  for name in ("dice", "focal_tversky"):  # one example made of all five has the same sums
    together = make(name)(logits.reshape(1, 40, 8, 1), masks.reshape(1, 40, 8, 1))
    np.testing.assert_allclose(make(name, pooled=True)(logits, masks), np.repeat(together, 5), rtol=1e-5)
  np.testing.assert_allclose(make("bce", pooled=True)(logits, masks), make("bce")(logits, masks))


def test_bce_agrees_with_scikit_learn():
  rng = np.random.default_rng(1)
  logits, masks = rng.normal(0, 2, (3, 8, 8, 1)).astype(np.float32), (rng.random((3, 8, 8, 1)) < 0.4).astype(np.float32)
  expected = [
    log_loss(mask.ravel(), 1 / (1 + np.exp(-logit.ravel().astype(np.float64))))
    for logit, mask in zip(logits, masks, strict=True)
  ]
  np.testing.assert_allclose(make("bce")(jnp.asarray(logits), jnp.asarray(masks)), expected, rtol=1e-5)


def test_focal_tversky_with_equal_weights_is_dice():
  # TI with weights of a half is Dice with twice the smoothing; exponent 1 leaves 1 - TI.
  rng = np.random.default_rng(2)
  logits, masks = (
    jnp.asarray(rng.normal(0, 2, (3, 8, 8, 1)), jnp.float32),
    jnp.asarray(rng.random((3, 8, 8, 1)) < 0.4, jnp.float32),
  )
  tversky = make("focal_tversky", fp_weight=0.5, fn_weight=0.5, exponent=1.0, smooth=1.0)
  np.testing.assert_allclose(tversky(logits, masks), make("dice", smooth=2.0)(logits, masks), rtol=1e-5)


def test_the_gradient_points_to_the_truth():
  masks = pictures([1, 0, 0, 0])
  for name in ALL:
    gradient = jax.grad(lambda x, name=name: make(name)(x, masks).sum())(jnp.zeros((1, 2, 2, 1)))
    assert gradient[0, 0, 0, 0] < 0 and (gradient[0, 1, :, 0] > 0).all()


def test_no_such_loss():
  with pytest.raises(UserError, match="loss.name is 'hinge', expected one of bce, dice, bce_dice, focal_tversky"):
    make("hinge")


def test_cross_entropy_agrees_with_scikit_learn_and_smoothing_by_hand():
  logits = np.random.default_rng(0).normal(0, 2, (6, 2)).astype(np.float32)
  targets = np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1, 0]]
  values = make("cross_entropy")(jnp.asarray(logits), jnp.asarray(targets))
  probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  assert float(values.mean()) == pytest.approx(log_loss(targets.argmax(1), probabilities[:, 1]), rel=1e-5)
  smoothed = make("cross_entropy", label_smoothing=0.2)(jnp.asarray(logits), jnp.asarray(targets))
  np.testing.assert_allclose(smoothed, -((0.8 * targets + 0.1) * np.log(probabilities)).sum(1), rtol=1e-4)
