"""Packs a prediction for the page as one block of bytes, and unpacks the masks that it sends back."""

import gzip
import json
import struct
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt16

from bt_jax.errors import UserError
from bt_jax.inference import overlays
from bt_jax.inference.predictor import Prediction

_DARKEST, _BRIGHTEST = 1, 99.5  # percentiles that the page shows as black and white at first
Stored = UInt8[np.ndarray, "slices height width"] | UInt16[np.ndarray, "slices height width"]
_MOST_SPREAD = 0.5  # the largest standard deviation that probabilities can have
_STEPS = 2**16 - 1  # of intensities that are no whole numbers


def thresholds(own: float) -> list[float]:
  """The thresholds at which the page's slider stops: 0.01 to 0.99, and the predictor's own."""
  return sorted({*(percent / 100 for percent in range(1, 100)), own})


def pack(described: dict[str, Any], prediction: Prediction, kept: str | None = None) -> bytes:
  """The answer to a prediction: the length of the JSON (4 bytes, little-endian), the JSON, then arrays as bytes.

  The arrays are each different channel of the scan, see `_stored`; for each class how many of `thresholds` each voxel reaches,
  which gives its exact mask at each of them; the disagreement of several passes, where there are any, in steps of
  `_MOST_SPREAD` / 255; and for each class its mask at the predictor's own threshold, after any other steps of the
  predictor, with 8 voxels in a byte. Everything is gzipped.

  Args:
    described: the content of `prediction.json`.
    prediction: the prediction to show.
    kept: the name of the folder in which it is kept; None where it is not.
  """
  info, own = prediction.info, prediction.threshold
  probability = np.moveaxis(_of_masks(prediction), -1, 0)
  mask = np.moveaxis(prediction.masks, -1, 0)
  stops = thresholds(own)
  levels = np.searchsorted(np.array(stops, probability.dtype), probability, side="right").astype(np.uint8)
  index = stops.index(own)
  channels = _channels(prediction)
  disagreement = prediction.disagreement
  spread = [] if disagreement is None else [np.rint(disagreement / _MOST_SPREAD * 255).astype(np.uint8)]
  head = json.dumps(
    {
      "prediction": described,
      "kept": kept,
      "overlapping": info.overlapping,
      "shape": mask.shape[1:],
      "affine": None if (affine := prediction.scan.affine) is None else affine.tolist(),
      "thresholds": stops,
      "own": index,
      "plain": bool((mask == (levels > index)).all()),
      "disagreement": _MOST_SPREAD if spread else None,
      "channels": [about for about, _ in channels],
      "classes": [
        {"name": name, "colour": colour} for name, colour in zip(info.classes, overlays.colours(info), strict=True)
      ],
    },
    allow_nan=False,
  ).encode()
  arrays = (*(values for _, values in channels), levels, *spread, np.packbits(mask.reshape(len(mask), -1), axis=1))
  parts = (struct.pack("<I", len(head)), head, *(array.tobytes() for array in arrays))
  return gzip.compress(b"".join(parts), compresslevel=1)


def _channels(prediction: Prediction) -> list[tuple[dict[str, Any], Stored]]:
  """Each channel with its name and what the page needs to show it, the reference first; copies of another are left out."""
  info, image = prediction.info, prediction.scan.image
  others = [number for number in range(image.shape[-1]) if number != info.reference_index]
  kept: list[int] = []
  for number in (info.reference_index, *others):
    if not any(np.array_equal(image[..., number], image[..., other]) for other in kept):
      kept.append(number)
  return [_channel(info.titles[number], image[..., number]) for number in kept]


def _channel(title: str, values: Float[np.ndarray, "slices height width"]) -> tuple[dict[str, Any], Stored]:
  stored, lowest, step = _stored(values)
  return {
    "title": title,
    "bytes": stored.dtype.itemsize,
    "lowest": lowest,
    "step": step,
    "highest": float(values.max()),
    "presets": _presets(values),
  }, stored


def _stored(values: Float[np.ndarray, "slices height width"]) -> tuple[Stored, float, float]:
  """Intensities as whole numbers, the lowest intensity, and the step between two; exact where they were whole and few."""
  lowest, highest = float(values.min()), float(values.max())
  whole = highest - lowest <= _STEPS and np.array_equal(values, np.rint(values))
  step = 1.0 if whole else (highest - lowest) / _STEPS
  kind = np.uint8 if whole and highest - lowest < 2**8 else np.uint16
  return np.rint((values.astype(np.float64) - lowest) / step).astype(np.dtype(kind).newbyteorder("<")), lowest, step


def _presets(values: Float[np.ndarray, "slices height width"]) -> dict[str, tuple[float, float]]:
  """The intensities shown as black and as white, by name; the first is shown at first."""
  lowest, highest = float(values.min()), float(values.max())
  usual = tuple(np.percentile(values, (_DARKEST, _BRIGHTEST)).tolist())
  tissue = values[values > values.mean()]
  middle, most = np.percentile(tissue, (50, 99.9)).tolist() if tissue.size else (lowest, highest)
  dark, bright = np.percentile(tissue, (2, 98)).tolist() if tissue.size else (lowest, highest)
  ranges = {"usual": usual, "whole range": (lowest, highest), "tissue": (dark, bright), "bright parts": (middle, most)}
  # Where all but a few voxels have one value, percentiles coincide.
  return {name: (low, high) if low < high else (lowest, highest) for name, (low, high) in ranges.items()}


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
  bits = np.unpackbits(np.frombuffer(content, np.uint8).reshape(classes, -1), axis=1)
  if outside := int(bits[:, size:].sum()):
    raise UserError(
      f"the mask has {outside:,} voxel{'s' * (outside > 1)} outside the volume of {size:,}: predict this scan again"
    )
  return np.moveaxis(bits[:, :size].reshape(classes, *shape).astype(bool), 0, -1)
