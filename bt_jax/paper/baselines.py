"""Baselines: an empty mask, the mask of the nearest training slice, and the classical methods of the paper's Table 3.

The classical methods see only FLAIR, slice by slice. They take the brightest pixels, as the segmented tumours are
bright there, and keep the components that are thick, large and bright enough; these limits are fitted on training
slices. Otsu's method finds the best split of a histogram into classes. K-means and the particle swarms search for the
same split in other ways; where they find it, their masks are the same.

Pixels of value 0 are left out of histograms. Most published scans have noise outside the head, which then forms a
class.
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
# Two baselines are not in `METHODS`: `COPY` needs training masks and no image, and `FLAIR_ONLY` is the network itself.
COPY = "copy_nearest"
_TITLES = {COPY: "Copy of the nearest training slice", FLAIR_ONLY: "This network, with FLAIR in all channels"}
LEAST_PIXELS = 1000  # nonzero pixels; the histogram of a slice with fewer is too small to split
SAMPLE = 160  # slices to fit on
CLASSES = {"classes": (2, 3)}  # including the background, if it is not 0; on the real data, 4 was never chosen
# All classical methods open masks with a diamond of this radius. A component is then kept if it has at least this many
# pixels and if its mean FLAIR is at least this many standard deviations of the volume above the volume's mean.
OPENING = {"radius": (4, 7)}
CLEAN_UP = {"least_area": (0, 100, 200, 400, 800, 1200), "brightness": (1.0, 1.5, 2.0, 2.5, 3.0)}
_IN_SLICE = np.zeros((3, 3, 3), bool)  # connectivity: the eight neighbours in the slice
_IN_SLICE[1] = True
_CROSS = ndimage.generate_binary_structure(2, 1)[None]

Masks = Bool[np.ndarray, "n height width"]
Histograms = Int[np.ndarray, "n 256"]
Parameters = dict[str, Any]


class Method(NamedTuple):
  """A baseline.

  Attributes:
    title: its name in tables.
    grid: the candidate values of each parameter.
    function: (slices, parameters, seed) -> masks before the clean-up; it does not read `slices.mask`.
  """

  title: str
  grid: dict[str, tuple]
  function: Callable[[Slices, Parameters, int], Masks]


def fit(name: str, sample: Slices, *, seed: int) -> Parameters:
  """The parameters in the grid with the highest pooled Dice on these (training) slices; the first of ties.

  Raises:
    UserError: there is no such method.
  """
  method = choose("baseline", name, METHODS)
  if not method.grid:
    return {}
  truth = sample.mask[..., 0] == 1
  best, chosen = -1.0, {}
  for parameters in _combinations({key: values for key, values in method.grid.items() if key not in CLEAN_UP}):
    _, parts = parts_of(method.function(sample, parameters, seed), sample)
    for rule in _combinations(CLEAN_UP):
      kept = parts.kept(**rule)
      dice = 2 * parts.overlap[kept].sum() / max(parts.area[kept].sum() + truth.sum(), 1)
      if dice > best:
        best, chosen = dice, parameters | rule
  return chosen


def predict(name: str, slices: Slices, parameters: Parameters, *, seed: int) -> Masks:
  """Predicts masks by this method with the parameters from `fit`; the ground truth in `slices` is not used.

  Raises:
    UserError: there is no such method.
  """
  method = choose("baseline", name, METHODS)
  masks = method.function(slices, parameters, seed)
  if not method.grid:
    return masks
  labels, parts = parts_of(masks, slices)
  kept = parts.kept(**{key: parameters[key] for key in CLEAN_UP})
  return np.concatenate([[False], kept])[labels]


def sample_ids(ids: Sequence[str], label: Int[np.ndarray, " n"], *, seed: int, size: int = SAMPLE) -> list[str]:
  """Samples at most `size` slices to fit on, in the order of `ids`: half with label 1, or as many as there are."""
  rng = np.random.default_rng(seed)
  tumor, healthy = (rng.permutation(np.flatnonzero(label == kind)) for kind in (1, 0))
  return [ids[index] for index in sorted((*tumor[: size // 2], *healthy[: size - size // 2]))]


def nearest_ids(train_ids: Sequence[str], test_ids: Sequence[str]) -> list[str | None]:
  """For each test slice, the training slice of the same case that is nearest by number; no image is used.

  Of two equally near slices, the one with the lower number; None if the case has no training slice, as in a split by
  patients.
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
  """The masks in `training` of the slices from `nearest_ids`; an empty mask where that is None."""
  position = {name: index for index, name in enumerate(training.ids)}
  masks = np.zeros((len(nearest), *training.mask.shape[1:3]), bool)
  for index, name in enumerate(nearest):
    if name is not None:
      masks[index] = training.mask[position[name], ..., 0] == 1
  return masks


def title(name: str) -> str:
  """The name of a baseline in tables."""
  return _TITLES[name] if name in _TITLES else choose("baseline", name, METHODS).title


