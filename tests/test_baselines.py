import dataclasses
import warnings

import numpy as np
import pytest
from skimage.filters import threshold_multiotsu

from bt_jax import metrics
from bt_jax.errors import UserError
from bt_jax.paper import baselines, particle_swarm
from bt_jax.schema import Slices

CLASSICAL = [name for name in baselines.METHODS if name != "nothing"]
ROW, COLUMN = np.ogrid[:256, :256]


def disk(row, column, radius):
  return (ROW - row) ** 2 + (COLUMN - column) ** 2 <= radius**2


def make_slices(flair, mask, case="A"):
  """Slices of one volume from FLAIR [n, 256, 256]; the other channels hold nothing that could help."""
  n = len(flair)
  image = np.zeros((n, 256, 256, 3), np.uint8)
  image[..., baselines.FLAIR] = flair
  statistics = (np.tile(function(image, (0, 1, 2)).astype(np.float32), (n, 1)) for function in (np.mean, np.std))
  return Slices(np.array([case] * n), np.array([case] * n), np.arange(1, n + 1), image, mask[..., None], *statistics)


def make_volume(seed, stripped=True):
  """A dim noisy head with a thin bright rim in each of six slices, and a bright disk in every other one."""
  rng = np.random.default_rng(seed)
  head = disk(128, 128, 90)
  flair, mask = [], []
  for at in range(6):
    tumor = disk(*rng.integers(100, 156, 2), rng.integers(18, 28)) if at % 2 else np.zeros((256, 256), bool)
    pixels = np.where(tumor, 180, 60) + rng.normal(0, 8, (256, 256))
    pixels[~disk(128, 128, 87)] = 180  # more pixels than any tumour has
    flair.append(np.where(head, pixels, 0 if stripped else rng.integers(0, 8, (256, 256))))
    mask.append(tumor)
  return make_slices(np.array(flair).astype(np.uint8), np.array(mask).astype(np.uint8))


@pytest.mark.parametrize("stripped", [True, False], ids=["stripped", "noise outside"])
@pytest.mark.parametrize("name", CLASSICAL)
def test_finds_the_disk_and_leaves_the_healthy_empty(name, stripped):
  sample, test = make_volume(1, stripped), make_volume(2, stripped)
  parameters = baselines.fit(name, sample, seed=0)
  masks = baselines.predict(name, test, parameters, seed=0)
  dice = metrics.dice(metrics.count(masks, test.mask[..., 0] == 1), empty=1.0)
  assert (dice[1::2] > 0.9).all()
  assert not masks[::2].any()


@pytest.mark.parametrize("name", CLASSICAL)
def test_the_seed_decides_and_neither_the_truth_nor_the_company(name):
  sample, test = make_volume(1), make_volume(2)
  parameters = baselines.fit(name, sample, seed=3)
  masks = baselines.predict(name, test, parameters, seed=3)
  assert masks.any() and baselines.fit(name, sample, seed=3) == parameters
  without = dataclasses.replace(test, mask=np.zeros_like(test.mask))
  np.testing.assert_array_equal(baselines.predict(name, without, parameters, seed=3), masks)
  of_all = {field.name: getattr(test, field.name) for field in dataclasses.fields(test)}
  of_one = Slices(**{field: values[[3]] for field, values in of_all.items() if isinstance(values, np.ndarray)})
  np.testing.assert_array_equal(baselines.predict(name, of_one, parameters, seed=3)[0], masks[3])


@pytest.mark.parametrize("name", CLASSICAL)
def test_black_constant_and_nearly_black_slices_are_empty(name):
  values = {"classes": 2, "threshold": 1.5, "radius": 1, "least_area": 0, "brightness": 0.0}
  parameters = {key: values[key] for key in baselines.METHODS[name].grid}
  nothing = np.zeros((2, 256, 256), np.uint8)
  spots = nothing.copy()
  spots[:, 100:105, 100:105] = np.arange(1, 26).reshape(5, 5) * 10  # 25 pixels of many values
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    for flair in (nothing, nothing + 100):
      assert not baselines.predict(name, make_slices(flair, nothing), parameters, seed=0).any()
      assert set(baselines.fit(name, make_slices(flair, nothing), seed=0)) == set(parameters)
    if name != "morphological":  # which splits no histogram
      assert not baselines.predict(name, make_slices(spots, nothing), parameters, seed=0).any()


