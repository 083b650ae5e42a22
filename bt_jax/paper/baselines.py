"""What a network must beat: an empty mask, the neighbour's mask, and the classical methods of the paper's Table 3.

The classical methods see FLAIR alone, slice by slice. They take the brightest pixels, as the marked tumours are bright
there, and of their parts those that are thick, large and bright enough; how thick, large and bright is fitted on training
slices. Otsu's method finds the best split of a histogram into classes, and k-means and the swarms look for the same one by
other ways: where they find it, their masks are the same.

Pixels of value 0 are left out of histograms. Most published scans have noise outside of the head, which is a class then.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from skimage.filters import threshold_multiotsu
from threadpoolctl import threadpool_limits

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import choose
from bt_jax.evaluation.postprocess import largest_part
from bt_jax.paper import particle_swarm
from bt_jax.schema import Slices, slice_id

FLAIR = INFO.reference_index
FLAIR_ONLY = f"{INFO.reference}_only"
# What is not a method of `METHODS`: one needs training masks and no image, the other, `FLAIR_ONLY`, is the network itself.
COPY = "copy_nearest"
_TITLES = {COPY: "Copy of the nearest training slice", FLAIR_ONLY: "This network, with FLAIR in all channels"}
LEAST_PIXELS = 1000  # that are not 0; a slice with fewer has too small a histogram to split
SAMPLE = 160  # slices to fit on
CLASSES = {"classes": (2, 3)}  # counting what lies outside of the head, if not 0; on the real data, 4 were never chosen
# What all classical methods share: masks are opened by a diamond of this radius, and a part of them stays if it has this
# many pixels or more and a mean FLAIR this many standard deviations of its volume, or more, above its volume's mean.
OPENING = {"radius": (4, 7)}
CLEAN_UP = {"least_area": (0, 100, 200, 400, 800, 1200), "brightness": (1.0, 1.5, 2.0, 2.5, 3.0)}
_IN_SLICE = np.zeros((3, 3, 3), bool)  # what touches: the eight neighbours, none in another slice
_IN_SLICE[1] = True
_CROSS = ndimage.generate_binary_structure(2, 1)[None]

Masks = Bool[np.ndarray, "n height width"]
Histograms = Int[np.ndarray, "n 256"]
Parameters = dict[str, Any]


class Method(NamedTuple):
  """A baseline.

  Attributes:
    title: what tables call it.
    grid: the values that each parameter is chosen from.
    function: (slices, parameters, seed) -> masks before the clean-up; does not read `slices.mask`.
  """

  title: str
  grid: dict[str, tuple]
  function: Callable[[Slices, Parameters, int], Masks]


def fit(name: str, sample: Slices, *, seed: int) -> Parameters:
  """The parameters of the grid with the highest pooled Dice on these (training) slices; of equals the first.

  Raises:
    UserError: no such method.
  """
  method = choose("baseline", name, METHODS)
  if not method.grid:
    return {}
  truth = sample.mask[..., 0] == 1
  best, chosen = -1.0, {}
  for parameters in _combinations({key: values for key, values in method.grid.items() if key not in CLEAN_UP}):
    _, parts = _parts_of(method.function(sample, parameters, seed), sample)
    for rule in _combinations(CLEAN_UP):
      kept = parts.kept(**rule)
      dice = 2 * parts.overlap[kept].sum() / max(parts.area[kept].sum() + truth.sum(), 1)
      if dice > best:
        best, chosen = dice, parameters | rule
  return chosen


def predict(name: str, slices: Slices, parameters: Parameters, *, seed: int) -> Masks:
  """Masks by this method with the parameters that `fit` gave; the truth in `slices` changes nothing.

  Raises:
    UserError: no such method.
  """
  method = choose("baseline", name, METHODS)
  masks = method.function(slices, parameters, seed)
  if not method.grid:
    return masks
  labels, parts = _parts_of(masks, slices)
  kept = parts.kept(**{key: parameters[key] for key in CLEAN_UP})
  return np.concatenate([[False], kept])[labels]


def sample_ids(ids: Sequence[str], label: Int[np.ndarray, "n"], *, seed: int, size: int = SAMPLE) -> list[str]:
  """At most `size` slices to fit on, in the order of `ids`: half of them, or as many as there are, with label 1."""
  rng = np.random.default_rng(seed)
  tumor, healthy = (rng.permutation(np.flatnonzero(label == kind)) for kind in (1, 0))
  return [ids[at] for at in sorted((*tumor[: size // 2], *healthy[: size - size // 2]))]


def nearest_ids(train_ids: Sequence[str], test_ids: Sequence[str]) -> list[str | None]:
  """For each test slice the training slice of the same case that is nearest by number, without a look at any image.

  Of two as near, the one with the lower number; None where the case has no training slice, as in a split by patients.
  """
  numbers: dict[str, list[int]] = {}
  for case, number in map(_case_and_number, train_ids):
    numbers.setdefault(case, []).append(number)
  nearest = []
  for case, number in map(_case_and_number, test_ids):
    others = sorted(numbers.get(case, ()))
    distance = [abs(other - number) for other in others]
    nearest.append(slice_id(case, others[distance.index(min(distance))]) if others else None)
  return nearest


def copy_nearest(nearest: Sequence[str | None], training: Slices) -> Bool[np.ndarray, "n height width"]:
  """The masks of the slices that `nearest_ids` named, found in `training` by id; empty where it named none."""
  place = {name: at for at, name in enumerate(training.ids)}
  masks = np.zeros((len(nearest), *training.mask.shape[1:3]), bool)
  for at, name in enumerate(nearest):
    if name is not None:
      masks[at] = training.mask[place[name], ..., 0] == 1
  return masks


def title(name: str) -> str:
  """What tables call a baseline."""
  return _TITLES[name] if name in _TITLES else choose("baseline", name, METHODS).title


def _case_and_number(name: str) -> tuple[str, int]:
  case, number = name.rsplit("/", 1)
  return case, int(number)


def _combinations(grid: Mapping[str, tuple]) -> Iterator[Parameters]:
  return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))


class _Parts(NamedTuple):
  """The connected parts of masks: pixels, pixels inside the truth, and mean FLAIR in deviations above the volume's mean."""

  area: Int[np.ndarray, "parts"]
  overlap: Int[np.ndarray, "parts"]
  contrast: Float[np.ndarray, "parts"]

  def kept(self, *, least_area: int, brightness: float) -> Bool[np.ndarray, "parts"]:
    return (self.area >= least_area) & (self.contrast >= brightness)


