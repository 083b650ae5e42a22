"""Compiles the pure steps for all devices, by `jit` over a mesh or by `pmap`, and lays arrays out for them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bt_jax.distributed import global_batch
from bt_jax.errors import UserError, choose

PyTree = Any


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A line of devices, by default of all there are on all hosts; its axis is the batch."""
  return jax.make_mesh(
    (len(devices or jax.devices()),), (global_batch.AXIS,), devices=devices, axis_types=(jax.sharding.AxisType.Auto,)
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Puts a whole array on each device."""
  return NamedSharding(mesh, PartitionSpec())


def _cut(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec(global_batch.AXIS))


def check_batch_size(mesh: Mesh, name: str, batch_size: int, pieces: int = 1) -> None:
  """Raises UserError where the batch is empty or does not divide over the devices, and there into `pieces`."""
  unit = mesh.size * pieces
  if batch_size < 1 or batch_size % unit:
    lower = batch_size // unit * unit
    sizes = f"{lower} or {lower + unit}" if lower > 0 else f"{unit} or more"
    of = f"the number of devices ({mesh.size})" + (f" times train.accumulate ({pieces})" if pieces > 1 else "")
    raise UserError(f"{name} is {batch_size}, expected a positive multiple of {of}: take {sizes}")


def _compile_jit(function: Callable, mesh: Mesh, *, cut: Sequence[bool], cut_out: bool, train: bool) -> Callable:
  layouts = {True: _cut(mesh), False: replicated(mesh)}
  return jax.jit(
    function,
    in_shardings=tuple(layouts[which] for which in cut),
    out_shardings=layouts[cut_out],
    donate_argnums=0 if train else (),
    compiler_options=_gradient_options() if train else None,
  )


@functools.cache
def _gradient_options() -> dict[str, str] | None:
  """How a step with gradients is compiled on a CPU.

  YNNPACK, which is fast at a convolution's forward pass, takes the gradient of its kernel for a convolution with a window
  as large as the picture, several times slower than XLA's own: of what is handed to it by default, convolutions are left
  out. None where the compiler has no such option.
  """
  if jax.default_backend() != "cpu":
    return None
  kinds = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("DOT", "REDUCE", "INDIVIDUAL_DOT"))
  options = {"xla_cpu_experimental_ynn_fusion_type": kinds}
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError:
    return None
  return options


def _compile_pmap(function: Callable, mesh: Mesh, *, cut: Sequence[bool], cut_out: bool, train: bool) -> Callable:
  mapped = jax.pmap(
    function,
    axis_name=global_batch.AXIS,
    devices=list(mesh.devices.flat),
    in_axes=tuple(0 if which else None for which in cut),
    out_axes=0 if cut_out else None,
    donate_argnums=0 if train else (),
  )
  # pmap wants a leading axis of devices.
  split = jax.jit(
    lambda tree: jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), tree), out_shardings=_cut(mesh)
  )
  join = jax.jit(lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree), out_shardings=_cut(mesh))

  def call(*arguments: PyTree) -> PyTree:
    out = mapped(*(split(argument) if which else argument for argument, which in zip(arguments, cut, strict=True)))
    return join(out) if cut_out else out

  return call


COMPILERS = {"jit": _compile_jit, "pmap": _compile_pmap}


def compile_step(
  how: str, function: Callable, mesh: Mesh, *, cut: Sequence[bool], cut_out: bool = False, train: bool = False
) -> Callable:
  """Compiles a step for all devices of the mesh; what it computes is the same on any number of them, up to rounding.

  Args:
    how: `jit`, where the compiler cuts one program over the devices, or `pmap`, where each device runs it on its part.
    function: where it goes over the batch, it does so by `global_batch`.
    mesh: the devices.
    cut: of each argument, whether its first axis is the batch, cut over the devices; otherwise it is whole on each.
    cut_out: the same of what it returns.
    train: whether it is a training step: its first argument is consumed, and on a CPU it is compiled for gradients.

  Raises:
    UserError: no such way, or `pmap` on several hosts.
  """
  compiler = choose("parallel", how, COMPILERS)
  if how == "pmap" and jax.process_count() > 1:
    raise UserError(
      f"parallel=pmap is for one host, and there are {jax.process_count()}: leave parallel=jit", "parallel=jit"
    )
  return compiler(function, mesh, cut=cut, cut_out=cut_out, train=train)


def local_rows(mesh: Mesh, count: int) -> np.ndarray:
  """Which of `count` examples, cut over all devices, are on those of this host: int, in order."""
  places = _cut(mesh).addressable_devices_indices_map((count,))
  return np.sort(np.concatenate([np.arange(count)[where] for where in places.values()]))


def lay_out(mesh: Mesh, batch: dict[str, np.ndarray], count: int) -> dict[str, jax.Array]:
  """The arrays of a batch of `count` examples, cut over all devices, out of each host's `local_rows` of them."""
  rows, cut = local_rows(mesh, count), _cut(mesh)

  def global_array(local: np.ndarray) -> jax.Array:
    def part(index: tuple[slice, ...]) -> np.ndarray:
      start, stop, _ = index[0].indices(count)
      at = np.searchsorted(rows, start)
      return local[at : at + stop - start]

    return jax.make_array_from_callback((count, *local.shape[1:]), cut, part)

  return {name: global_array(array) for name, array in batch.items()}


def whole_on_each(mesh: Mesh, tree: PyTree) -> PyTree:
  """Arrays that are cut over all devices, whole on each of them."""
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def fetch(tree: PyTree) -> PyTree:
  """The whole of arrays that are cut over the devices of all hosts, on each host."""
  whole_of = lambda x: x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)
  return jax.tree.map(lambda x: np.asarray(whole_of(x)), tree)