def test_clean_up_by_hand():
  """Parts of 400, 100 and 400 pixels; the last is dimmer, by the statistics given: 10 and 4 deviations above the mean."""
  flair = np.zeros((2, 256, 256), np.uint8)
  flair[0, 10:30, 10:30] = flair[0, 100:110, 100:110] = 110
  flair[0, 200:220, 200:220] = 50
  flair[1, 10:30, 10:30] = 110  # touches the first across slices, and is a part of its own
  slices = make_slices(flair, np.zeros_like(flair))
  slices = dataclasses.replace(slices, volume_mean=np.full((2, 3), 10.0), volume_std=np.full((2, 3), 10.0))
  masks = flair > 0
  labels, parts = baselines.parts_of(masks, slices)
  assert sorted(zip(parts.area, parts.contrast, strict=True)) == [(100, 10.0), (400, 4.0), (400, 10.0), (400, 10.0)]
  kept = lambda **rule: parts.area[parts.kept(**rule)].sum()
  assert kept(least_area=400, brightness=0.0) == 1200 and kept(least_area=401, brightness=0.0) == 0
  assert kept(least_area=0, brightness=4.1) == 900 and kept(least_area=101, brightness=10.0) == 800
  np.testing.assert_array_equal(labels > 0, masks)


def test_morphology_fills_holes_and_takes_the_largest_part():
  ring, small = disk(128, 90, 30) & ~disk(128, 90, 10), disk(128, 170, 12)
  slices = make_slices(np.where(ring | small, 200, 20)[None].astype(np.uint8), np.zeros((1, 256, 256), np.uint8))
  mask = baselines.METHODS["morphological"].function(slices, {"threshold": 2.0, "radius": 4}, 0)[0]
  assert mask[disk(128, 90, 20)].all() and not mask[~disk(128, 90, 30)].any()


def test_fit_agrees_with_predicting_by_every_combination():
  """The sums over parts that `fit` compares are the pooled Dice of the masks that `predict` makes."""
  sample = make_volume(4)
  truth = sample.mask[..., 0] == 1
  score = lambda parameters: metrics.dice(
    metrics.pool(metrics.count(baselines.predict("otsu", sample, parameters, seed=0), truth)), empty=1.0
  ).item()
  every = [
    {"classes": classes, "radius": radius, "least_area": area, "brightness": brightness}
    for classes in (2, 3)
    for radius in baselines.OPENING["radius"]
    for area in (0, 400, 1200)
    for brightness in (1.0, 2.0, 3.0)
  ]
  scores = [score(parameters) for parameters in every]
  assert score(baselines.fit("otsu", sample, seed=0)) == pytest.approx(max(scores)) and min(scores) < max(scores)


def test_nothing_is_empty_and_names_are_checked():
  slices = make_volume(0)
  assert baselines.fit("nothing", slices, seed=0) == {}
  assert not baselines.predict("nothing", slices, {}, seed=0).any()
  for call in (lambda: baselines.fit("magic", slices, seed=0), lambda: baselines.predict("magic", slices, {}, seed=0)):
    with pytest.raises(UserError, match="baseline is 'magic', expected one of nothing, otsu"):
      call()
  assert baselines.title("otsu") == "Multi-level threshold (Otsu)" and "Copy" in baselines.title(baselines.COPY)
  with pytest.raises(UserError, match="baseline is 'magic'"):
    baselines.title("magic")


def make_histograms():
  """One to five bumps, gaps, a single spike, flat, and noise."""
  rng = np.random.default_rng(0)
  bins = np.arange(256)
  bumps = [
    sum(rng.integers(100, 9000) * np.exp(-(((bins - rng.integers(20, 236)) / rng.integers(3, 25)) ** 2)) for _ in range(k))
    for k in (1, 2, 3, 3, 4, 5)
  ]  # fmt: skip
  gaps, spike = np.zeros(256), np.zeros(256)
  gaps[[7, 60, 61, 130, 250]] = [500, 30, 40, 900, 10]
  spike[100:140], spike[255] = 100, 100
  return np.array([*bumps, gaps, spike, np.ones(256), rng.integers(0, 50, 256)]).astype(int)


@pytest.mark.parametrize("search", [particle_swarm.darwinian, particle_swarm.random_order])
@pytest.mark.parametrize("seed", [0, 1])
def test_swarms_reach_the_best_of_all_splits(search, seed):
  histograms = make_histograms()
  criterion = particle_swarm.make_criterion(histograms)
  full = [threshold_multiotsu(classes=3, hist=(counts, np.arange(256))) for counts in histograms]
  best = criterion(np.array(full))
  found = search(histograms, 3, seed=seed)
  np.testing.assert_allclose(criterion(found), best, rtol=1e-4)  # scikit-image searches in float32
  alone = search(histograms[4:5], 3, seed=seed)
  np.testing.assert_array_equal(alone[0], found[4])


