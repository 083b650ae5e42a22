"""The TFDS builder of the LGG MRI segmentation data set; its splits are the 22 patient folds."""

import csv
import dataclasses
import functools
import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from bt_jax import files
from bt_jax.datasets.lgg_mri import kaggle_tree, phantom
from bt_jax.datasets.lgg_mri.constants import CLINICAL_FIELDS, INFO
from bt_jax.errors import UserError
from bt_jax.scans import findings
from bt_jax.schema import slice_id


def fold_split(fold: int) -> str:
  """The name of a fold's TFDS split: `fold_07`."""
  return f"fold_{fold:02d}"


@functools.cache
def published_folds() -> dict[str, int]:
  """The fold of each of the 110 published patients, from `folds.csv`."""
  text = pathlib.Path(__file__).with_name("folds.csv").read_text(encoding="utf-8")
  return {row["patient"]: int(row["fold"]) for row in csv.DictReader(io.StringIO(text))}


def published_fold(patient: str) -> int:
  """The fold of one of the 110 published patients, from `folds.csv`.

  Raises:
    UserError: the patient is not one of them.
  """
  if patient not in published_folds():
    raise UserError(
      f"{patient} is not one of the {kaggle_tree.FULL_PATIENTS} published patients, so no fold is assigned to it: move it away"
    )
  return published_folds()[patient]


@dataclasses.dataclass(eq=False, kw_only=True)
class LggMriConfig(tfds.core.BuilderConfig):
  """One variant of the data set.

  Attributes:
    title: what tables and figures call the data.
    synthetic: the images are computed, not measured.
    expect_full: insist on all 110 patients and 3,929 slices.
    fold_of: the fold of a patient.
  """

  title: str
  synthetic: bool = False
  expect_full: bool = False
  fold_of: Callable[[str], int] = published_fold


class Builder(tfds.core.GeneratorBasedBuilder):
  """Slices of 110 patients with lower-grade glioma; see README.md beside this file."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = kaggle_tree.HOW_TO_GET
  BUILDER_CONFIGS = [
    LggMriConfig(name="full", title="TCGA-LGG", description="All 110 patients.", expect_full=True),
    LggMriConfig(name="partial", title="TCGA-LGG (part of it)", description="Any of the 110 patients."),
    LggMriConfig(
      name="phantom",
      title="phantom (synthetic)",
      description="Synthetic patients.",
      synthetic=True,
      fold_of=phantom.fold_of,
    ),
  ]
  DEFAULT_BUILDER_CONFIG_NAME = "full"
  progress: tqdm | None = None  # of the current build

  def _info(self) -> tfds.core.DatasetInfo:
    size, channels = (INFO.size, INFO.size), len(INFO.channels)
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(
            shape=(*size, channels), encoding_format="png", doc="Pre-contrast, FLAIR, post-contrast."
          ),
          "mask": tfds.features.Image(
            shape=(*size, len(INFO.classes)), encoding_format="png", doc="1 where FLAIR is abnormal, else 0."
          ),
          "label": tfds.features.ClassLabel(names=["no_tumor", "tumor"]),
          "patient": tfds.features.Text(),
          "case": tfds.features.Text(),
          "site": tfds.features.Text(doc="TCGA code of the hospital that contributed the patient."),
          "slice": tfds.features.Scalar(np.int32, doc="Number of the slice in its volume, from 1."),
          "slices": tfds.features.Scalar(np.int32, doc="Slices in the volume."),
          "has_pre": tfds.features.Scalar(np.bool_, doc="False: no such sequence, the channel is a copy of FLAIR."),
          "has_post": tfds.features.Scalar(np.bool_, doc="False: no such sequence, the channel is a copy of FLAIR."),
          "volume_mean": tfds.features.Tensor(
            shape=(channels,), dtype=np.float32, doc="By channel, over the whole volume, 0..255."
          ),
          "volume_std": tfds.features.Tensor(
            shape=(channels,), dtype=np.float32, doc="By channel, over the whole volume, 0..255."
          ),
          **{name: tfds.features.Scalar(np.int32, doc="-1: not known.") for name in CLINICAL_FIELDS},
        }
      ),
      supervised_keys=("image", "mask"),
      homepage="https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation",
      disable_shuffling=True,  # slices stay in the order of their volume
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    config = self.builder_config
    tree = kaggle_tree.read_tree(str(dl_manager.manual_dir), expect_full=config.expect_full)
    self.info.metadata["source"] = tree.fingerprint
    folds: dict[int, list[kaggle_tree.Case]] = {}
    for case in tree.cases:
      folds.setdefault(config.fold_of(case.patient), []).append(case)
    self.progress = tqdm(
      total=sum(len(case.slices) for case in tree.cases),
      desc=f"building {self.info.full_name}",
      unit="slice",
      disable=None,
    )
    return {fold_split(fold): self._generate_examples(cases, tree.clinical) for fold, cases in sorted(folds.items())}

  def _generate_examples(
    self, cases: list[kaggle_tree.Case], clinical: dict[str, dict[str, int]]
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    for case in cases:
      with findings.kept() as messages:
        images, masks = kaggle_tree.read_case(case)
      for sentence in findings.sentences(case.name, messages):
        self.progress.write(f"warning: {sentence}")
      flair = images[..., INFO.reference_index]
      missing = {name: bool(np.array_equal(images[..., index], flair)) for index, name in enumerate(INFO.channels)}
      shared = {
        "patient": case.patient,
        "case": case.name,
        "site": case.site,
        "slices": len(case.slices),
        "has_pre": not missing["pre"],
        "has_post": not missing["post"],
        "volume_mean": images.mean((0, 1, 2), dtype=np.float64).astype(np.float32),
        "volume_std": images.std((0, 1, 2), dtype=np.float64).astype(np.float32),
        **clinical[case.patient],
      }
      for one, image, mask in zip(case.slices, images, masks, strict=True):
        yield (
          slice_id(case.name, one.number),
          {
            "image": _png(image),
            "mask": _png(mask[..., 0]),
            "label": int(mask.any()),
            "slice": one.number,
            **shared,
          },
        )
        self.progress.update()
    if self.progress.n == self.progress.total:
      self.progress.close()


def _png(pixels: np.ndarray) -> bytes:
  """PNG bytes: TFDS would need TensorFlow to encode an array itself."""
  return files.png(Image.fromarray(pixels), compress_level=1)
