"""Writes masks where the tools of a data set expect them: flat, as nnU-Net names them, or as derivatives of BIDS."""

import gzip
import io
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import nibabel
import numpy as np
import tifffile
from PIL import Image

from bt_jax import files
from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import UserError
from bt_jax.scans.scan import NOTICE
from bt_jax.version import __version__

OWN_FOLDER = "bt_jax"  # folder of the complete predictions, beside the masks of a layout
_BIDS = "1.10.0"
_ENTITIES = re.compile(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?")


def arrange(
  layout: str, output: pathlib.Path, folder: pathlib.Path, done: Mapping[str, Any], info: DatasetInfo
) -> None:
  """Writes the mask of a finished prediction a second time, in a layout.

  Args:
    layout: a name of `LAYOUTS`.
    output: the folder of the data set that is written.
    folder: folder of the prediction.
    done: content of its `prediction.json`.
    info: the networks' data set, whose ids stand for classes.

  Raises:
    UserError: the layout has no place for masks of this format, or another study's mask is there.
  """
  LAYOUTS[layout](output, folder, done, info)


def _nnunet(output: pathlib.Path, folder: pathlib.Path, done: Mapping[str, Any], info: DatasetInfo) -> None:
  """`CASE.nii.gz`, or `CASE.png` and `CASE.tif`, with the ids of classes."""
  name = _flat(folder, done)
  masks = [path for path in done["files"] if path.startswith(("mask", "masks/"))]
  if masks[0].endswith((".nii", ".nii.gz")):
    suffix = masks[0].removeprefix("mask")
    files.write_bytes(output / f"{name}{suffix}", _numbers(folder / masks[0], info))
  elif masks[0].endswith((".png", ".tif")):
    slices = [_ids(np.asarray(Image.open(folder / path)), info) for path in masks]
    if len(slices) == 1 and masks[0].endswith(".png"):
      files.write_bytes(output / f"{name}.png", files.png(Image.fromarray(slices[0])))
    else:
      content = io.BytesIO()
      tifffile.imwrite(content, np.stack(slices) if len(slices) > 1 else slices[0], photometric="minisblack")
      files.write_bytes(output / f"{name}.tif", content.getvalue())
  else:
    raise UserError(
      f"{name} is DICOM, whose mask nnU-Net does not read: leave the layout out, or convert it to NIfTI", "layout"
    )


def _bids(output: pathlib.Path, folder: pathlib.Path, done: Mapping[str, Any], info: DatasetInfo) -> None:
  """`sub-X/anat/sub-X_desc-btjax_dseg.nii.gz` with its JSON and the table of its labels; BIDS 1.10, derivatives."""
  name = _flat(folder, done)
  mask = next((path for path in done["files"] if path in ("mask.nii.gz", "mask.nii")), None)
  if mask is None:
    raise UserError(
      f"{name} is not NIfTI, and BIDS has no masks of other formats: leave the layout out, or convert it", "layout"
    )
  match = _ENTITIES.match(name)
  subject, session = (match[1], match[2]) if match else (f"sub-{re.sub('[^A-Za-z0-9]', '', name)}", None)
  entities = "_".join(filter(None, (subject, session)))
  anatomy = output.joinpath(*filter(None, (subject, session)), "anat")
  sidecar = anatomy / f"{entities}_desc-btjax_dseg.json"
  content = {
    "Description": "Tumour segmented by bt_jax",
    "SpatialReference": "orig",
    "Manual": False,
    "Sources": [f"{done['study']} (SHA-256 {done['input']['sha256']})"],
    "Threshold": done["threshold"],
    "Networks": done["model"]["title"],
    "Notice": NOTICE,
  }
  if sidecar.is_file() and files.read_json(sidecar, dict)["Sources"] != content["Sources"]:
    raise UserError(
      f"{sidecar} is of another study, whose name differs only in characters that BIDS leaves out: rename {name}",
      "layout",
    )
  described = {
    "Name": "Segmentations by bt_jax",
    "BIDSVersion": _BIDS,
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "bt_jax", "Version": __version__}],
  }
  rows = "".join(f"{number}\t{label}\n" for number, label in zip(info.ids, info.classes, strict=True))
  files.write_json(output / "dataset_description.json", described)
  files.write_bytes(output / ".bidsignore", f"{OWN_FOLDER}/\n".encode())
  suffix = mask.removeprefix("mask")
  files.write_bytes(anatomy / f"{entities}_desc-btjax_dseg{suffix}", _numbers(folder / mask, info))
  files.write_bytes(anatomy / f"{entities}_desc-btjax_dseg.tsv", f"index\tname\n{rows}".encode())
  files.write_json(sidecar, content)


LAYOUTS: dict[str, Callable[..., None]] = {"nnunet": _nnunet, "bids": _bids}


def _flat(folder: pathlib.Path, done: Mapping[str, Any]) -> str:
  """The name of the case as part of a file name."""
  parts = folder.parts[folder.parts.index(OWN_FOLDER) + 1 :] if OWN_FOLDER in folder.parts else ()
  return "_".join(parts) or done["study"].replace("/", "_")


def _ids(mask: np.ndarray, info: DatasetInfo) -> np.ndarray:
  """A mask with the ids of classes; a mask of one class holds 0 and 1, or 0 and 255."""
  return ((mask > 0) * info.ids[0]).astype(np.uint8) if len(info.ids) == 1 else mask.astype(np.uint8)


def _numbers(path: pathlib.Path, info: DatasetInfo) -> bytes:
  """The bytes of a mask in NIfTI, with the ids of classes."""
  if info.ids == (1,) or len(info.ids) > 1:
    return path.read_bytes()
  image = nibabel.load(path)
  content = type(image)(_ids(np.asarray(image.dataobj), info), None, image.header).to_bytes()
  return gzip.compress(content, mtime=0) if path.suffix == ".gz" else content
