"""Contrast enhancement (section 3.3 of the paper), applied once on the host, before any other step."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8, UInt16
from skimage import exposure

from bt_jax.errors import choose

Slice = UInt8[np.ndarray, "height width channels"]


def stretch(image: Slice) -> Slice:
  """Stretches each channel so that the 1st and 99th percentiles of its nonzero pixels become 0 and 255."""
  result = np.zeros_like(image)
  for channel in range(image.shape[-1]):
    pixels = image[..., channel]
    inside = pixels[pixels > 0]
    if inside.size:
      low, high = np.percentile(inside, (1, 99))
      result[..., channel] = np.clip((pixels - low) / max(high - low, 1) * 255, 0, 255)
  return result


def clahe(image: Slice) -> Slice:
  """Contrast-limited adaptive histogram equalisation of each channel (scikit-image's `equalize_adapthist`)."""
  channels = [exposure.equalize_adapthist(image[..., channel]) for channel in range(image.shape[-1])]
  return np.round(np.stack(channels, axis=-1) * 255).astype(np.uint8)


def _as_it_is(image: Slice | UInt16[np.ndarray, "height width channels"]) -> np.ndarray:
  return image


CONTRASTS: dict[str, Callable[[Slice], Slice]] = {"none": _as_it_is, "stretch": stretch, "clahe": clahe}


def make_contrast(name: str) -> Callable[[Slice], Slice]:
  """The contrast function of this name; raises UserError if there is none."""
  return choose("data.contrast", name, CONTRASTS)
