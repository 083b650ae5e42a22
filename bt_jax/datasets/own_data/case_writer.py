"""Adds cases to a folder in nnU-Net's layout, which `nnunet` reads: a file for each channel, and one of numbers for classes."""

import itertools
import json
import pathlib
import shutil
from typing import Any

import nibabel
import numpy as np
from jaxtyping import Bool, UInt8

from bt_jax import files
from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import UserError
from bt_jax.scans import nifti, raster
from bt_jax.scans.nifti_geometry import Source
from bt_jax.scans.orientation import AS_STORED
from bt_jax.scans.scan import Scan

IMAGES, LABELS = "imagesTr", "labelsTr"
_ABOUT = "dataset.json"
_UNFINISHED = ".unfinished"  # a subfolder, where files are kept until all are written
_MOST = 8  # classes that may overlap: their combinations are numbered from 1 to 255
_OF_CASES = ("numTraining", "file_ending")  # fields that depend on the cases
Masks = Bool[np.ndarray, "slices height width classes"]


def add(root: pathlib.Path, name: str, scan: Scan, masks: Masks, info: DatasetInfo, origin: str) -> None:
  """Adds a case, or replaces it; `root` can then be trained from, see `layouts.find`.

  A scan from NIfTI keeps its own grid; any other whose geometry is known is written as axial NIfTI. Where the geometry is
  not known the files are TIFFs of several pages, as NIfTI cannot leave the size of a voxel open.

  Args:
    root: the folder.
    name: name of the case.
    scan: its image, with the channels of `info`.
    masks: its masks, on the grid of the scan.
    info: channels and classes.
    origin: what made the mask, which stands in the headers.

  Raises:
    UserError: the folder has cases of other channels or classes; or the masks cannot be numbered, see `numbers_of`.
  """
  about = describe(info)
  _check_same(root / _ABOUT, about)
  numbers = numbers_of(masks, info)
  channels = {f"{name}_{number:04d}": scan.image[..., number] for number in range(scan.image.shape[-1])}
  source = _source(scan)
  write = lambda values: (
    raster.tiff_bytes(values if len(values) > 1 else values[0], AS_STORED, origin)
    if source is None
    else nifti.packed(values, source, origin)
  )
  suffix = ".tif" if source is None else ".nii.gz"
  written = {f"{IMAGES}/{channel}{suffix}": write(values) for channel, values in channels.items()}
  written[f"{LABELS}/{name}{suffix}"] = write(numbers)
  if source is None and scan.spacing_mm is not None:
    written[f"{IMAGES}/{name}.json"] = json.dumps({"spacing": scan.spacing_mm}).encode()
  unfinished = root / _UNFINISHED
  try:
    for path, content in written.items():
      files.write_bytes(unfinished / path, content)
    names = {path.name for path in (root / LABELS).glob("*")} | {f"{name}{suffix}"}
    files.write_json(root / _ABOUT, {**about, "numTraining": len(names), "file_ending": suffix})
    for path in written:
      (root / path).parent.mkdir(exist_ok=True)
      (unfinished / path).replace(root / path)
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)


def describe(info: DatasetInfo) -> dict[str, Any]:
  """The channels and classes as `dataset.json` has them."""
  about = {
    "channel_names": {str(number): channel for number, channel in enumerate(info.channels)},
    "labels": {"background": 0, **_values(info)},
  }
  return about | ({"regions_class_order": list(info.ids)} if info.overlapping else {})


def numbers_of(masks: Masks, info: DatasetInfo) -> UInt8[np.ndarray, "slices height width"]:
  """The number of each voxel's class, or of its combination of classes where they overlap; 0 for none.

  Raises:
    UserError: a voxel has two classes that exclude each other, or so many overlap that their combinations have no numbers.
  """
  if not info.overlapping:
    if (twice := int((masks.sum(-1) > 1).sum())) > 0:
      raise UserError(f"{twice:,} voxels have two of {', '.join(info.classes)}, which exclude each other: expected one")
    return (masks * np.array(info.ids, np.uint8)).sum(-1, dtype=np.uint8)
  table = np.zeros((2,) * len(info.classes), np.uint8)
  for combination, number in _combinations(info).items():
    table[combination] = number
  return table[tuple(np.moveaxis(masks.astype(np.uint8), -1, 0))]


def _values(info: DatasetInfo) -> dict[str, int | list[int]]:
  """The numbers of each class in masks."""
  if not info.overlapping:
    return dict(zip(info.classes, info.ids, strict=True))
  combinations = _combinations(info)
  return {
    name: [number for combination, number in combinations.items() if combination[index]]
    for index, name in enumerate(info.classes)
  }


def _combinations(info: DatasetInfo) -> dict[tuple[int, ...], int]:
  """The number of each combination of overlapping classes.

  Where all classes up to one are there, it is the id of that one, as if they were written one over the other; other
  combinations have the numbers that are left, so that nothing is lost.
  """
  count = len(info.classes)
  if count > _MOST:
    raise UserError(f"{count} classes overlap, whose combinations have no numbers: expected {_MOST} or fewer")
  numbers = {(1,) * (index + 1) + (0,) * (count - index - 1): label for index, label in enumerate(info.ids)}
  free = (number for number in range(1, 256) if number not in info.ids)
  others = (one for one in itertools.product((0, 1), repeat=count) if any(one) and one not in numbers)
  return numbers | dict(zip(others, free, strict=False))


def _source(scan: Scan) -> Source | None:
  """The grid of the files to write; None where the scan's geometry is not known."""
  if isinstance(scan.source, Source):
    return scan.source._replace(suffix=".nii.gz")
  if scan.affine is None or scan.spacing_mm is None:
    return None
  header = nibabel.Nifti1Header()
  shape = scan.image.shape[2::-1]
  header.set_data_shape(shape)
  header.set_sform(scan.affine, code="scanner")
  header["pixdim"][1:4] = scan.spacing_mm[::-1]
  header.set_xyzt_units("mm")
  return Source(nibabel.Nifti1Image, header, scan.affine, shape, ".nii.gz")


def _check_same(path: pathlib.Path, about: dict[str, Any]) -> None:
  if not path.is_file():
    return
  there = {field: value for field, value in files.read_json(path, dict).items() if field not in _OF_CASES}
  if there != about:
    raise UserError(f"{path} is of other channels or classes than these networks: name another folder to keep")
