"""Builds a TFDS data set once, under a lock, and reads it back as arrays."""

import abc
import concurrent.futures
import dataclasses
import errno
import functools
import io
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import filelock
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from bt_jax.datasets.channels import Channel, check_reach
from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import UserError, check_local, one_line
from bt_jax.schema import Slices

Builder = tfds.core.DatasetBuilder  # with a `builder_config` that has a title and says what is synthetic


@dataclasses.dataclass(frozen=True)
class SliceId:
  """Where one slice is stored, example `position` of a split of TFDS, and its patient's fold; its label is 1 with a tumour."""

  fold: int
  split: str
  position: int
  patient: str
  case: str
  id: str
  label: int


class Source(abc.ABC):
  """The source of a data set: its description, its builder, and what is read from it once it is built."""

  info: DatasetInfo

  @abc.abstractmethod
  def open_or_build(self) -> Builder:
    """The built data set; builds it first where it is missing; raises UserError where that fails."""

  @abc.abstractmethod
  def read_index(self, builder: Builder) -> list[SliceId]:
    """Every slice's id and position, in the order of cases and slices."""

  @abc.abstractmethod
  def read_patients(self, builder: Builder, patients: set[str]) -> dict[str, dict[str, Any]]:
    """`info.patient_fields` of each of these patients."""

  @abc.abstractmethod
  def read_spacings(self, builder: Builder) -> dict[str, tuple[float, float, float]]:
    """Distances in mm between slices, rows and columns of each stored case; empty unless they are known for all."""


def check_folders(root: str | None, data_dir: str | None) -> None:
  """Raises UserError where there is no folder to keep the data set in, or one of these is an address."""
  if data_dir is None and "TFDS_DATA_DIR" not in os.environ and not os.path.isabs(os.path.expanduser("~")):
    raise UserError("there is no home folder to keep the data set in: name a folder as data.dir", "data.dir")
  for argument, path in (("data.root", root), ("data.dir", data_dir or os.environ.get("TFDS_DATA_DIR"))):
    check_local(path or "", argument)


def build_once(
  open_builder: Callable[[], Builder],
  build: Callable[[Builder], None],
  *,
  before: Callable[[], object] = lambda: None,
  check: Callable[[Builder], None] = lambda builder: None,
) -> Builder:
  """The built data set; only one process builds at a time, others wait for it.

  Args:
    open_builder: opens the data set, built or not.
    build: builds the data set.
    before: called first, under the lock.
    check: called on a data set that was built before.

  Raises:
    UserError: the disk is full or not writable.
  """
  target = pathlib.Path(open_builder().data_path)
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.parent / ".lock"):
      before()
      builder = open_builder()  # only now, as it reads what another process may have just built
      if target.exists():
        check(builder)
      else:
        build(builder)
  except (OSError, RuntimeError) as error:  # TFDS's writer raises RuntimeError where the disk is full
    reason = getattr(error, "strerror", None) or _of_disk(str(error)) or one_line(error)
    raise UserError(
      f"cannot build the data set in {target.parent} ({reason}): nothing half built stays there; free some space, or "
      "choose another folder as data.dir",
      "data.dir",
    ) from error
  return builder


def _of_disk(message: str) -> str | None:
  """The error of the disk in a message of TFDS's writer, which has several lines; None where there is none."""
  known = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS))
  return next((text for text in known if text in message), None)


