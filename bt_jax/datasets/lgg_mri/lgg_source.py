"""The published slices as a data set, or the phantom that imitates them: its builder, its index and its patients."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bt_jax.datasets import store
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri import kaggle_tree, phantom
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.datasets.store import Builder, SliceId, Source
from bt_jax.errors import UserError
from bt_jax.schema import slice_id

_UNDECODED = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}


@dataclasses.dataclass(frozen=True)
class LggSource(Source):
  """The published slices, or the phantom that imitates them; see `open_or_build`."""

  variant: str
  root: str | None
  data_dir: str | None
  info: DatasetInfo = INFO

  def open_or_build(self) -> Builder:
    return open_or_build(self.variant, root=self.root, data_dir=self.data_dir)

  def read_index(self, builder: Builder) -> list[SliceId]:
    return read_index(builder)

  def read_patients(self, builder: Builder, patients: set[str]) -> dict[str, dict[str, Any]]:
    return read_patients(builder, self.info, patients)

  def read_spacings(self, builder: Builder) -> dict[str, tuple[float, float, float]]:
    return {}  # the published slices are TIFFs, which have none


def open_or_build(variant: str, *, root: str | None, data_dir: str | None) -> Builder:
  """The built data set; builds it first where it is missing.

  Only one process builds at a time, others wait for it; what a killed build left behind is removed.

  Args:
    variant: `full`, `partial` or `phantom`.
    root: folder with the published tree; may be None once the data set is built. For `phantom`, the folder to write
      the synthetic tree in, by default beside the built data set.
    data_dir: where built data sets live; None is TFDS's own folder.

  Raises:
    UserError: there is no tree, something is wrong with it, the data set was built from another tree, or the disk is
      full or not writable.
  """
  store.check_folders(root, data_dir)
  open_builder = lambda: tfds.builder(f"lgg_mri/{variant}", data_dir=data_dir, file_format="array_record")
  folder = pathlib.Path(open_builder().data_path).parent
  synthetic = variant == "phantom"
  root = root or (str(folder / "tree") if synthetic else None)

  def build(builder: Builder) -> None:
    store.prepare(builder, kaggle_tree.find_tree(root))

  return store.build_once(
    open_builder,
    build,
    before=(lambda: phantom.write_tree(root)) if synthetic else (lambda: None),
    check=lambda builder: _check_source(builder, root),
  )


def _check_source(builder: Builder, root: str | None) -> None:
  if root is None:
    return
  tree = kaggle_tree.read_tree(root, expect_full=builder.builder_config.expect_full)
  if builder.info.metadata["source"] != tree.fingerprint:
    raise UserError(
      f"{builder.data_path} was built from other files than {tree.path} holds now (by name, size and data.csv): remove the former to build it again, "
      "or build elsewhere, in another data.dir",
      "data.dir",
    )


def read_index(builder: Builder) -> list[SliceId]:
  """Every slice's id and position, in the order of cases and slices, without decoding an image."""
  index = []
  for name in builder.info.splits:
    fold = int(name.removeprefix("fold_"))
    for position, example in enumerate(builder.as_data_source(name, decoders=_UNDECODED)):
      case, patient, number = example["case"].decode(), example["patient"].decode(), int(example["slice"])
      of_slice = SliceId(fold, name, position, patient, case, slice_id(case, number), int(example["label"]))
      index.append((case, number, of_slice))
  return [entry for *_, entry in sorted(index, key=lambda item: item[:2])]


def read_patients(builder: Builder, info: DatasetInfo, patients: set[str]) -> dict[str, dict[str, Any]]:
  """What is known of patients besides their images, `info.patient_fields`, by patient."""
  known: dict[str, dict[str, Any]] = {}
  for name in builder.info.splits:
    if len(known) == len(patients):
      break
    for example in builder.as_data_source(name, decoders=_UNDECODED):
      patient = example["patient"].decode()
      if patient in patients and patient not in known:
        known[patient] = {field: _plain(example[field]) for field in info.patient_fields}
  return known


def _plain(value: Any) -> Any:
  """A field of an example as a plain value, for JSON and tables."""
  return value.decode() if isinstance(value, bytes) else np.asarray(value).item()
