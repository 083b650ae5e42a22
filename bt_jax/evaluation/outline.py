"""Errors within one pixel of the true outline, where human readers differ too: what part of all errors they are."""

import numpy as np
from jaxtyping import Bool, Int

# Columns of records, which those of earlier versions lack.
COLUMNS = ("fp_outline", "fn_outline")


def near_outline(truth: Bool[np.ndarray, "n height width classes"]) -> Bool[np.ndarray, "n height width classes"]:
  """The pixels within one pixel of the outline: those with one of their four neighbours on its other side.

  A single pixel, and the four around it:

  >>> import numpy as np
  >>> truth = np.zeros((1, 3, 4, 1), bool)
  >>> truth[0, 1, 1] = True
  >>> near_outline(truth)[0, ..., 0].astype(int).tolist()
  [[0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]

  Everything beyond the array is outside of the mask.
  """
  near = np.zeros_like(truth)
  for axis in (1, 2):
    crossed = np.diff(np.pad(truth, [(int(number == axis),) * 2 for number in range(4)]), axis=axis)
    before, after = (np.take(crossed, range(start, start + truth.shape[axis]), axis) for start in (0, 1))
    near |= before | after
  return near


def count_near(
  prediction: Bool[np.ndarray, "n height width classes"], truth: Bool[np.ndarray, "n height width classes"]
) -> dict[str, Int[np.ndarray, "n classes"]]:
  """The false positives and false negatives near the outline of each slice and class, by the names of `COLUMNS`."""
  near = near_outline(truth)
  wrong = (prediction & ~truth & near, truth & ~prediction & near)
  return {name: pixels.sum((1, 2)) for name, pixels in zip(COLUMNS, wrong, strict=True)}
