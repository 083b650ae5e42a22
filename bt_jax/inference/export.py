"""Networks as one file with all that they need: a pure function from a volume to its mask, for who has only JAX."""

import dataclasses
import functools
import importlib.util
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bt_jax import files
from bt_jax.datasets.channels import with_neighbours
from bt_jax.errors import UserError
from bt_jax.inference import grid, standalone
from bt_jax.inference.decision import Decision, check_share, decide, describe
from bt_jax.inference.forward import Marked, make_forward
from bt_jax.inference.networks import Network, View
from bt_jax.inference.predictor import Brought, Predictor
from bt_jax.scans.scan import NOTICE
from bt_jax.schema import CHANNELS

_PLATFORMS = ("cpu", "cuda", "tpu")
_GROUP = 8  # slices at a time
_ABOUT = "model.json"


def write(
  output: pathlib.Path,
  segmenters: Sequence[Network],
  classifiers: Sequence[Network],
  *,
  tta: bool,
  threshold: float | None,
  sensitivity: float,
) -> None:
  """Writes networks as one file; see `loading.load` for the options.

  The file is what `jax.export.deserialize` reads. A zip at its end, which that does not mind, tells about the networks
  and makes the file a program: `python FILE volume.npy result.npz`.

  Raises:
    UserError: contrast is raised outside of JAX, or the file is there already.
  """
  decision, told = plan(output, segmenters, classifiers, tta=tta, threshold=threshold, sensitivity=sensitivity)
  function = make_function(segmenters, classifiers, decision)
  slices, height, width = jax.export.symbolic_shape(
    "slices, height, width", constraints=[f"slices >= {decision.reach + 1}"]
  )
  volume = jax.ShapeDtypeStruct((slices, height, width, len(CHANNELS)), jnp.float32)
  exported = jax.export.export(jax.jit(function), platforms=_PLATFORMS)(volume)
  path = files.write_bytes(output, bytes(exported.serialize()) + _program(told))
  print(
    f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)\n"
    f"try it, with jax alone: python {path} volume.npy result.npz\n"
    f"or as any run: python launch.py --mode=predict --checkpoint={path} --input=SCAN --output=DIR\n{NOTICE}"
  )


def plan(
  output: pathlib.Path, segmenters: Sequence[Network], classifiers: Sequence[Network], **options: Any
) -> tuple[Decision, dict[str, Any]]:
  """What the networks decide by, and what a file in any format tells; raises UserError as `write`."""
  if output.exists():
    raise UserError(f"{output} is there already: choose another --output, or remove it")
  if raised := [network for network in (*segmenters, *classifiers) if network.view.contrast != "none"]:
    raise UserError(
      f"{raised[0].about['path']} raises contrast ({raised[0].view.contrast}) on the host, which no export holds: use the run "
      "itself, or train with --config.data.contrast=none"
    )
  decision = decide(segmenters, classifiers, **options)
  about = describe(segmenters, classifiers, decision)
  return decision, {"research_use": NOTICE, "decision": dataclasses.asdict(decision), "about": about}


