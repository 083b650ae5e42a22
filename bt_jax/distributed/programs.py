"""Traced programs, kept beside JAX's compilation cache, so that a later process need not trace them again.

JAX keeps what XLA compiled, but finds it only by the program, which Python traces and lowers anew in every process. Here
the program itself is kept, as `jax.export` serialises it.
"""

import contextlib
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from jax.sharding import Sharding

from bt_jax import files

_PACKAGE = pathlib.Path(__file__).parent.parent
_LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "optax")  # what a program is traced with
_FOLDER = "bt_jax_programs"


def _sources() -> str:
  """The SHA-256 of all modules of bt_jax and the versions of the libraries."""
  paths = sorted(_PACKAGE.rglob("*.py"))
  versions = [f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES]
  return f"{files.sha256_of(paths)} {' '.join(versions)}"


_SOURCES = _sources()  # now: a program that runs for days must not write under the name of a newer installation


def is_ours(value: Callable | type) -> bool:
  """Whether a function or class is one of bt_jax, whose sources are part of the name of each program."""
  return value.__module__.partition(".")[0] == _PACKAGE.name


def jit(
  function: Callable,
  identity: str,
  *,
  in_shardings: Sequence[Sharding] = (),
  out_shardings: Sharding | None = None,
) -> Callable:
  """`jax.jit(function)`, which takes the program from an earlier process where there is one; keyword arguments are static.

  A program is named by everything that it depends on: the identity, the sources of bt_jax, versions of libraries, JAX's
  settings, the devices, and the structure, shapes and types of the arguments. A file that is damaged or of another name
  is ignored and written again. Without a compilation cache, programs are kept in memory alone.

  Args:
    function: a pure function of arrays, in tuples, lists or dictionaries; it may return named tuples that `jax.export`
      knows.
    identity: everything that the function depends on besides its arguments and the sources of bt_jax; empty if that is
      not known, and then nothing is kept.
    in_shardings: the sharding of each positional argument; empty for one device.
    out_shardings: that of the returned arrays.
  """
  programs: dict[Any, Callable] = {}

  def call(*arguments: Any, **static: Any) -> Any:
    leaves, tree = jax.tree.flatten(arguments)
    shapes = tuple((np.shape(leaf), str(jax.numpy.result_type(leaf))) for leaf in leaves)
    described = (tree, shapes, tuple(sorted(static.items())), _surroundings())
    if described not in programs:
      options = {}
      if in_shardings:
        of_leaves = jax.tree.broadcast(tuple(in_shardings), arguments)
        options = {"in_shardings": tuple(jax.tree.leaves(of_leaves)), "out_shardings": out_shardings}
      traced = jax.jit(lambda *leaves: function(*jax.tree.unflatten(tree, leaves), **static), **options)
      folder = _folder() if identity else None
      if folder is not None:
        name = f"{identity} {described} {in_shardings} {out_shardings}"
        traced = jax.jit(_exported(folder, name, traced, leaves).call, **options)
      programs[described] = traced
    return programs[described](*leaves)

  return call


def _folder() -> pathlib.Path | None:
  """Where programs are kept; None where JAX keeps none in a folder of this machine."""
  cache = jax.config.jax_compilation_cache_dir
  if not cache or not jax.config.jax_enable_compilation_cache or "://" in cache or jax.process_count() > 1:
    return None
  return pathlib.Path(cache) / _FOLDER


def _surroundings() -> str:
  """What a program depends on besides the function and its arguments."""
  settings = {name: value for name, value in jax.config.values.items() if "cache" not in name}
  devices = [(device.platform, device.device_kind) for device in jax.local_devices()]
  return f"{_SOURCES} {devices} {sorted(settings.items())}"


def _exported(folder: pathlib.Path, name: str, traced: Callable, leaves: Sequence[Any]) -> jax.export.Exported:
  """The program of this name, traced and kept if it is not there."""
  digest = hashlib.sha256(name.encode())
  path = folder / digest.hexdigest()
  with contextlib.suppress(OSError):
    content = path.read_bytes()
    if content[: digest.digest_size] == _seal(digest.digest(), content[digest.digest_size :]):
      return jax.export.deserialize(bytearray(content[digest.digest_size :]))
  exported = jax.export.export(traced)(*leaves)
  content = bytes(exported.serialize())
  with contextlib.suppress(OSError):  # a cache is optional
    files.write_bytes(path, _seal(digest.digest(), content) + content)
  return exported


def _seal(name: bytes, content: bytes) -> bytes:
  return hashlib.sha256(name + content).digest()