def prepare(builder: Builder, source: pathlib.Path) -> None:
  """Builds a data set from a folder; what a killed build left behind is removed."""
  for leftover in pathlib.Path(builder.data_path).parent.glob("incomplete.*"):
    shutil.rmtree(leftover)
  tfds.disable_progress_bar()  # one bar over all slices instead of several for each fold
  try:
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=source, try_download_gcs=False)
    )
  finally:
    tfds.enable_progress_bar()
    if builder.progress is not None:  # so that an error has a line of its own
      builder.progress.close()


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads slices of a built data set by id; cheap to send to another process, which opens the files itself.

  Attributes:
    path: path of the built data set.
    info: the data set.
    positions: (split, position) of each id.
    change: applied to every image, [height, width, channels], as it is read.
    context: channels of neighbours that are read too.
    volumes: the ids of each case, in the order of its volume; used only for `context`.
    percentiles: `Slices.volume_percentiles` of each case; empty where they are not needed.
  """

  path: str
  info: DatasetInfo
  positions: dict[str, tuple[str, int]]
  change: Callable[[np.ndarray], np.ndarray]
  context: tuple[Channel, ...] = ()
  volumes: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  percentiles: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(
    cls,
    builder: Builder,
    info: DatasetInfo,
    index: list[SliceId],
    change: Callable[[np.ndarray], np.ndarray] = np.asarray,
    context: tuple[Channel, ...] = (),
  ) -> "Reader":
    """A reader of a built data set with the index of its slices; raises UserError where a volume is too short for `context`."""
    positions = {entry.id: (entry.split, entry.position) for entry in index}
    volumes: dict[str, list[str]] = {}
    for entry in index if context else ():
      volumes.setdefault(entry.case, []).append(entry.id)
    for case, members in volumes.items():
      check_reach(context, len(members), case)
    return cls(str(builder.data_path), info, positions, change, context=context, volumes=volumes)

  def read(self, ids: Sequence[str], *, progress: bool = False) -> Slices:
    """Decodes the slices with these ids, in this order, into memory (0.26 MB each for LGG); `progress` shows a bar."""
    slices = self._read_with_context(ids, progress=progress)
    if not self.percentiles:
      return slices
    by_slice = [self.percentiles[case] for case in slices.case]
    shape = (-1, len(self.info.channels), 4)
    return dataclasses.replace(slices, volume_percentiles=np.array(by_slice, np.float32).reshape(shape))

  def _read_with_context(self, ids: Sequence[str], *, progress: bool) -> Slices:
    if not self.context:
      return self._read(ids, progress=progress)
    near = {name: self._neighbours(name) for name in ids}
    every = self._read(list(dict.fromkeys([*ids, *itertools.chain(*near.values())])), progress=progress)
    index_of = {name: number for number, name in enumerate(every.ids)}
    own = np.array([index_of[name] for name in ids], int)
    context = np.stack(
      [
        every.image[[index_of[near[name][number]] for name in ids], ..., channel.sequence]
        for number, channel in enumerate(self.context)
      ],
      axis=-1,
    )
    arrays = {name: array[own] for name, array in vars(every).items() if array is not None}
    return Slices(**arrays, context=context)

  def _neighbours(self, name: str) -> list[str]:
    """The slice of each channel of `context`; at the ends of the volume the outermost slice repeats."""
    volume = self.volumes[name.partition("/")[0]]
    own = volume.index(name)
    return [volume[min(max(own + channel.offset, 0), len(volume) - 1)] for channel in self.context]

  def _read(self, ids: Sequence[str], *, progress: bool) -> Slices:
    size, channels, classes = self.info.size, len(self.info.channels), len(self.info.classes)
    image = np.empty((len(ids), size, size, channels), self.info.dtype)
    mask = np.empty((len(ids), size, size, classes), np.uint8)

    def read(index: int) -> tuple[str, str, int, np.ndarray, np.ndarray]:
      split, position = self.positions[ids[index]]
      example = _source(self.path, split)[position]
      image[index] = self.change(_pixels(example["image"]))
      mask[index] = _pixels(example["mask"]).reshape(mask.shape[1:])
      case, patient = example["case"].decode(), example["patient"].decode()
      return case, patient, example["slice"], example["volume_mean"], example["volume_std"]

    with concurrent.futures.ThreadPoolExecutor() as pool:
      results = pool.map(read, range(len(ids)))
      rows = list(
        tqdm(
          results, total=len(ids), desc="reading slices", unit="slice", leave=False, disable=None if progress else True
        )
      )
    case, patient, number, mean, std = zip(*rows, strict=True) if rows else ((),) * 5
    statistics = (np.array(column, np.float32).reshape(-1, channels) for column in (mean, std))
    return Slices(np.array(case), np.array(patient), np.array(number, np.int32), image, mask, *statistics)


@functools.cache
def _source(path: str, split: str) -> Sequence[dict[str, Any]]:
  builder = tfds.builder_from_directory(path)
  pictures = [name for name, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
  return builder.as_data_source(split, decoders=dict.fromkeys(pictures, tfds.decode.SkipDecoding()))


def _pixels(stored: bytes | np.ndarray) -> np.ndarray:
  """An image, decoded here where it is a PNG, for which TFDS would need OpenCV."""
  return np.asarray(Image.open(io.BytesIO(stored))) if isinstance(stored, bytes) else stored
