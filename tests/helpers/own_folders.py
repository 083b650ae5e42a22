"""Tiny folders of images and masks as users have them, written without the code that reads them."""

import json
import pathlib
from collections.abc import Sequence

import nibabel
import numpy as np
import tifffile
from PIL import Image

from bt_jax.datasets.own_data.source import OwnSource

SHAPE = (3, 12, 12)  # slices, rows, columns
SPACING = (4.0, 1.0, 1.0)


def noise(seed: int, shape: Sequence[int] = SHAPE, high: int = 3000) -> np.ndarray:
  """An image of integers."""
  return np.random.default_rng(seed).integers(0, high, shape).astype(np.int16)


def blobs(seed: int, values: Sequence[int] = (1, 2), shape: Sequence[int] = SHAPE) -> np.ndarray:
  """A mask that has each of these numbers, and background; its first slice is empty."""
  mask = np.random.default_rng(seed + 1000).choice([0, *values], shape).astype(np.uint8)
  mask[0] = 0
  mask[1, 0, : len(values)] = values
  return mask


def nifti(path: pathlib.Path, values: np.ndarray, spacing=SPACING, codes: str = "LPS") -> pathlib.Path:
  """Slices, rows and columns (and channels) as a file whose axes run as `codes` say."""
  between, rows, columns = spacing
  affine = np.diag([-columns, -rows, between, 1.0])
  affine[:3, 3] = 30.0, 20.0, -10.0
  image = nibabel.Nifti1Image(np.moveaxis(values, (0, 1, 2), (2, 1, 0)), affine)
  start, end = (nibabel.orientations.axcodes2ornt(text) for text in ("LPS", codes))
  image = image.as_reoriented(nibabel.orientations.ornt_transform(start, end))
  image.header.set_xyzt_units("mm")
  path.parent.mkdir(parents=True, exist_ok=True)
  nibabel.save(image, path)
  return path


def picture(path: pathlib.Path, values: np.ndarray) -> pathlib.Path:
  """One slice as PNG or TIFF, by the suffix; or a TIFF of several pages."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".tif":
    tifffile.imwrite(path, values, photometric="rgb" if values.shape[-1] == 3 else "minisblack")
  else:
    Image.fromarray(values).save(path)
  return path


def about(root: pathlib.Path, channels: Sequence[str], labels: dict, **fields) -> None:
  """Writes `dataset.json` of nnU-Net's second version."""
  names = {str(number): name for number, name in enumerate(channels)}
  root.mkdir(parents=True, exist_ok=True)
  (root / "dataset.json").write_text(json.dumps({"channel_names": names, "labels": labels, **fields}))


def nnunet(root: pathlib.Path, cases: int = 6) -> pathlib.Path:
  """nnU-Net's layout: T1 and FLAIR, and two classes."""
  about(root, ("T1", "FLAIR"), {"background": 0, "edema": 1, "core": 2})
  for number in range(cases):
    for channel in range(2):
      nifti(root / "imagesTr" / f"c{number}_{channel:04d}.nii.gz", noise(10 * number + channel))
    nifti(root / "labelsTr" / f"c{number}.nii.gz", blobs(number))
  return root


def pictures(root: pathlib.Path, cases: int = 6) -> pathlib.Path:
  """images/ and masks/ of 8 bits, three slices in a folder for each case."""
  for number in range(cases):
    image, mask = noise(number, high=256).astype(np.uint8), blobs(number, (255,))
    for index in range(len(image)):
      picture(root / "images" / f"p{number}" / f"s_{index + 1}.png", image[index])
      picture(root / "masks" / f"p{number}" / f"s_{index + 1}_mask.png", mask[index])
  return root


def built(root: pathlib.Path, data_dir: pathlib.Path, **options) -> tuple[OwnSource, dict[str, dict]]:
  """The built data set, and of each case its image, mask, patient and numbers of slices."""
  source = OwnSource(str(root), str(data_dir), **options)
  cases: dict[str, dict] = {}
  for example in source.open_or_build().as_data_source("cases"):
    case = cases.setdefault(example["case"].decode(), {"image": [], "mask": [], "slice": []})
    case |= {"patient": example["patient"].decode(), "mean": example["volume_mean"], "std": example["volume_std"]}
    for name in ("image", "mask", "slice"):
      case[name].append(example[name])
  for case in cases.values():
    case["image"], case["mask"] = np.stack(case["image"]), np.stack(case["mask"])
  return source, cases


def in_16_bits(values: np.ndarray) -> np.ndarray:
  """Black is the lowest value, white the 99.9th percentile, in float64."""
  values = values.astype(np.float64)
  low, high = values.min(), np.percentile(values, 99.9)
  return np.rint(np.clip((values - low) / (high - low), 0, 1) * 65535)
