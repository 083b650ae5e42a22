"""Exports networks as one ONNX file: the same function of a whole volume as `jax_export`, for runtimes without JAX."""

import contextlib
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import Array, Float

from bt_jax import files
from bt_jax.datasets.channels import with_neighbours
from bt_jax.errors import UserError, one_line
from bt_jax.evaluation.postprocess import class_masks
from bt_jax.inference import jax_export
from bt_jax.inference.decision import Decision
from bt_jax.inference.ensemble import Ensemble, make_ensemble
from bt_jax.inference.networks import Network, View
from bt_jax.scans import resampling
from bt_jax.scans.scan import NOTICE
from bt_jax.schema import Tumor

INPUT = "volume"
_HASH = "sha256"
OUTPUTS = ("probability", "mask", "slice_probability", "gated")
_HALVINGS = 40  # of the range of a volume; what is left is finer than float32
_MOST_BYTES = 2**31 - 1  # of one protocol buffer
Volume = Float[Array, "slices height width channels"]


def write(
  output: pathlib.Path,
  segmenters: Sequence[Network],
  classifiers: Sequence[Network],
  *,
  tta: bool,
  threshold: float | None,
  sensitivity: float,
) -> None:
  """Writes networks as one ONNX file; see `loading.load` for the options.

  Its input is `volume`, float32 [slices, height, width, channels] (for LGG pre-contrast, FLAIR and post-contrast), in any
  scale and size, with square pixels; its outputs are those of `make_function`. Its metadata hold `research_use`,
  `format`, `decision`, `about` and `sha256`, that of the file without this entry, in protobuf's deterministic order.

  Raises:
    UserError: another file is already there, jax2onnx is not installed, or the networks do what ONNX cannot hold.
  """
  decision, described = jax_export.plan(segmenters, classifiers, tta=tta, threshold=threshold, sensitivity=sensitivity)
  if jax_export.is_there(output, described, lambda: read(output)):
    return
  model = convert(make_function(segmenters, classifiers, decision), len(decision.info.channels))
  for name, value in described.items():
    text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
    model.metadata_props.add(key=name, value=text)
  if (size := model.ByteSize()) > _MOST_BYTES:
    raise UserError(
      f"{output} would have {size / 1e9:.1f} GB, and ONNX has room for 2.1: take fewer networks, or a name without .onnx",
      "output",
    )
  model.metadata_props.add(key=_HASH, value=_hash(model))
  path = files.write_bytes(output, model.SerializeToString(deterministic=True))
  print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB); for onnxruntime and others that read ONNX\n{NOTICE}")


def _hash(model: Any) -> str:
  """The SHA-256 of a model without the metadata entry that holds it."""
  bare = type(model)()
  bare.CopyFrom(model)
  del bare.metadata_props[:]
  bare.metadata_props.extend(entry for entry in model.metadata_props if entry.key != _HASH)
  return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def read(path: pathlib.Path) -> dict[str, Any]:
  """The description in an ONNX file of ours; raises UserError where the file is damaged, or not ours."""
  try:
    import onnx  # comes with jax2onnx

    model = onnx.load(path)
  except Exception as error:  # protobuf's reader has several
    raise files.damaged(path, f"it is not ONNX: {one_line(error)}", "export the run again") from error
  metadata = {entry.key: entry.value for entry in model.metadata_props}
  if metadata.pop(_HASH, None) != _hash(model):
    raise files.damaged(path, "its SHA-256 is not that of its content", "export the run again")
  return {name: value if name == "research_use" else json.loads(value) for name, value in metadata.items()}


