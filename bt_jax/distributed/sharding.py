"""Compiles the pure steps for all devices, by `jit` over a mesh or by `pmap`, and shards arrays over the devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bt_jax.distributed import global_batch, programs
from bt_jax.errors import UserError, choose

PyTree = Any


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A one-dimensional mesh of devices, by default all devices of all hosts; its axis is the batch."""
  return jax.make_mesh(
    (len(devices or jax.devices()),), (global_batch.AXIS,), devices=devices, axis_types=(jax.sharding.AxisType.Auto,)
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding that keeps a full copy of an array on each device."""
  return NamedSharding(mesh, PartitionSpec())


def _cut(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec(global_batch.AXIS))


def check_batch_size(mesh: Mesh, name: str, batch_size: int, pieces: int = 1) -> None:
  """Raises UserError unless the batch divides evenly over the devices and, on each, into `pieces` microbatches."""
  unit = mesh.size * pieces
  if batch_size < 1 or batch_size % unit:
    lower = batch_size // unit * unit
    sizes = f"{lower} or {lower + unit}" if lower > 0 else f"{unit} or more"
    of = f"the number of devices ({mesh.size})" + (f" times train.accumulate ({pieces})" if pieces > 1 else "")
    raise UserError(f"{name} is {batch_size}, expected a positive multiple of {of}: take {sizes}")


def _compile_jit(function: Callable, mesh: Mesh, *, cut: tuple[PyTree, ...], cut_out: bool, train: bool) -> Callable:
  layouts = {True: _cut(mesh), False: replicated(mesh)}
  return jax.jit(
    function,
    in_shardings=jax.tree.map(layouts.get, cut),
    out_shardings=layouts[cut_out],
    donate_argnums=0 if train else (),
    compiler_options=_gradient_options() if train else None,
  )


@functools.cache
def _gradient_options() -> dict[str, str] | None:
  """Compiler options for a step with gradients on a CPU.

  YNNPACK is fast at a convolution's forward pass. But it computes the gradient of the kernel as a convolution with a
  window as large as the image, several times slower than XLA. So it gets all operations that it handles by default
  except convolutions. None if the compiler has no such option.
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


def _compile_pmap(function: Callable, mesh: Mesh, *, cut: tuple[PyTree, ...], cut_out: bool, train: bool) -> Callable:
  mapped = jax.pmap(
    function,
    axis_name=global_batch.AXIS,
    devices=list(mesh.devices.flat),
    in_axes=jax.tree.map(lambda which: 0 if which else None, cut),
    out_axes=0 if cut_out else None,
    donate_argnums=0 if train else (),
  )
  # pmap requires a leading axis of devices.
  split = jax.jit(
    lambda tree: jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), tree), out_shardings=_cut(mesh)
  )
  join = jax.jit(lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree), out_shardings=_cut(mesh))

  def call(*arguments: PyTree) -> PyTree:
    out = mapped(*jax.tree.map(lambda which, part: split(part) if which else part, cut, arguments))
    return join(out) if cut_out else out

  return call


COMPILERS = {"jit": _compile_jit, "pmap": _compile_pmap}


def compile_step(
  how: str, function: Callable, mesh: Mesh, *, cut: tuple[PyTree, ...], cut_out: bool = False, train: bool = False
) -> Callable:
  """Compiles a step for all devices of the mesh; the result does not depend on their number, up to rounding.

  Args:
    how: `jit`, where the compiler partitions one program over the devices, or `pmap`, where each device runs the
      program on its shard.
    function: the step; its operations over the batch use `global_batch`.
    mesh: the devices.
    cut: for each argument, or for each part of it, whether it is sharded over the devices along its first axis, the
      batch; otherwise it is replicated.
    cut_out: the same for the returned value.
    train: whether it is a training step: its first argument is donated, and on a CPU it is compiled for gradients.

  Raises:
    UserError: `how` is neither, or is `pmap` on several hosts.
  """
  compiler = choose("parallel", how, COMPILERS)
  if how == "pmap" and jax.process_count() > 1:
    raise UserError(
      f"parallel=pmap is for one host, and there are {jax.process_count()}: leave parallel=jit", "parallel=jit"
    )
  return compiler(function, mesh, cut=cut, cut_out=cut_out, train=train)


def compile_kept(function: Callable, mesh: Mesh, identity: str, *, cut: Sequence[bool]) -> Callable:
  """`compile_step("jit", ...)` for a step without gradients whose traced program is kept, see `programs.jit`."""
  layouts = tuple(_cut(mesh) if which else replicated(mesh) for which in cut)
  return programs.jit(function, identity, in_shardings=layouts, out_shardings=replicated(mesh))


def local_rows(mesh: Mesh, count: int) -> np.ndarray:
  """The indices of those of `count` examples, sharded over all devices, that are on this host: int, in order."""
  indices_of = _cut(mesh).addressable_devices_indices_map((count,))
  return np.sort(np.concatenate([np.arange(count)[where] for where in indices_of.values()]))


def lay_out(mesh: Mesh, batch: dict[str, np.ndarray], count: int) -> dict[str, jax.Array]:
  """Makes the global arrays of a batch of `count` examples, sharded over all devices, from each host's `local_rows`."""
  rows, cut = local_rows(mesh, count), _cut(mesh)

  def global_array(local: np.ndarray) -> jax.Array:
    def part(index: tuple[slice, ...]) -> np.ndarray:
      start, stop, _ = index[0].indices(count)
      first = np.searchsorted(rows, start)
      return local[first : first + stop - start]

    return jax.make_array_from_callback((count, *local.shape[1:]), cut, part)

  return {name: global_array(array) for name, array in batch.items()}


def whole_on_each(mesh: Mesh, tree: PyTree) -> PyTree:
  """Replicates arrays that are sharded over all devices."""
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def fetch(tree: PyTree) -> PyTree:
  """Gathers arrays that are sharded over the devices of all hosts into full NumPy arrays on each host."""
  whole_of = lambda x: x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)
  return jax.tree.map(lambda x: np.asarray(whole_of(x)), tree)
