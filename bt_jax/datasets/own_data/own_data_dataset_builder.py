"""The TFDS builder of a user's own images and masks; made by `OwnSource`, which knows the folder."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import case_volumes, data_description, storing
from bt_jax.datasets.own_data.collection import Case, Collection, Labels, check_hint
from bt_jax.errors import UserError
from bt_jax.scans import resampling
from bt_jax.scans.intensities import extremes
from bt_jax.schema import slice_id

SPLIT = "cases"  # the only split of TFDS: patients are divided into folds when it is read
_AHEAD = 2  # cases read while one is written
_FILES = 256  # at most


@dataclasses.dataclass(eq=False, kw_only=True)
class OwnConfig(tfds.core.BuilderConfig):
  """A user's own folder.

  Attributes:
    title: what tables and figures call the data.
    info: the data set.
    collection: the cases.
    labels: labels of their masks.
    synthetic: the images are computed, not measured.
  """

  title: str
  info: DatasetInfo | None = dataclasses.field(default=None, repr=False)  # TFDS logs a configuration
  collection: Collection | None = dataclasses.field(default=None, repr=False)
  labels: Labels | None = dataclasses.field(default=None, repr=False)
  synthetic: bool = False


class Builder(tfds.core.ShardBasedBuilder):
  """Axial slices of a user's own cases, 16 bits, on one square grid, with a mask for each class."""

  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES = {
    "1.1.0": "Cases in one folder are of one patient; of two classes that exclude each other a pixel has one.",
    "1.0.0": "First release.",
  }
  BUILDER_CONFIGS = []
  progress: tqdm | None = None  # of the current build

  def _info(self) -> tfds.core.DatasetInfo:
    info = self.builder_config.info
    grid, channels = (info.size, info.size), len(info.channels)
    tensor = lambda shape, dtype, doc: tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib", doc=doc)
    by_channel = tfds.features.Tensor(shape=(channels,), dtype=np.float32, doc="By channel, over the volume, 0..255.")
    return self.dataset_info_from_configs(
      description=f"{self.builder_config.title}: images and masks of a user's own, as bt_jax stores them.",
      features=tfds.features.FeaturesDict(
        {
          "image": tensor((*grid, channels), np.uint16, ", ".join(info.channels)),
          "mask": tensor((*grid, len(info.classes)), np.uint8, f"1 where the class is: {', '.join(info.classes)}"),
          "label": tfds.features.ClassLabel(names=["no_tumor", "tumor"]),
          "patient": tfds.features.Text(),
          "case": tfds.features.Text(),
          "slice": tfds.features.Scalar(np.int32, doc="Number of the slice in its volume, from 1."),
          "volume_mean": by_channel,
          "volume_std": by_channel,
        }
      ),
      supervised_keys=("image", "mask"),
      disable_shuffling=True,  # slices stay in the order of their volume
      metadata=tfds.core.MetadataDict(),
    )

  def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[Callable]]:
    """A file for every few cases, in their order; each is written as it comes, so a case is all that memory holds."""
    count = len(self.builder_config.collection.cases)
    volumes, cases_in_file = self._volumes(), -(-count // _FILES)
    lengths = [*[cases_in_file] * (-(-count // cases_in_file) - 1), None]  # the last one takes what is left
    return {SPLIT: [functools.partial(_examples, itertools.islice(volumes, length)) for length in lengths]}

  def _volumes(self) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Cases as they are stored, in order; raises UserError for the first one that cannot be read."""
    config, cases = self.builder_config, []
    collection = config.collection
    self.progress = tqdm(total=len(collection.cases), desc=f"building {self.info.full_name}", unit="case", disable=None)
    case_of: dict[str, Case] = {}
    as_they_are: dict[str, bool] = {}
    for case, volume in _in_order(config):
      as_they_are[case.name] = volume["as_it_is"]
      cases.append(_about(case, volume))
      other = case_of.setdefault(volume["digest"], case)
      if other.patient != case.patient:
        raise case_volumes.same_image(case, other)
      yield case, volume
      self.progress.update()
    seen = np.any([about["classes"] for about in cases], axis=0)
    if not seen.all():
      raise data_description.absent(collection, [config.info.classes[number] for number in np.flatnonzero(~seen)])
    self.info.metadata.update(info=config.info.to_json(), cases=cases)
    self.progress.close()
    for note in data_description.note_scales(as_they_are, config.info.window):
      print(f"warning: {note}")


def _in_order(config: OwnConfig) -> Iterator[tuple[Case, dict[str, Any]]]:
  """Cases in the form in which they are stored, some of them read ahead."""
  with concurrent.futures.ThreadPoolExecutor(_AHEAD) as pool:
    waiting = collections.deque()
    for case in config.collection.cases:
      waiting.append((case, pool.submit(_read, case, config)))
      if len(waiting) > _AHEAD:
        first, volume = waiting.popleft()
        yield first, volume.result()
    for case, volume in waiting:
      yield case, volume.result()


def _read(case: Case, config: OwnConfig) -> dict[str, Any]:
  try:
    volume, numbers = case_volumes.read_case(case, config.info.channels)
    masks = case_volumes.to_masks(numbers, config.labels)
  except UserError as error:
    raise check_hint(error) from None
  image, masks = storing.to_stored(volume, masks, config.info)
  spacing = storing.stored_spacing(volume, config.info.size)
  return {
    "image": image,
    "mask": masks,
    "spacing_mm": spacing,
    "statistics": storing.statistics(image),
    "digest": case_volumes.digest(volume),
    "as_it_is": bool(resampling.stays_as_it_is(*extremes(volume.values))),
  }


def _about(case: Case, volume: dict[str, Any]) -> dict[str, Any]:
  """The entry of a case in the index of the data set."""
  return {
    "case": case.name,
    "patient": case.patient,
    "labels": volume["mask"].any((1, 2, 3)).astype(int).tolist(),
    "classes": volume["mask"].any((0, 1, 2)).astype(int).tolist(),
    "spacing_mm": volume["spacing_mm"],
  }


def _examples(volumes: Iterable[tuple[Case, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
  for case, volume in volumes:
    mean, std = volume["statistics"]
    shared = {"patient": case.patient, "case": case.name, "volume_mean": mean, "volume_std": std}
    for number, (pixels, mask) in enumerate(zip(volume["image"], volume["mask"], strict=True), 1):
      yield (
        slice_id(case.name, number),
        {"image": pixels, "mask": mask, "label": int(mask.any()), "slice": number, **shared},
      )
