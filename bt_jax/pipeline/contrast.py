"""Contrast between tumour and healthy tissue raised before anything else (section 3.3 of the paper), once, on the host."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from skimage import exposure

from bt_jax.errors import choose

Slice = UInt8[np.ndarray, "height width channels"]


def stretch(image: Slice) -> Slice:
  """Each channel stretched so that its 1st and 99th percentile, of the pixels that are not black, become 0 and 255."""
  result = np.zeros_like(image)
  for channel in range(image.shape[-1]):
    pixels = image[..., channel]
    inside = pixels[pixels > 0]
    if inside.size:
      low, high = np.percentile(inside, (1, 99))
      result[..., channel] = np.clip((pixels - low) / max(high - low, 1) * 255, 0, 255)
  return result


def clahe(image: Slice) -> Slice:
  """Each channel equalised by tile with limited contrast (scikit-image's `equalize_adapthist`)."""
  channels = [exposure.equalize_adapthist(image[..., channel]) for channel in range(image.shape[-1])]
  return np.round(np.stack(channels, axis=-1) * 255).astype(np.uint8)


def _as_it_is(image: Slice) -> Slice:
  return image


CONTRASTS: dict[str, Callable[[Slice], Slice]] = {"none": _as_it_is, "stretch": stretch, "clahe": clahe}


def make_contrast(name: str) -> Callable[[Slice], Slice]:
  """The function of this name; raises UserError where there is none."""
  return choose("data.contrast", name, CONTRASTS)