def make_function(
  segmenters: Sequence[Network], classifiers: Sequence[Network], decision: Decision
) -> Callable[[Volume], tuple[Array, ...]]:
  """Makes a function of a whole volume, slice by slice, from operations that the converter supports.

  Returns:
    `function(volume)`, which returns `OUTPUTS`: probability and mask [slices, height, width], slice_probability and gated
    [slices], as in `Predictor.predict` for square pixels. With several classes probability and mask are [slices, height,
    width, classes].

  Raises:
    UserError: only the largest part of a mask is kept, or a network computes in bfloat16.
  """
  if decision.largest_component:
    raise UserError(
      f"{segmenters[0].about['path']} keeps only the largest part of a mask (eval.largest_component), which the converter "
      "to ONNX does not support: give the output a name without .onnx",
      "output",
    )
  views = sorted({network.view for network in (*segmenters, *classifiers)})
  ensemble = make_ensemble(
    segmenters, classifiers, tta=decision.tta, gate=decision.gate, temperature=decision.temperature
  )
  of_slice, info = _trace(ensemble, decision, views), decision.info

  def function(volume: Volume) -> tuple[Array, ...]:
    _, height, width, _ = volume.shape
    scaled = resampling.scale(volume, *resampling.window(volume, info.window, percentile))
    mean, std = resampling.statistics(scaled)
    by_size = {size: resampling.to_network(scaled, size) for size in {view.size for view in views}}

    def of(images: list[Array]) -> tuple[Array, Array, Array]:
      logits = of_slice(mean[None], std[None], *(image[None] for image in images))
      members, slice_probability, gated, _ = ensemble.outputs(logits, height=height, width=width)
      return members.mean(0)[0], slice_probability[0], gated[0]

    probability, slice_probability, gated = jax.lax.map(
      of, [with_neighbours(by_size[view.size], view.context) for view in views]
    )
    masks = class_masks(probability, threshold=decision.threshold, overlapping=info.overlapping)
    if len(info.classes) == 1:
      probability, masks = probability.squeeze(-1), masks.squeeze(-1)
    return probability, masks, slice_probability, gated

  return function


def _trace(ensemble: Ensemble, decision: Decision, views: Sequence[View]) -> Callable:
  """`forward` of one slice, traced before the conversion.

  While it converts, jax2onnx replaces some functions of JAX by its own, and its `jax.image.resize` has no antialiasing.
  What is traced before consists of primitives, which it does not replace.
  """

  def one(mean: Array, std: Array, *images: Array) -> list[Tumor]:
    seen = dict(zip(views, images, strict=True))
    return ensemble.forward(ensemble.variables, {"image": seen, "volume_mean": mean, "volume_std": std})

  channels = len(decision.info.channels)
  statistics = jax.ShapeDtypeStruct((1, channels), jnp.float32)
  images = [
    jax.ShapeDtypeStruct((1, view.size, view.size, channels + len(view.context)), jnp.float32) for view in views
  ]
  # Without jit the loops over networks and views are unrolled, and weights are constants of their layers.
  with jax.disable_jit():
    traced, shapes = jax.make_jaxpr(one, return_shape=True)(statistics, statistics, *images)
  if any(var.aval.dtype == jnp.bfloat16 for step in traced.jaxpr.eqns for var in step.outvars):
    raise UserError("a network computes in bfloat16, which ONNX runtimes rarely support: load it with dtype float32")
  structure = jax.tree.structure(shapes)
  return lambda *inputs: jax.tree.unflatten(structure, _run(traced, *inputs))


