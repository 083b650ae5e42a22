"""Compiles the pure steps for all devices: the batch is cut over them, everything else is on each."""

from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bt_jax.errors import UserError


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A line of devices, by default of all there are; its axis is the batch."""
  return jax.make_mesh(
    (len(devices or jax.devices()),), ("batch",), devices=devices, axis_types=(jax.sharding.AxisType.Auto,)
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Puts a whole array on each device."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch_size(mesh: Mesh, name: str, batch_size: int) -> None:
  """Raises UserError where the batch is empty or does not divide over the devices."""
  if batch_size < 1 or batch_size % mesh.size:
    lower = batch_size // mesh.size * mesh.size
    sizes = f"{lower} or {lower + mesh.size}" if lower > 0 else f"{mesh.size} or more"
    raise UserError(
      f"{name} is {batch_size}, expected a positive multiple of the number of devices ({mesh.size}): take {sizes}"
    )


def compile_train_step(train_step: Callable, mesh: Mesh) -> Callable:
  """The step of `make_train_step`, compiled; batch norm and the objective see the whole batch. It consumes its state."""
  everywhere, cut = replicated(mesh), NamedSharding(mesh, PartitionSpec("batch"))
  return jax.jit(train_step, in_shardings=(everywhere, everywhere, cut), out_shardings=everywhere, donate_argnums=0)


def compile_predict_step(predict_step: Callable, mesh: Mesh) -> Callable:
  """The step of `make_predict_step`, compiled."""
  everywhere, cut = replicated(mesh), NamedSharding(mesh, PartitionSpec("batch"))
  return jax.jit(predict_step, in_shardings=(everywhere, everywhere, cut), out_shardings=cut)
