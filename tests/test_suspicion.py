import numpy as np
import pytest
from skimage import data

from bt_jax.inference import ood

SPAN = 0.7  # of the frame's height; the head is 0.8 as wide as high


def make_head(*, skull, size=128, slices=6, seed=0, span=SPAN):
  """Heads by arithmetic, about 0..1: an ellipse with folds in it, with scalp and skull around or bare."""
  places = (np.arange(size) + 0.5) * 2 / size - 1
  y, x = np.meshgrid(places / span, places / (0.8 * span), indexing="ij")
  radius, turn = np.hypot(y, x), np.arctan2(y, x)
  rng = np.random.default_rng(seed)
  volume = []
  for phase in rng.uniform(0, 6, slices):
    picture = 0.5 + 0.1 * np.sin(7 * turn + phase) * np.sin(9 * radius + phase)
    if skull:
      picture = np.select([radius < 0.82, radius < 0.92], [picture, 0.05], 1.0)
    volume.append(np.where(radius < 1, picture, 0))
  noisy = np.abs(np.array(volume) + rng.normal(0, 0.005, (slices, size, size)))
  return as_image(noisy)


def as_image(flair):
  return np.asarray(flair, np.float32)


def make_profile(**head):
  return ood.profile(make_head(seed=seed, **head) for seed in range(3))


PROFILES = {"heads": make_profile(skull=True), "brains": make_profile(skull=False), "none": None}


def test_features_of_a_head_and_of_a_brain_alone():
  head, brain = (ood.features(make_head(skull=skull)) for skull in (True, False))
  assert head["skull"] == pytest.approx(0.9, abs=0.1)  # from 0.5 down to 0.05
  assert brain["skull"] < 0.35  # its folds go 0.1 either way
  for found in (head, brain):
    assert found["span"] == pytest.approx(0.8 * SPAN, abs=0.03)
    assert found["border"] < 0.1 and found["levels"] > 10


@pytest.mark.parametrize("skull", [True, False])
@pytest.mark.parametrize(
  "change",
  [
    lambda head: 4000 * head,
    lambda head: 0.01 * head - 30,
    lambda head: np.round(head * 2000).astype(np.uint16),
    lambda head: head * np.float32(1e38),
    lambda head: np.kron(head, np.ones((1, 4, 4))),
    lambda head: head[:, :, ::-1],
    lambda head: np.pad(head, ((1, 30), (0, 0), (0, 0))),  # most of them above the head
  ],
  ids=["unit", "shift", "integers", "huge", "resolution", "mirrored", "empty slices"],
)
def test_features_depend_on_no_unit_and_no_resolution(skull, change):
  head = make_head(skull=skull)
  found, changed = ood.features(head), ood.features(change(head))
  for name, tolerance in {"skull": 0.08, "span": 0.02, "border": 0.05}.items():
    assert changed[name] == pytest.approx(found[name], abs=tolerance), name
  assert changed["levels"] == pytest.approx(found["levels"], rel=0.25)


def test_levels_are_the_effective_number_of_greys():
  shades = np.tile(np.repeat([1, 2, 3, 4], 64), (256, 1))  # four stripes of one size
  assert ood.features(as_image(np.pad(shades, 100)[None]))["levels"] == pytest.approx(4, abs=0.3)


def test_a_profile_is_the_range_over_volumes():
  volumes = [make_head(skull=True, span=span) for span in (0.8, 0.5, 0.6)]
  found = [ood.features(volume) for volume in volumes]
  profile = ood.profile(iter(volumes))
  assert profile == {name: [min(one[name] for one in found), max(one[name] for one in found)] for name in found[0]}
  assert profile["span"] == pytest.approx([0.4, 0.64], abs=0.03)


@pytest.mark.parametrize("trained", PROFILES)
@pytest.mark.parametrize("skull", [True, False])
def test_the_skull_is_judged_by_what_the_network_was_trained_on(trained, skull):
  warnings = ood.warnings(make_head(skull=skull, seed=9), PROFILES[trained])
  if trained == "none" or skull == (trained == "heads"):
    assert warnings == []
  else:
    assert len(warnings) == 1 and ("skull and scalp are there" if skull else "no dark skull") in warnings[0]


def test_a_few_slices_may_lack_a_skull_but_not_have_one_too_many():
  few = slice(ood.MIN_SLICES - 1)
  assert ood.warnings(make_head(skull=False)[few], PROFILES["heads"]) == []
  assert len(ood.warnings(make_head(skull=True)[few], PROFILES["brains"])) == 1


def hounsfield(head):
  """Air, brain and, where the skull was dark, bone."""
  return np.where(head < 0.03, -1000, np.where(head < 0.2, 900, 40 * head))


@pytest.mark.parametrize("trained", PROFILES)
@pytest.mark.parametrize("slices", [1, 6])
@pytest.mark.parametrize(
  ("change", "reason"),
  [
    (hounsfield, "Hounsfield"),
    (lambda head: 1 - head, "edge of the frame"),
    (lambda head: np.random.default_rng(1).random(head.shape), "edge of the frame"),
    (lambda head: head[:, 45:83, 45:83], "edge of the frame"),
    (lambda head: as_image(np.stack([data.camera()] * len(head))), "edge of the frame"),
    (lambda head: (head > 0.3) * 255.0, "shades of grey"),
    (lambda head: np.digitize(head, (0.03, 0.3, 0.5)).astype(np.uint8), "shades of grey"),
    (lambda head: np.zeros_like(head), "shades of grey"),
  ],
  ids=["CT", "inverted", "noise", "inside the brain", "photograph", "mask", "labels", "empty"],
)
def test_what_is_no_head_in_mr_is_reported_once_with_the_reason(change, reason, slices, trained):
  (warning,) = ood.warnings(change(make_head(skull=True, slices=slices)), PROFILES[trained])
  assert reason in warning


def test_ct_in_a_window_has_no_dark_skull():
  shown = np.clip(hounsfield(make_head(skull=True)), 0, 80)
  (warning,) = ood.warnings(shown, PROFILES["heads"])
  assert "no dark skull" in warning


def test_a_head_of_another_size_in_the_frame():
  head = make_head(skull=True)
  wide = [(0, 0), (64, 64), (64, 64)]
  (far,) = ood.warnings(np.pad(head, wide), PROFILES["heads"])
  assert "far less than any" in far
  (tight,) = ood.warnings(head[:, 19:109, 28:100], PROFILES["heads"])
  assert "fills the frame" in tight


@pytest.mark.parametrize("skull", [True, False])
def test_hot_pixels_and_a_dim_background_are_not_out_of_distribution(skull):
  head = make_head(skull=skull)
  head[:, 64, 64] = 100
  head += 0.1 * np.random.default_rng(2).random(head.shape, dtype=np.float32)
  assert ood.warnings(head, PROFILES["heads" if skull else "brains"]) == []


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 300), (2, 300, 1), (3, 5, 5), (1, 2000, 40)])
def test_any_shape_has_features(shape):
  image = as_image(np.random.default_rng(4).random(shape))
  assert all(0 <= value < 1e6 for value in ood.features(image).values())
  assert isinstance(ood.warnings(image, PROFILES["heads"]), list)


def test_the_reference_alone_stands_in_every_channel():
  volume = np.random.default_rng(5).random((2, 4, 4, 2))
  assert not ood.is_reference_alone(volume, 1)
  volume[..., 0] = volume[..., 1]
  assert ood.is_reference_alone(volume, 1)
  assert not ood.is_reference_alone(volume[..., :1], 0)  # no other channel could be missing