def _case_and_number(name: str) -> tuple[str, int]:
  case, number = name.rsplit("/", 1)
  return case, int(number)


def _combinations(grid: Mapping[str, tuple]) -> Iterator[Parameters]:
  return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))


class Parts(NamedTuple):
  """The connected components of masks.

  Attributes:
    area: number of pixels.
    overlap: number of pixels inside the ground truth.
    contrast: mean FLAIR above the volume's mean, in standard deviations of the volume.
  """

  area: Int[np.ndarray, " parts"]
  overlap: Int[np.ndarray, " parts"]
  contrast: Float[np.ndarray, " parts"]

  def kept(self, *, least_area: int, brightness: float) -> Bool[np.ndarray, " parts"]:
    return (self.area >= least_area) & (self.contrast >= brightness)


def parts_of(masks: Masks, slices: Slices) -> tuple[Int[np.ndarray, "n height width"], Parts]:
  """The label of each pixel's component, from 1, and the components."""
  labels, _ = ndimage.label(masks, structure=_IN_SLICE)
  inside = np.nonzero(masks)
  part = labels[inside] - 1
  above = slices.image[..., FLAIR][inside] - slices.volume_mean[inside[0], FLAIR]
  contrast = above / np.maximum(slices.volume_std[inside[0], FLAIR], 1)  # 1: the resolution of intensities
  area = np.bincount(part)
  return labels, Parts(
    area, np.bincount(part[slices.mask[..., 0][inside] == 1], minlength=len(area)), np.bincount(part, contrast) / area
  )


def _nothing(slices: Slices, parameters: Parameters, seed: int) -> Masks:
  return np.zeros(slices.image.shape[:3], bool)


def _opened(masks: Masks, radius: int) -> Masks:
  return ndimage.binary_opening(masks, _CROSS, iterations=radius)


def _make_brightest_class(find: Callable[..., Float[np.ndarray, " n"]]) -> Callable[..., Masks]:
  """Makes the function that segments pixels above a level of each slice; `find` takes histograms, classes and seed."""

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


def _otsu(histograms: Histograms, classes: int, *, seed: int) -> Float[np.ndarray, " n"]:
  values = np.arange(256)
  return np.array([threshold_multiotsu(classes=classes, hist=(counts, values))[-1] for counts in histograms], float)


def kmeans(histograms: Histograms, classes: int, *, seed: int) -> Float[np.ndarray, " n"]:
  """Midpoint of the two brightest centres of k-means on intensities, weighted by the number of their pixels."""
  from sklearn.cluster import KMeans  # a slow import (half a second), so not at the start of every run

  levels = []
  with threadpool_limits(1):  # on so few values, threads cost more than they save
    for counts in histograms:
      values = np.flatnonzero(counts)
      clusters = KMeans(classes, n_init=1, random_state=seed).fit(values[:, None], sample_weight=counts[values])
      levels.append(np.sort(clusters.cluster_centers_[:, 0])[-2:].mean())
  return np.array(levels)


def _darwinian(histograms: Histograms, classes: int, *, seed: int) -> Float[np.ndarray, " n"]:
  return particle_swarm.darwinian(histograms, classes, seed=seed)[:, -1].astype(float)


def _random_order(histograms: Histograms, classes: int, *, seed: int) -> Float[np.ndarray, " n"]:
  return particle_swarm.random_order(histograms, classes, seed=seed)[:, -1].astype(float)


def _morphological(slices: Slices, parameters: Parameters, seed: int) -> Masks:
  """Thresholds relative to the volume's mean and standard deviation, opens, fills holes, keeps the largest component."""
  level = slices.volume_mean[:, FLAIR] + parameters["threshold"] * slices.volume_std[:, FLAIR]
  masks = _opened(slices.image[..., FLAIR] > level[:, None, None], parameters["radius"])
  for index in np.flatnonzero(masks.any((1, 2))):
    masks[index] = largest_part(ndimage.binary_fill_holes(masks[index])[None])[0]
  return masks


def _by_class(title: str, find: Callable[..., Float[np.ndarray, " n"]]) -> Method:
  return Method(title, {**CLASSES, **OPENING, **CLEAN_UP}, _make_brightest_class(find))


METHODS: dict[str, Method] = {
  "nothing": Method("Empty mask", {}, _nothing),
  "otsu": _by_class("Multi-level threshold (Otsu)", _otsu),
  "kmeans": _by_class("K-means", kmeans),
  # The paper names "Random Darwinian" and "Particle Swarm Optimization" without further details.
  "darwinian_pso": _by_class("Darwinian particle swarm", _darwinian),
  "random_order_pso": _by_class("Particle swarm in random order", _random_order),
  "morphological": Method(
    "Threshold and morphology",
    {"threshold": (1.25, 1.5, 2.0), **OPENING, **CLEAN_UP},
    _morphological,
  ),
}
