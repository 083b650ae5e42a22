"""The TFDS builder of a user's own images and masks; made by `OwnSource`, which knows the folder."""

import concurrent.futures
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import case_volumes
from bt_jax.datasets.own_data.collection import Case, Collection
from bt_jax.errors import UserError
from bt_jax.schema import slice_id

SPLIT = "cases"  # the only one: patients are divided into folds when it is read
_AHEAD = 2  # cases read while one is written


@dataclasses.dataclass(eq=False, kw_only=True)
class OwnConfig(tfds.core.BuilderConfig):
  """A folder of a user's.

  Attributes:
    title: what tables and figures call the data.
    info: of the data set.
    collection: the cases.
    synthetic: the images are computed, not measured.
  """

  title: str
  info: DatasetInfo | None = dataclasses.field(default=None, repr=False)  # TFDS logs a configuration
  collection: Collection | None = dataclasses.field(default=None, repr=False)
  synthetic: bool = False


class Builder(tfds.core.GeneratorBasedBuilder):
  """Axial slices of a user's own cases, 16 bits, on one square grid, with a mask for each class."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  BUILDER_CONFIGS = []
  progress: tqdm | None = None  # of the build at work

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

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    return {SPLIT: self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
    config, cases, seen = self.builder_config, [], np.zeros(len(self.builder_config.info.classes), bool)
    collection = config.collection
    self.progress = tqdm(total=len(collection.cases), desc=f"building {self.info.full_name}", unit="case")
    with concurrent.futures.ThreadPoolExecutor(_AHEAD) as pool:
      waiting = []
      for case in [*collection.cases, *[None] * _AHEAD]:
        waiting.append(None if case is None else (case, pool.submit(_read, case, collection, config.info)))
        if len(waiting) <= _AHEAD or (next_case := waiting.pop(0)) is None:
          continue
        case, volume = next_case[0], next_case[1].result()
        cases.append(_about(case, volume))
        seen |= volume["mask"].any((0, 1, 2))
        yield from _examples(case, volume)
        self.progress.update()
    if not seen.all():
      absent = [name for name, there in zip(config.info.classes, seen, strict=True) if not there]
      raise UserError(
        f"no mask in {collection.root} has {absent[0]}: take it out of the labels of dataset.json, or add cases that have it"
      )
    self.info.metadata.update(info=config.info.to_json(), cases=cases)
    self.progress.close()


def _read(case: Case, collection: Collection, info: DatasetInfo) -> dict[str, Any]:
  volume, masks = case_volumes.read_case(case, collection.channels, collection.labels)
  image, masks = case_volumes.to_stored(volume, masks, info)
  return {"image": image, "mask": masks, "spacing_mm": stored_spacing(volume, info.size)}


def stored_spacing(volume: case_volumes.Volume, size: int) -> list[float] | None:
  """Mm between slices, rows and columns of a case once it is stored; None where its files do not say."""
  if volume.spacing_mm is None:
    return None
  between, rows, columns = volume.spacing_mm
  _, height, width, _ = volume.values.shape
  side = max(height * rows, width * columns) / size
  return [between, side, side]


def _about(case: Case, volume: dict[str, Any]) -> dict[str, Any]:
  """What the index of the data set says of a case."""
  labels = volume["mask"].any((1, 2, 3)).astype(int).tolist()
  return {"case": case.name, "patient": case.patient, "labels": labels, "spacing_mm": volume["spacing_mm"]}


def _examples(case: Case, volume: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
  image, masks = volume["image"], volume["mask"]
  scaled = image.reshape(-1, image.shape[-1])
  mean = scaled.mean(0, dtype=np.float64) * (255 / 65535)
  std = scaled.std(0, dtype=np.float64) * (255 / 65535)
  shared = {
    "patient": case.patient,
    "case": case.name,
    "volume_mean": mean.astype(np.float32),
    "volume_std": std.astype(np.float32),
  }
  for number, (pixels, mask) in enumerate(zip(image, masks, strict=True), 1):
    yield (
      slice_id(case.name, number),
      {"image": pixels, "mask": mask, "label": int(mask.any()), "slice": number, **shared},
    )