def make_function(
  segmenters: Sequence[Network], classifiers: Sequence[Network], decision: Decision
) -> Callable[[Float[Array, "slices height width 3"]], dict[str, Array]]:
  """The function of a whole volume, in any scale and size, pixels as high as wide.

  Returns:
    `function(volume)`: `probability` and `mask` [slices, height, width], `slice_probability` and `gated` [slices], as
    `Predictor.predict` has them.
  """
  variables, forward = make_forward(
    segmenters, classifiers, tta=decision.tta, gate=decision.gate, temperature=decision.temperature
  )

  def function(volume: Float[Array, "slices height width 3"]) -> dict[str, Array]:
    slices, height, width, _ = volume.shape
    brought = grid.to_training(grid.scale(volume, *grid.window(volume, jnp)))
    statistics = dict(zip(("volume_mean", "volume_std"), grid.statistics(brought), strict=True))
    repeated = {name: jnp.tile(values, (_GROUP, 1)) for name, values in statistics.items()}

    def of_group(images: dict[View, Array]) -> tuple[Array, Array, Array]:
      members, slice_probability, gated = forward(variables, {"image": images, **repeated})
      return grid.to_own(members.mean(0), height, width), slice_probability, gated

    # Groups of a size that is known compile once; the last is filled up with slices that are thrown away.
    groups = (slices + _GROUP - 1) // _GROUP

    def grouped(view: View) -> Array:
      seen = with_neighbours(brought, view.context)
      filled = jax.lax.pad(seen, jnp.float32(0), [(0, groups * _GROUP - slices, 0), *[(0, 0, 0)] * 3])
      return filled.reshape(groups, _GROUP, *seen.shape[1:])

    views = {network.view for network in (*segmenters, *classifiers)}
    found = jax.lax.map(of_group, {view: grouped(view) for view in views})
    probability, slice_probability, gated = (
      array.reshape(groups * _GROUP, *array.shape[2:])[:slices] for array in found
    )
    mask = probability >= decision.threshold
    if decision.largest_component:
      mask = largest_part(mask)
    return {"probability": probability, "mask": mask, "slice_probability": slice_probability, "gated": gated}

  return function


def largest_part(mask: Bool[Array, "slices height width"]) -> Bool[Array, "slices height width"]:
  """As `postprocess.largest_part`, where it is traced: each voxel takes the lowest number of those it touches."""
  outside = jnp.iinfo(jnp.int32).max
  own = jnp.where(mask, jnp.arange(mask.size, dtype=jnp.int32).reshape(mask.shape), outside)

  def spread(state: tuple[Array, Array]) -> tuple[Array, Array]:
    numbers, _ = state
    lowest = jax.lax.reduce_window(numbers, jnp.int32(outside), jax.lax.min, (3, 3, 3), (1, 1, 1), "SAME")
    lowest = jnp.where(mask, lowest, outside)
    return lowest, (lowest != numbers).any()

  numbers, _ = jax.lax.while_loop(lambda state: state[1], spread, (own, jnp.array(True)))
  sizes = jnp.zeros(mask.size, jnp.int32).at[numbers.ravel()].add(1, mode="drop")
  return mask & (numbers == sizes.argmax())


def load(path: pathlib.Path, threshold: float | None) -> Predictor:
  """The predictor in an exported file.

  Args:
    path: of the file.
    threshold: of a pixel's probability; None: its own.

  Raises:
    UserError: it is no such file, or damaged.
  """
  if path.suffix.lower() == ".onnx":
    raise UserError(
      f"--checkpoint: {path} is ONNX, for other runtimes: name the run, or export it to a file without .onnx"
    )
  content = path.read_bytes()
  try:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
      told = json.loads(archive.read(_ABOUT))
    decision, about = Decision(**told["decision"]), told["about"]
    exported = jax.export.deserialize(bytearray(content))
  except Exception as error:  # what the reader of a damaged file raises is not documented
    reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
    raise UserError(
      f"--checkpoint: {path} is no file that --mode=export wrote, or damaged ({reason}): export the run again"
    ) from error
  if threshold is not None:
    check_share("threshold", threshold)
    decision, about = dataclasses.replace(decision, threshold=threshold), about | {"threshold": threshold}
  return Predictor(decision, about | {"exported": True}, functools.partial(_mark, jax.jit(exported.call)))


def _mark(function: Callable[[Any], dict[str, Array]], brought: Brought) -> Iterator[Marked]:
  """All slices at once: statistics are of the whole volume, which is on the training grid and in its scale already."""
  found = jax.device_get(function(brought))
  yield Marked(found["probability"][None], found["slice_probability"], found["gated"])


def _program(told: dict[str, Any]) -> bytes:
  """A zip that Python runs: what is told, the program, and the package that `jax.export` reads with."""
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(_ABOUT, json.dumps(told, indent=2, allow_nan=False))
    archive.write(standalone.__file__, "__main__.py")
    (place,) = importlib.util.find_spec("flatbuffers").submodule_search_locations
    for file in sorted(pathlib.Path(place).glob("*.py")):
      archive.write(file, f"flatbuffers/{file.name}")
  return content.getvalue()
