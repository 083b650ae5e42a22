"""Out-of-distribution checks: how a scan differs from those that a network was trained on.

The published slices show whole heads, other data sets only brains, so what is unusual depends on the training volumes,
whose `profile` a checkpoint keeps. Rules are few and lenient, because a frequent warning is not read.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage
from skimage import filters

MIN_SLICES = 5  # a few slices through crown or base do not look like the middle of a head
_MOST_SLICES, _MOST_PIXELS = (
  9,
  256,
)  # slices, and pixels along an edge, that are used; the latter within a factor of two
_AIR = -200  # Hounsfield units, below fat at -100; no MR image has many voxels there
_FEW_LEVELS = 4.5  # of grey: a mask has two, a map of tissues three; middle slices of heads have 25 and more
_BRIGHT_BORDER = (
  0.4  # as a share of the head's intensity; published volumes reach 0.05, and photographs are seldom below 0.4
)
_SKULL_MARGIN = 0.3  # half of what lies between brains with a skull (0.7 and more) and without (0.4 and less)
_FULL, _TINY = 0.97, 0.6  # span of the frame: all of it, and as a share of the smallest in training
_LEAST = float(np.finfo(np.float32).tiny)  # replaces 0 in denominators
_RAYS = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_RIM = np.linspace(0, 0.35, 36)  # depths below the outline, as a share of the ray: scalp, skull, the brain's rim
_BRAIN = np.linspace(0.35, 0.9, 20)


def features(volume: Num[np.ndarray, "slices height width"]) -> dict[str, float]:
  """What the middle third of a volume looks like, in any resolution and unit of intensity.

  Args:
    volume: the reference channel (for LGG, FLAIR), in any scale.

  Returns:
    `skull`: how far intensities fall behind the rim, as a share of the brain's: 0.9 for a head, whose skull is dark
      between bright scalp and brain, 0.1 for a brain alone; 0..1.
    `span`: the smaller of the head's height and width, as a share of the frame's, 0..1.
    `border`: median intensity along the edge of the frame as a share of that in the head.
    `levels`: the effective number of grey levels in the head (e to the entropy of 256 bins), 1..256.
  """
  middle = _middle(volume)
  middle = np.maximum(middle - np.percentile(middle, 1), 0)
  middle /= max(middle.max(), _LEAST)
  head = np.stack([_foreground(one) for one in middle])
  if not head.any():
    head[:] = True
  edge = [middle[:, 0], middle[:, -1], middle[:, :, 0], middle[:, :, -1]]
  dips = [_dip(one, mask) for one, mask in zip(middle, head, strict=True) if mask.any()]
  inside = middle[head]
  brightest = max(np.percentile(inside, 99.5), _LEAST)  # a hot pixel would leave few bins to the rest
  counts = np.histogram(np.minimum(inside, brightest), 256, (0, brightest))[0]
  shares = counts[counts > 0] / counts.sum()
  spans = [(np.ptp(np.flatnonzero(seen)) + 1) / seen.size for seen in (head.any((0, 2)), head.any((0, 1)))]
  return {
    "skull": float(np.median(dips)),
    "span": float(min(spans)),
    "border": float(np.median(np.concatenate(edge, axis=1)) / max(np.median(inside), _LEAST)),
    "levels": float(np.exp(-np.sum(shares * np.log(shares)))),
  }


def profile(volumes: Iterable[Num[np.ndarray, "slices height width"]]) -> dict[str, list[float]]:
  """The lowest and highest value of each feature over training volumes, at least one."""
  rows = [features(volume) for volume in volumes]
  return {name: [min(row[name] for row in rows), max(row[name] for row in rows)] for name in rows[0]}


def is_reference_alone(image: Num[np.ndarray, "slices height width channels"], reference: int) -> bool:
  """Whether all other channels are copies of the reference channel, which has this index."""
  others = (image[..., channel] for channel in range(image.shape[-1]) if channel != reference)
  compared = [np.array_equal(other, image[..., reference]) for other in others]
  return bool(compared) and all(compared)


def warnings(volume: Num[np.ndarray, "slices height width"], profile: dict[str, list[float]] | None) -> list[str]:
  """What is unusual about a scan, a sentence each; only one sentence where it is not a head on a dark background.

  Args:
    volume: the reference channel, in the scale of the file.
    profile: that of the training volumes, as `profile` gives it; None for only the rules that hold for any brain.
  """
  if (volume < _AIR).mean() > 0.01:
    return [f"intensities below {_AIR} look like Hounsfield units of CT: the networks know MR only"]
  measured = features(volume)
  if measured["levels"] < _FEW_LEVELS:
    return ["next to no shades of grey: a mask or an empty slice, not a head"]
  if measured["border"] > _BRIGHT_BORDER:
    return [
      f"the edge of the frame is {measured['border']:.0%} as bright as what it frames: inverted, cropped into the brain, or "
      "no head on a dark background"
    ]
  return _unlike_training(measured, profile, len(volume)) if profile else []


def _unlike_training(measured: dict[str, float], profile: dict[str, list[float]], slices: int) -> list[str]:
  sentences = []
  (least_skull, most_skull), (least_span, most_span) = profile["skull"], profile["span"]
  if measured["skull"] > most_skull + _SKULL_MARGIN:
    sentences.append("skull and scalp are there, the network was trained on brains without: strip them first")
  if slices < MIN_SLICES:
    return sentences
  if measured["skull"] < least_skull - _SKULL_MARGIN:
    sentences.append("no dark skull under a bright scalp, as the network was trained on: stripped, or not a head?")
  if measured["span"] >= _FULL > most_span:
    sentences.append("the head fills the frame from edge to edge, tighter than any the network was trained on")
  if measured["span"] < _TINY * least_span:
    sentences.append(
      f"the head spans {measured['span']:.0%} of the frame, far less than any the network was trained on"
    )
  return sentences


def _middle(volume: Num[np.ndarray, "slices height width"]) -> Float[np.ndarray, "some rows columns"]:
  """Some slices from the middle third of those that are not empty, subsampled for speed."""
  shown = np.ptp(volume, axis=(1, 2)) > 0
  indices = np.flatnonzero(shown if shown.any() else ~shown)
  third = indices[len(indices) // 3 : len(indices) - len(indices) // 3]
  chosen = third[np.unique(np.linspace(0, len(third) - 1, _MOST_SLICES).astype(int))]
  step = max(max(volume.shape[1:]) // _MOST_PIXELS, 1)
  return volume[chosen, ::step, ::step].astype(np.float64)


def _foreground(image: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
  """The foreground without specks, by Otsu's threshold with fat and lesions clipped, lowered for dim scalps."""
  smooth = ndimage.gaussian_filter(image, 1)
  # Fat and lesions: the upper quarter of what is brighter than the mean, however wide a margin the frame has.
  tissue = np.percentile(smooth[smooth >= min(smooth.mean(), smooth.max())], 75)
  labels, _ = ndimage.label(smooth > 0.6 * filters.threshold_otsu(np.minimum(smooth, tissue)))
  kept = np.bincount(labels.ravel()) >= image.size // 500
  kept[0] = False
  return kept[labels]


def _dip(image: Float[np.ndarray, "rows columns"], head: Bool[np.ndarray, "rows columns"]) -> float:
  """How far intensity falls between the outline and the brain, on rays to the centre, as a share of the brain's intensity.

  The median over rays; a rim that is brighter than the brain counts as bright as the brain.
  """
  centre = np.array(ndimage.center_of_mass(head))[:, None, None]
  rays = np.stack([np.sin(_RAYS), np.cos(_RAYS)])[:, :, None]
  steps = np.arange(np.hypot(*head.shape))
  reach = np.where(ndimage.map_coordinates(head.astype(np.uint8), centre + rays * steps, order=0), steps, 0).max(1)
  along = lambda depths: ndimage.map_coordinates(
    image, centre + rays * (reach[:, None] * (1 - depths)), order=1, mode="nearest"
  )
  rim, brain = along(_RIM), np.median(along(_BRAIN))
  peak = np.minimum(np.maximum.accumulate(rim, axis=1), brain)
  fall = np.maximum((peak - rim).max(1), 0)
  return float(np.median(fall) / max(brain, _LEAST))
