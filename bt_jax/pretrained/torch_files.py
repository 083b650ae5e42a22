"""Reads the tensors of a `.pth` file, in both formats of `torch.save`, without PyTorch and without running code.

This avoids installing PyTorch, which is a hundred times larger than the weights.
"""

import collections
import dataclasses
import io
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
  "FloatStorage": np.float32,
  "DoubleStorage": np.float64,
  "HalfStorage": np.float16,
  "BFloat16Storage": ml_dtypes.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}


@dataclasses.dataclass
class _Storage:
  """The values that tensors are views of; in the older format they follow after all tensors."""

  dtype: Any
  size: int
  values: np.ndarray | None = None


@dataclasses.dataclass
class Tensor:
  """A view of a storage.

  Attributes:
    storage: the values.
    offset: index of the first value.
    shape: shape of the tensor.
    strides: strides in values, not bytes.
  """

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def numpy(self) -> np.ndarray:
    """The values, with bfloat16 as float32; raises ValueError if the tensor does not fit into its storage."""
    last = self.offset + sum((count - 1) * stride for count, stride in zip(self.shape, self.strides, strict=True))
    if self.storage.values is None or min(self.offset, *self.strides, *self.shape, 0) < 0:
      raise ValueError("a tensor has no numbers")
    numbers = math.prod(self.shape)
    if numbers > len(self.storage.values) or (numbers and last >= len(self.storage.values)):
      raise ValueError("a tensor is larger than its numbers")
    values = self.storage.values[self.offset :]
    steps = [stride * values.itemsize for stride in self.strides]
    array = np.lib.stride_tricks.as_strided(values, self.shape, steps).copy()
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def read(path: pathlib.Path) -> Any:
  """Reads what `torch.save` wrote: dictionaries, lists, numbers and strings as they are, and tensors as `Tensor`.

  Raises:
    pickle.UnpicklingError: the file holds anything else, which could be code.
    Exception: of many types, if the file is damaged.
  """
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      return _read_zip(archive)
  with open(path, "rb") as file:
    return _read_legacy(file)


def _read_zip(archive: zipfile.ZipFile) -> Any:
  (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
  folder = name.removesuffix("data.pkl")
  storages: dict[str, _Storage] = {}

  def storage(key: str, dtype: Any, size: int) -> _Storage:
    if key not in storages:
      values = np.frombuffer(read_stored(archive, f"{folder}data/{key}"), dtype)
      storages[key] = _Storage(dtype, size, values)
    return storages[key]

  return _Unpickler(io.BytesIO(read_stored(archive, name)), storage).load()


def read_stored(archive: zipfile.ZipFile, name: str) -> bytes:
  """The bytes of a member; raises ValueError if it is compressed, which neither PyTorch nor Keras does.

  So reading takes no more memory than the size of the file.
  """
  entry = archive.getinfo(name)
  if entry.file_size > entry.compress_size:
    raise ValueError(f"{name} is compressed, {entry.file_size} bytes into {entry.compress_size}")
  return archive.read(entry)


def _read_legacy(file: io.BufferedIOBase) -> Any:
  """Reads three pickles of a header, one of the content and one of the storage keys, then each storage with its size."""
  storages: dict[str, _Storage] = {}

  def storage(key: str, dtype: Any, size: int) -> _Storage:
    return storages.setdefault(key, _Storage(dtype, size))

  magic, _, system, content, keys = (_Unpickler(file, storage).load() for _ in range(5))
  if magic != _LEGACY_MAGIC or not system["little_endian"]:
    raise ValueError("not what torch.save writes")
  for key in keys:
    (size,) = np.frombuffer(file.read(8), "<i8")
    dtype = np.dtype(storages[key].dtype)
    if size != storages[key].size:
      raise ValueError("a tensor has another size than it says")
    storages[key].values = np.frombuffer(file.read(int(size) * dtype.itemsize), dtype)
  return content


class _Unpickler(pickle.Unpickler):
  """Resolves only the names of tensors and ordered dictionaries."""

  def __init__(self, file: io.BufferedIOBase, storage: Callable[[str, Any, int], _Storage]):
    super().__init__(file, encoding="utf-8")
    self._storage = storage

  def find_class(self, module: str, name: str) -> Any:
    if module in ("torch", "torch.storage") and name in _DTYPES:
      return _DTYPES[name]
    known = {
      ("collections", "OrderedDict"): collections.OrderedDict,
      ("torch", "Size"): tuple,
      ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: Tensor(
        storage, offset, tuple(shape), tuple(strides)
      ),
      ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    }
    if (module, name) not in known:
      raise pickle.UnpicklingError(f"it holds {module}.{name}")
    return known[module, name]

  def persistent_load(self, pid: Any) -> _Storage:
    kind, dtype, key, _, size, *_ = pid
    if kind != "storage":
      raise pickle.UnpicklingError(f"it holds a {kind}")
    return self._storage(key, dtype, size)