def _run(traced: ClosedJaxpr, *inputs: Array) -> list[Array]:
  """Runs what was traced, like `jax.core.eval_jaxpr`, with operations that onnxruntime lacks expressed by others."""
  values = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
  values |= dict(zip(traced.jaxpr.invars, inputs, strict=True))
  for step in traced.jaxpr.eqns:
    given = [var.val if isinstance(var, Literal) else values[var] for var in step.invars]
    primitive, parameters = step.primitive, step.params
    if primitive.name == "platform_index":  # where code differs by platform, the default is taken
      values[step.outvars[0]] = 0
      continue
    if primitive.name == "gather":  # XLA clamps indices that lie outside
      numbers, sizes = parameters["dimension_numbers"], parameters["slice_sizes"]
      last = [given[0].shape[axis] - sizes[axis] for axis in numbers.start_index_map]
      given[1] = jnp.clip(given[1], 0, jnp.array(last, given[1].dtype))
    if pools := primitive.name in (
      "reduce_window_max",
      "reduce_window_sum",
    ):  # onnxruntime pools over at most three axes
      given[0], parameters = given[0][0], {name: tuple(value)[1:] for name, value in parameters.items()}
    # Weights are cut out of their stack now; larger constants, such as grids, are better computed at run time.
    known = not any(isinstance(value, jax.core.Tracer) for value in given)
    small = sum(var.aval.size for var in step.outvars) <= sum(var.aval.size for var in step.invars)
    with jax.ensure_compile_time_eval() if known and small else contextlib.nullcontext():
      # A function with a custom gradient is traced as a call; here its body is run, without the gradient.
      inner = parameters.get("call_jaxpr")
      if platforms := parameters.get("branches_platforms"):
        inner, given = parameters["branches"][platforms.index(None)], given[1:]
      results = _run(inner, *given) if inner else primitive.bind(*given, **parameters)
    results = [results[None]] if pools else results if inner or primitive.multiple_results else [results]
    values |= dict(zip(step.outvars, results, strict=True))
  return [var.val if isinstance(var, Literal) else values[var] for var in traced.jaxpr.outvars]


def percentile(volume: Volume, q: float, axis: tuple[int, ...]) -> Float[Array, " channels"]:
  """`numpy.percentile`, linear, over all axes but the last; by bisection, as ONNX cannot sort an unknown number of values.

  Args:
    volume: finite values.
    q: percentile in 0..100.
    axis: all axes but the last.
  """
  last = jnp.float32(1)
  for one in axis:
    last *= jnp.asarray(volume.shape[one], jnp.float32)
  position = (last - 1) * jnp.float32(q / 100)
  below = jnp.floor(position)
  largest = volume.max(axis)
  count = lambda kept: kept.astype(jnp.int32).sum(axis)
  wanted = below.astype(jnp.int32) + 1  # how many values are not above the one at that position

  low = smallest = volume.min(axis)
  high = largest
  for _ in range(_HALVINGS):  # not a loop of JAX, whose body the converter allows no values from outside
    middle = low / 2 + high / 2
    enough = count(volume <= middle) >= wanted
    low, high = jnp.where(enough, low, middle), jnp.where(enough, middle, high)
  above = lambda value: jnp.where(volume > value, volume, largest).min(axis)
  first = jnp.where(count(volume <= smallest) >= wanted, smallest, above(low))
  second = jnp.where(count(volume <= first) > wanted, first, above(first))
  return first + (second - first) * (position - below)


def convert(function: Callable[[Volume], tuple[Array, ...]], channels: int) -> Any:
  """The `onnx.ModelProto` of a function from `make_function`, with this many channels; raises UserError without jax2onnx."""
  try:
    import jax2onnx
  except ImportError as error:
    raise UserError(
      f'ONNX is written by jax2onnx, which is not installed ({error}): pip install ".[onnx]", or give the output a name '
      "without .onnx",
      "output",
    ) from error
  logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of types that it leaves to the runtime
  volume = ("slices", "height", "width", channels)
  model = jax2onnx.to_onnx(function, [volume], model_name="bt_jax", input_names=[INPUT], output_names=list(OUTPUTS))
  for output in model.graph.output:  # outputs of a loop have lost the name of their first axis
    output.type.tensor_type.shape.dim[0].dim_param = volume[0]
  return _without_unused(model)


def _without_unused(model: Any) -> Any:
  """The same model without the nodes and constants that nothing uses, as onnxruntime warns about each."""
  import onnx_ir
  from onnx_ir.passes.common import RemoveUnusedNodesPass

  graph = onnx_ir.from_proto(model)
  RemoveUnusedNodesPass()(graph)
  for inner in graph.graph.subgraphs():  # the pass leaves the constants of loops
    for name, value in list(inner.initializers.items()):
      if not value.uses() and not value.is_graph_output():
        del inner.initializers[name]
  return onnx_ir.to_proto(graph)
