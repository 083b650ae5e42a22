"""A trained network in one `.safetensors` file: its arrays, kernels in half precision, and its checkpoint's record."""

import json
import pathlib
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from bt_jax import files
from bt_jax.errors import UserError, one_line
from bt_jax.training.train_state import PyTree, tree_hash

SUFFIX = ".safetensors"
_RECORD, _SEAL = "bt_jax", "record_sha256"
_FORMAT = 1  # of the file; incremented when earlier versions could not read it
_LEFT_OUT = ("history", _SEAL, "format")  # of the checkpoint's record
_REMEDY = "get it again, or write it again"


def write(path: pathlib.Path, variables: PyTree, record: dict[str, Any]) -> pathlib.Path:
  """Writes a network, atomically.

  Kernels are stored as float16, all other arrays, which are few and need their range, as they are.

  Args:
    path: path of the file, which ends in `SUFFIX`.
    variables: `params` and `batch_stats`.
    record: the record of its checkpoint, see `checkpoint_record.Record`.

  Raises:
    UserError: an array does not fit into half precision.
  """
  with np.errstate(over="ignore"):  # what becomes infinite is reported below
    arrays = {
      name: np.asarray(array, np.float16) if np.ndim(array) > 1 else np.asarray(array)
      for name, array in flax.traverse_util.flatten_dict(variables, sep="/").items()
    }
  if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
    raise UserError(f"{bad[0]} has values beyond half precision: {path} was not written")
  kept = {name: value for name, value in record.items() if name not in _LEFT_OUT}
  kept |= {"format": _FORMAT, "arrays_sha256": tree_hash(_nested(arrays))}
  metadata = {_RECORD: json.dumps(files.sealed(kept, _SEAL))}
  return files.write_bytes(path, safetensors.numpy.save(arrays, metadata))


def is_network(path: pathlib.Path) -> bool:
  """Whether a file was written by `write`."""
  if not path.name.lower().endswith(SUFFIX) or not path.is_file():
    return False
  try:
    with safetensors.safe_open(path, "numpy") as file:
      return _RECORD in (file.metadata() or {})
  except safetensors.SafetensorError:
    return False


def read(path: pathlib.Path) -> tuple[PyTree, dict[str, Any]]:
  """The variables of a network, float32, and its record; the inverse of `write` but for the precision.

  Raises:
    UserError: the file cannot be read, holds no network of ours, or was changed since it was written.
  """
  try:
    with safetensors.safe_open(path, "numpy") as file:
      metadata = file.metadata() or {}
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except OSError as error:
    raise UserError(
      f"{path} cannot be read ({error.strerror or one_line(error)}): repair the disk or the permissions"
    ) from error
  except safetensors.SafetensorError as error:
    raise files.damaged(path, one_line(error), _REMEDY) from error
  if _RECORD not in metadata:
    raise UserError(
      f"{path} holds weights, and not a trained network with its record: name the folder of a run, an exported file, or "
      "start a training from it, by model.pretrained",
      "model.pretrained",
    )
  record = files.parse_json(metadata[_RECORD].encode(), path, dict, _REMEDY)
  if _SEAL not in record:
    raise files.damaged(path, f"its record lacks {_SEAL}", _REMEDY)
  files.check_seal(record, path, _REMEDY, _SEAL)
  files.check_format(record, _FORMAT, path, record.get("bt_jax", "?"), "write it again")
  variables = _nested(arrays)
  if tree_hash(variables) != record.get("arrays_sha256"):
    raise files.damaged(path, "its arrays are not those that were saved", _REMEDY)
  return variables, {name: value for name, value in record.items() if name != _SEAL}


def _nested(arrays: dict[str, np.ndarray]) -> PyTree:
  tree = flax.traverse_util.unflatten_dict(arrays, sep="/")
  return jax.tree.map(lambda array: array.astype(np.float32), tree)