def _parts_of(masks: Masks, slices: Slices) -> tuple[Int[np.ndarray, "n height width"], _Parts]:
  """The number of each pixel's part, from 1, and the parts."""
  labels, _ = ndimage.label(masks, structure=_IN_SLICE)
  inside = np.nonzero(masks)
  part = labels[inside] - 1
  above = slices.image[..., FLAIR][inside] - slices.volume_mean[inside[0], FLAIR]
  contrast = above / np.maximum(slices.volume_std[inside[0], FLAIR], 1)  # 1: what pixels are rounded to
  area = np.bincount(part)
  return labels, _Parts(
    area, np.bincount(part[slices.mask[..., 0][inside] == 1], minlength=len(area)), np.bincount(part, contrast) / area
  )


def _nothing(slices: Slices, parameters: Parameters, seed: int) -> Masks:
  return np.zeros(slices.image.shape[:3], bool)


def _opened(masks: Masks, radius: int) -> Masks:
  return ndimage.binary_opening(masks, _CROSS, iterations=radius)


def _make_brightest_class(find: Callable[..., Float[np.ndarray, "n"]]) -> Callable[..., Masks]:
  """The function that marks what is above a level of each slice; `find` takes histograms, classes and seed."""

  def brightest_class(slices: Slices, parameters: Parameters, seed: int) -> Masks:
    flair, classes = slices.image[..., FLAIR], parameters["classes"]
    histograms = np.array([np.bincount(pixels.ravel(), minlength=256) for pixels in flair])
    histograms[:, 0] = 0
    can_split = (histograms.sum(1) >= LEAST_PIXELS) & (np.count_nonzero(histograms, axis=1) > classes)
    levels = np.full(len(flair), 255.0)
    if can_split.any():
      levels[can_split] = find(histograms[can_split], classes, seed=seed)
    return _opened(flair > levels[:, None, None], parameters["radius"])

  return brightest_class


def _otsu(histograms: Histograms, classes: int, *, seed: int) -> Float[np.ndarray, "n"]:
  values = np.arange(256)
  return np.array([threshold_multiotsu(classes=classes, hist=(counts, values))[-1] for counts in histograms], float)


def _kmeans(histograms: Histograms, classes: int, *, seed: int) -> Float[np.ndarray, "n"]:
  """Clusters the values that occur, each with the weight of its pixels; half-way between the brightest two centres."""
  from sklearn.cluster import KMeans  # takes half a second, which the start of every run need not wait

  levels = []
  with threadpool_limits(1):  # on so few values, threads cost more than they save
    for counts in histograms:
      values = np.flatnonzero(counts)
      clusters = KMeans(classes, n_init=1, random_state=seed).fit(values[:, None], sample_weight=counts[values])
      levels.append(np.sort(clusters.cluster_centers_[:, 0])[-2:].mean())
  return np.array(levels)


def _darwinian(histograms: Histograms, classes: int, *, seed: int) -> Float[np.ndarray, "n"]:
  return particle_swarm.darwinian(histograms, classes, seed=seed)[:, -1].astype(float)


def _random_order(histograms: Histograms, classes: int, *, seed: int) -> Float[np.ndarray, "n"]:
  return particle_swarm.random_order(histograms, classes, seed=seed)[:, -1].astype(float)


def _morphological(slices: Slices, parameters: Parameters, seed: int) -> Masks:
  """What is so many deviations above the volume's mean, opened, its holes filled; of each slice the largest part."""
  level = slices.volume_mean[:, FLAIR] + parameters["threshold"] * slices.volume_std[:, FLAIR]
  masks = _opened(slices.image[..., FLAIR] > level[:, None, None], parameters["radius"])
  for at in np.flatnonzero(masks.any((1, 2))):
    masks[at] = largest_part(ndimage.binary_fill_holes(masks[at])[None])[0]
  return masks


def _by_class(title: str, find: Callable[..., Float[np.ndarray, "n"]]) -> Method:
  return Method(title, {**CLASSES, **OPENING, **CLEAN_UP}, _make_brightest_class(find))


METHODS: dict[str, Method] = {
  "nothing": Method("Empty mask", {}, _nothing),
  "otsu": _by_class("Multi-level threshold (Otsu)", _otsu),
  "kmeans": _by_class("K-means", _kmeans),
  # The paper prints "Random Darwinian" and "Particle Swarm Optimization", and says no more of either.
  "darwinian_pso": _by_class("Darwinian particle swarm", _darwinian),
  "random_order_pso": _by_class("Particle swarm in random order", _random_order),
  "morphological": Method(
    "Threshold and morphology",
    {"threshold": (1.25, 1.5, 2.0), **OPENING, **CLEAN_UP},
    _morphological,
  ),
}