def test_kmeans_is_the_seeds():
  """On flat noise, where many clusterings are as good."""
  histograms = np.random.default_rng(0).integers(90, 110, (4, 256))
  first, second, other = (baselines.kmeans(histograms, 9, seed=seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, second)
  assert (first != other).any()


def test_criterion_by_hand():
  """Values 0, 0, 2, 4: about their mean 1.5, the means 0 of two, 2 and 4 have a variance of 11 / 4."""
  criterion = particle_swarm.make_criterion(np.array([[2, 0, 1, 0, 1]]))
  assert criterion(np.array([[[0, 2], [1, 3], [0, 1]]]))[0] == pytest.approx([11 / 4, 11 / 4, 9 / 4])


def test_swarms_grow_shrink_breed_and_die():
  """The rules of the Darwinian swarms, one by one, on places that are made up."""
  rng = np.random.default_rng(0)
  shape = (1, particle_swarm.SWARMS, particle_swarm.PARTICLES)
  alive = np.zeros(shape, bool)
  alive[0, 0, :6], alive[0, 1, : particle_swarm.LEAST_PARTICLES] = True, True
  value = np.where(alive, np.arange(particle_swarm.PARTICLES) + np.array([10, 0, 0, 0])[:, None], -np.inf)
  place = rng.random((*shape, 2))
  swarms = particle_swarm.Swarms(
    place, np.ones_like(place), place.copy(), value, alive, np.zeros(shape[:2]), np.zeros(shape[:2], int)
  )
  size = lambda: swarms.alive.sum(-1)[0].tolist()
  particle_swarm.reward(swarms, np.array([[True, False, False, False]]), rng)
  assert size() == [7, 4, 0, 0] and swarms.alive[0, 0, 6] and not swarms.velocity[0, 0, 6].any()
  swarms.own_value[0, 0, 6] = 20
  none = np.zeros((1, particle_swarm.SWARMS), bool)
  for _ in range(particle_swarm.PATIENCE - 1):
    particle_swarm.punish(swarms, none)
  assert size() == [7, 4, 0, 0]
  particle_swarm.punish(swarms, none)  # the first loses its worst, the second is too small to lose one
  assert size() == [6, 0, 0, 0] and not swarms.alive[0, 0, 0] and swarms.stagnation[0, 0] == particle_swarm.PATIENCE / 2
  for _ in range(20 * particle_swarm.PATIENCE):
    particle_swarm.punish(swarms, none)
  assert size() == [particle_swarm.LEAST_PARTICLES, 0, 0, 0] and swarms.value[0, 0] == 20  # the best of all stays
  for _ in range(20):  # each with an even chance
    if not size()[1]:
      particle_swarm.breed(swarms, np.array([[True, False, False, False]]), rng)
  assert size()[0] == particle_swarm.LEAST_PARTICLES and size()[2:] == [0, 0]
  assert size()[1] > 0  # of one swarm alone, both halves are its own
  np.testing.assert_array_equal(swarms.own[0, 1][swarms.alive[0, 1]], swarms.own[0, 0][swarms.alive[0, 1]])
  particle_swarm.move(swarms, lambda places: np.full(places.shape[:-1], 99.0), rng)
  np.testing.assert_array_equal(swarms.own_value == 99, swarms.alive)  # the dead find nothing


def test_sample_is_half_tumor_and_in_order():
  ids = [f"A/{at}" for at in range(100)]
  label = (np.arange(100) < 30).astype(np.int32)
  numbers = [int(name[2:]) for name in baselines.sample_ids(ids, label, seed=0, size=40)]
  assert numbers == sorted(set(numbers)) and len(numbers) == 40 and sum(label[numbers]) == 20
  numbers = [int(name[2:]) for name in baselines.sample_ids(ids, label, seed=0, size=80)]
  assert sum(label[numbers]) == 30 and len(numbers) == 70  # all tumours there are, and a half of the others
  draw = lambda seed: baselines.sample_ids(ids, label, seed=seed, size=40)
  assert draw(1) == draw(1) != draw(2)


def test_nearest_by_hand():
  train = ["A/10", "A/2", "A/6", "B/1", "with/slash/3"]
  test = ["A/1", "A/4", "A/7", "A/8", "A/99", "B/50", "C/1", "with/slash/9"]
  nearest = ["A/2", "A/2", "A/6", "A/6", "A/10", "B/1", None, "with/slash/3"]  # 4 and 8 lie half-way: the lower
  assert baselines.nearest_ids(train, test) == nearest


def test_copies_the_masks_of_the_nearest():
  volume = make_volume(5)
  ids = volume.ids
  nearest = baselines.nearest_ids([ids[3], ids[0]], [ids[4], ids[1], "other/1"])
  masks = baselines.copy_nearest(nearest, volume)
  np.testing.assert_array_equal(masks[0], volume.mask[3, ..., 0] == 1)
  assert masks[0].any() and not masks[1:].any()  # the nearest of the second has none, and the third has no nearest
