"""What the page gets of a prediction, as one block of bytes, and the mask that it sends back."""

import gzip
import json
import struct
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from bt_jax.errors import UserError

_DARKEST, _BRIGHTEST = 1, 99.5  # percentiles of FLAIR that the page shows black and white


def thresholds(own: float) -> list[float]:
  """Those that the page's slider stops at: 0.01 to 0.99, and the predictor's own."""
  return sorted({*(percent / 100 for percent in range(1, 100)), own})


def pack(
  described: dict[str, Any],
  flair: Float[np.ndarray, "slices height width"],
  probability: Float[np.ndarray, "slices height width"],
  mask: Bool[np.ndarray, "slices height width"],
  own: float,
) -> bytes:
  """The answer to a prediction: the length of the JSON (4 bytes, little-endian), the JSON, then arrays as bytes.

  The arrays are FLAIR in 0..255; how many of `thresholds` each voxel reaches, so that the mask at each of them is exact;
  and the mask at the predictor's own threshold, 8 voxels a byte. All of it is gzip'd.

  Args:
    described: the content of `prediction.json`.
    flair: in the scale of the file.
    probability: of tumour.
    mask: the predictor's, after whatever it does beyond a threshold.
    own: the predictor's threshold.
  """
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
    },
    allow_nan=False,
  ).encode()
  arrays = (_grey(flair).tobytes(), levels.tobytes(), np.packbits(mask).tobytes())
  return gzip.compress(b"".join((struct.pack("<I", len(head)), head, *arrays)), compresslevel=1)


def unpack_mask(content: bytes, shape: tuple[int, ...]) -> Bool[np.ndarray, "slices height width"]:
  """The mask of 8 voxels a byte that the page sends; raises UserError where it is not one of this shape."""
  size = int(np.prod(shape))
  if len(content) != -(-size // 8):
    raise UserError(
      f"the mask has {len(content):,} bytes and the scan needs {-(-size // 8):,}: predict this scan again"
    )
  return np.unpackbits(np.frombuffer(content, np.uint8), count=size).reshape(shape).astype(bool)


def _grey(flair: Float[np.ndarray, "slices height width"]) -> UInt8[np.ndarray, "slices height width"]:
  low, high = np.percentile(flair, (_DARKEST, _BRIGHTEST))
  if low == high:  # all but a few voxels are alike
    low, high = flair.min(), flair.max()
  return (np.clip((flair - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
