"""Packs a prediction for the page as one block of bytes, and unpacks the masks that it sends back."""

import gzip
import json
import struct
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from bt_jax.errors import UserError
from bt_jax.inference import overlays
from bt_jax.inference.predictor import Prediction

_DARKEST, _BRIGHTEST = 1, 99.5  # percentiles of FLAIR that the page shows as black and white


def thresholds(own: float) -> list[float]:
  """The thresholds at which the page's slider stops: 0.01 to 0.99, and the predictor's own."""
  return sorted({*(percent / 100 for percent in range(1, 100)), own})


def pack(described: dict[str, Any], prediction: Prediction) -> bytes:
  """The answer to a prediction: the length of the JSON (4 bytes, little-endian), the JSON, then arrays as bytes.

  The arrays are the reference channel in 0..255; for each class how many of `thresholds` each voxel reaches, which gives
  its exact mask at each of them; and for each class its mask at the predictor's own threshold, after any other steps of
  the predictor, with 8 voxels in a byte. Everything is gzipped.

  Args:
    described: the content of `prediction.json`.
    prediction: the prediction to show.
  """
  info, own = prediction.info, prediction.threshold
  flair = prediction.scan.image[..., info.reference_index]
  probability = np.moveaxis(_of_masks(prediction), -1, 0)
  mask = np.moveaxis(prediction.masks, -1, 0)
  stops = thresholds(own)
  levels = np.searchsorted(np.array(stops, probability.dtype), probability, side="right").astype(np.uint8)
  index = stops.index(own)
  head = json.dumps(
    {
      "prediction": described,
      "shape": flair.shape,
      "thresholds": stops,
      "own": index,
      "plain": bool((mask == (levels > index)).all()),
      "reference": info.reference_title,
      "classes": [
        {"name": name, "colour": colour} for name, colour in zip(info.classes, overlays.colours(info), strict=True)
      ],
    },
    allow_nan=False,
  ).encode()
  arrays = (_grey(flair).tobytes(), levels.tobytes(), np.packbits(mask.reshape(len(mask), -1), axis=1).tobytes())
  return gzip.compress(b"".join((struct.pack("<I", len(head)), head, *arrays)), compresslevel=1)


def _of_masks(prediction: Prediction) -> Float[np.ndarray, "slices height width classes"]:
  """The probability that decides a class's mask: its own, or, where classes exclude one another, that of any for the likeliest."""
  if prediction.info.overlapping or len(prediction.info.classes) == 1:
    return prediction.probabilities
  likeliest = prediction.probabilities.argmax(-1)[..., None] == np.arange(len(prediction.info.classes))
  return np.where(likeliest, prediction.probability[..., None], np.float32(0))


def unpack_masks(
  content: bytes, shape: tuple[int, ...], classes: int
) -> Bool[np.ndarray, "slices height width classes"]:
  """The masks that the page sends, with 8 voxels in a byte; raises UserError where they do not fit this shape."""
  size = int(np.prod(shape))
  if len(content) != classes * -(-size // 8):
    raise UserError(
      f"the mask has {len(content):,} bytes and the scan needs {classes * -(-size // 8):,}: predict this scan again"
    )
  bits = np.frombuffer(content, np.uint8).reshape(classes, -1)
  return np.moveaxis(np.unpackbits(bits, axis=1, count=size).reshape(classes, *shape).astype(bool), 0, -1)


def _grey(flair: Float[np.ndarray, "slices height width"]) -> UInt8[np.ndarray, "slices height width"]:
  low, high = np.percentile(flair, (_DARKEST, _BRIGHTEST))
  if low == high:  # all but a few voxels have one value
    low, high = flair.min(), flair.max()
  return (np.clip((flair - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
