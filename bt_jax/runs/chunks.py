"""Slices of a subset in chunks of whole patients, so that the memory of validation and test does not grow with their number."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from bt_jax.evaluation.records import Record
from bt_jax.runs.run_data import Data
from bt_jax.schema import Slices, slice_id

CHUNK_BYTES = 2**27  # of slices with their predictions; a chunk has one patient or more
KEPT_BYTES = 2**29  # subsets up to this size stay in memory
T, S = TypeVar("T"), TypeVar("S")


class Passes(Generic[T]):
  """Chunks that may be iterated several times: they are made anew in each pass or, with `keep`, only in the first.

  >>> made = []
  >>> kept = Passes(lambda: (made.append(number) or number for number in range(3)), keep=True)
  >>> [sum(kept), sum(kept), made]
  [3, 3, [0, 1, 2]]
  """

  def __init__(self, make: Callable[[], Iterator[T]], *, keep: bool):
    self._make, self._kept = make, None
    self.keep = keep

  def __iter__(self) -> Iterator[T]:
    if not self.keep:
      return self._make()
    if self._kept is None:
      self._kept = list(self._make())
    return iter(self._kept)

  def map(self, function: Callable[[T], S]) -> "Passes[S]":
    """The results of a function for each chunk, kept where the chunks are."""
    return Passes(lambda: map(function, self), keep=self.keep)


def read(data: Data, subset: str) -> Passes[Slices]:
  """The slices of `train`, `validation` or `test`, in chunks of whole patients, in the order of the split."""
  ids = getattr(data.split, subset)
  info, near = data.reader.info, len(data.reader.context)
  predicted = np.dtype(np.float32).itemsize * len(info.classes)
  slice_bytes = info.slice_bytes + info.size**2 * (predicted + near * np.dtype(info.dtype).itemsize)
  chunks = list(_of_whole_patients(data, ids, max(CHUNK_BYTES // slice_bytes, 1)))
  make = lambda: (data.reader.read(chunk, progress=True) for chunk in chunks)
  return Passes(make, keep=len(ids) * slice_bytes <= KEPT_BYTES)


def _of_whole_patients(data: Data, ids: Sequence[str], size: int) -> Iterator[list[str]]:
  """The ids in lists of at most `size`, unless a patient alone has more."""
  patient_of = {entry.id: entry.patient for entry in data.index}
  of_patient: dict[str, list[str]] = {}
  for name in ids:
    of_patient.setdefault(patient_of[name], []).append(name)
  chunk: list[str] = []
  for members in of_patient.values():
    if chunk and len(chunk) + len(members) > size:
      yield chunk
      chunk = []
    chunk += members
  if chunk:
    yield chunk


def in_order(rows: list[Record], ids: Sequence[str]) -> list[Record]:
  """The records in the order of these ids, each of which has one for each class."""
  position = {name: index for index, name in enumerate(ids)}
  of_rows = [position[slice_id(row["case"], row["slice"])] for row in rows]
  if {*of_rows} != {*position.values()}:
    raise RuntimeError("the slices read are not those of the split")
  return [rows[index] for index in np.argsort(of_rows, kind="stable")]
