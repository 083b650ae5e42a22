"""Opens an exported file as a predictor, of this version or of an earlier one."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.export
import numpy as np
from jaxtyping import Array

from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import UserError, one_line
from bt_jax.inference.decision import Decision, check_share
from bt_jax.inference.ensemble import Outputs
from bt_jax.inference.jax_export import read
from bt_jax.inference.predictor import Image, Predictor
from bt_jax.scans import resampling


def load(path: pathlib.Path, threshold: float | None) -> Predictor:
  """The predictor in an exported file.

  Args:
    path: the exported file.
    threshold: threshold of a pixel's probability; None for that of the file.

  Raises:
    UserError: the file is not an export, or is damaged.
  """
  if path.suffix.lower() == ".onnx":
    raise UserError(
      f"{path} is ONNX, for other runtimes: name the run, or export it to a file without .onnx", "checkpoint"
    )
  content, described = read(path)
  known = {field.name for field in dataclasses.fields(Decision)}
  info = DatasetInfo.from_json(described["decision"]["info"])
  decision = Decision(
    **{name: value for name, value in described["decision"].items() if name in known} | {"info": info}
  )
  about = described["about"]
  try:
    exported = jax.export.deserialize(bytearray(content))
  except Exception as error:  # written by another version of JAX; what its reader raises is not documented
    written = described.get("jax", {}).get("reads", "written by a version that is not recorded: export the run again")
    raise UserError(f"{path} is not read by jax {jax.__version__} ({one_line(error)}); it was {written}") from error
  if threshold is not None:
    check_share("threshold", threshold)
    decision, about = dataclasses.replace(decision, threshold=threshold), about | {"threshold": threshold}
  function = jax.jit(exported.call)
  older = len(exported.in_avals) == 1  # takes no aspect
  segment = functools.partial(_segment_square, function, info.size) if older else functools.partial(_segment, function)
  return Predictor(decision, about | {"exported": True}, segment)


def _segment(function: Callable[..., dict[str, Array]], image: Image, aspect: float) -> Iterator[Outputs]:
  """All slices at once, because statistics are those of the whole volume."""
  outputs = jax.device_get(function(image, np.float32(aspect)))
  probability = outputs["probability"].reshape(1, *image.shape[:3], -1)
  yield Outputs(probability, outputs["slice_probability"], outputs["gated"])


def _segment_square(
  function: Callable[..., dict[str, Array]], size: int, image: Image, aspect: float
) -> Iterator[Outputs]:
  """Like `_segment`, for older files, which take only square pixels: others are resampled to the stored size first."""
  _, height, width, _ = image.shape
  square = aspect == 1
  seen = image if square else _to_square(image, *resampling.window(image), aspect, size=size)
  outputs = jax.device_get(function(seen))
  probability = outputs["probability"].reshape(*seen.shape[:3], -1)
  if not square:
    probability = np.asarray(_to_own(probability, height=height, width=width, aspect=aspect))
  yield Outputs(probability[None], outputs["slice_probability"], outputs["gated"])


@functools.partial(jax.jit, static_argnames="size")
def _to_square(image: Array, low: Array, high: Array, aspect: Array, *, size: int) -> Array:
  return resampling.to_network(resampling.scale(image, low, high), size, aspect)


_to_own = jax.jit(resampling.to_own, static_argnames=("height", "width"))
