"""A scan with its masks, as its prediction or as a reader corrected them."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from bt_jax.datasets.info import DatasetInfo
from bt_jax.scans.scan import Scan
from bt_jax.schema import CHANNELS


@dataclasses.dataclass(frozen=True)
class Segmented:
  """A scan with the mask of each class, on its own grid.

  Attributes:
    scan: the scan.
    masks: mask of each class, on the grid of `scan.image`.
    info: the data set that the networks were trained on, with the names of the classes.
  """

  scan: Scan
  masks: Bool[np.ndarray, "slices height width classes"]
  info: DatasetInfo

  @functools.cached_property
  def mask(self) -> Bool[np.ndarray, "slices height width"]:
    """Mask of any class."""
    return self.masks.any(-1)


def labels_of(
  masks: Bool[np.ndarray, "slices height width classes"], info: DatasetInfo
) -> UInt8[np.ndarray, "slices height width"]:
  """The id of each pixel's class, 0 for none; where classes overlap, the last one."""
  labels = np.zeros(masks.shape[:-1], np.uint8)
  for number, label in enumerate(info.ids):
    labels[masks[..., number]] = label
  return labels


def segments_of(
  masks: Bool[np.ndarray, "slices height width classes"], info: DatasetInfo
) -> tuple[Shaped[np.ndarray, "slices height width"], dict[int, str] | None]:
  """What a mask's file holds, and the name of each label in it: ids of several classes, 1 for one; no name for LGG's."""
  if len(info.classes) > 1:
    return labels_of(masks, info), dict(zip(info.ids, info.classes, strict=True))
  return masks.squeeze(-1), None if info.channels == CHANNELS else {1: info.classes[0]}
