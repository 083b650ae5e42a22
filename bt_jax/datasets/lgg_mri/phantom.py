"""Writes a synthetic data set in the published layout: brains with tissue, bias field, noise and FLAIR-bright lesions.

It stands in for the real slices where those are not available: the first run of a new user, and every test. It is made to
exercise the code, and says nothing about accuracy on patients.
"""

import csv
import errno
import os
import pathlib
import re
import shutil

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from bt_jax.datasets.lgg_mri.constants import CLINICAL_FIELDS, FOLDS, INFO
from bt_jax.errors import UserError

PATIENTS = 44  # two for each of the 22 folds
SITES = ("A", "B", "C")
_DATE = "20000101"
_NO_POST_EVERY, _NO_PRE_EVERY = 11, 17  # about as often as in the real set

# Intensities in 0..1 of CSF, grey matter, white matter, lesion and the lesion's enhancing core, by channel.
_CSF, _GREY, _WHITE, _LESION, _CORE = range(5)
_INTENSITY = {
  "pre": np.array([0.15, 0.45, 0.60, 0.38, 0.36]),
  "flair": np.array([0.10, 0.50, 0.42, 0.80, 0.74]),
  "post": np.array([0.17, 0.48, 0.62, 0.42, 0.85]),
}


# With a skull: the brain's size as a share of that without, and where bone and scalp end, in radii of the brain.
_IN_SKULL, _SKULL_ENDS, _SCALP_ENDS = 0.78, 1.16, 1.27
_SCALP = {"pre": 0.8, "flair": 0.6, "post": 0.8}


def patient_name(index: int) -> str:
  """The name of patient `index`, counted from 0: `PHANTOM_A_0000`."""
  return f"PHANTOM_{SITES[index % len(SITES)]}_{index:04d}"


def fold_of(patient: str) -> int:
  """The fold of a synthetic patient: its number modulo 22.

  Raises:
    UserError: the patient is not synthetic, so its data must not be called so.
  """
  if not (match := re.fullmatch(r"PHANTOM_[A-Z]_(\d+)", patient)):
    raise UserError(f"{patient} is not a synthetic patient: name another folder as data.root, or none", "data.root")
  return int(match[1]) % FOLDS


def write_tree(root: str | pathlib.Path, *, patients: int = PATIENTS, slices: int = 12, seed: int = 0) -> pathlib.Path:
  """Writes `root/kaggle_3m`, all of it or nothing; the same arguments give the same bytes. One that exists is kept.

  Args:
    root: the folder to make `kaggle_3m` in.
    patients: number of patients; with fewer than 22, some of the 22 folds stay empty.
    slices: mean number of slices in a volume.
    seed: seed of all randomness.

  Returns:
    The path of `kaggle_3m`.

  Raises:
    UserError: the folder is not writable, or the disk is full.
  """
  tree = pathlib.Path(root).expanduser() / "kaggle_3m"
  if tree.is_dir():
    return tree
  unfinished = tree.with_name("kaggle_3m.incomplete")
  shutil.rmtree(unfinished, ignore_errors=True)
  try:
    unfinished.mkdir(parents=True)
    _check_space(unfinished, patients * (slices - slices // 4))
    _write_cases(unfinished, patients, slices, seed)
    return unfinished.rename(tree)
  except OSError as error:
    raise UserError(
      f"cannot write synthetic patients in {root} ({error.strerror or error}): free some space, or choose another folder "
      "as data.root",
      "data.root",
    ) from error
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)


def _check_space(folder: pathlib.Path, slices: int) -> None:
  """Raises OSError where even the fewest slices do not fit, before minutes are spent on them."""
  if shutil.disk_usage(folder).free < slices * INFO.size**2 * (len(INFO.channels) + len(INFO.classes)):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_cases(folder: pathlib.Path, patients: int, slices: int, seed: int) -> None:
  rows = []
  for index in tqdm(range(patients), desc="writing synthetic patients", unit="patient", disable=None):
    rng = np.random.default_rng([seed, index])
    count = int(rng.integers(slices - slices // 4, slices + slices // 4 + 1))
    images, masks = make_volume(
      rng, count, has_pre=(index + 1) % _NO_PRE_EVERY != 0, has_post=(index + 1) % _NO_POST_EVERY != 0
    )
    case = f"{patient_name(index)}_{_DATE}"
    (folder / case).mkdir()
    for number, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
      Image.fromarray(image).save(folder / case / f"{case}_{number}.tif")
      Image.fromarray(mask).save(folder / case / f"{case}_{number}_mask.tif")
    rows.append([patient_name(index), *_clinical(rng)])
  with open(folder / "data.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([["Patient", *CLINICAL_FIELDS], *rows])


def _clinical(rng: np.random.Generator) -> list[int | str]:
  """Made-up fields, about one in ten of them empty."""
  fields = [
    int(rng.integers(20, 75)) if name.startswith("age") else int(rng.integers(1, 4)) for name in CLINICAL_FIELDS
  ]
  return ["" if rng.random() < 0.1 else field for field in fields]


def make_volume(
  rng: np.random.Generator, slices: int, *, has_pre: bool = True, has_post: bool = True, has_skull: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """One synthetic volume: a brain alone, as in the synthetic data set, or in skull and scalp, as in the real one.

  Returns:
    Images, uint8 [slices, 256, 256, 3], a missing sequence replaced by FLAIR as in the real set, and masks, uint8
    [slices, 256, 256] in {0, 255}, with at least one slice that has a lesion and one that has none.
  """
  shape = (slices, INFO.size, INFO.size)
  z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
  # The brain: an ellipsoid with a wavy surface. Slices past its poles stay small discs, as at a skull's top.
  radius_x, radius_y = rng.uniform(0.55, 0.7), rng.uniform(0.7, 0.85)
  profile = np.sqrt(np.clip(1.05 - 0.7 * z**2, 0.05, None))
  if has_skull:
    radius_x, radius_y = _IN_SKULL * radius_x, _IN_SKULL * radius_y
  wave = _smooth_noise(rng, shape, 18)
  ellipse = np.hypot(x / radius_x, y / radius_y) / profile
  distance = ellipse + 0.05 * wave
  brain = distance < 1
  # Tissue: grey matter at the rim and in folds, ventricles of CSF near the middle, white matter elsewhere.
  folds = _smooth_noise(rng, shape, 5)
  tissue = np.where((distance > 0.82) | (folds > 1.1), _GREY, _WHITE)
  ventricle = np.hypot((np.abs(x) - 0.12) / 0.07, (y + 0.05) / rng.uniform(0.2, 0.3)) + 0.25 * wave
  tissue = np.where((ventricle < 1) & (np.abs(z) < 0.6), _CSF, tissue)
  tissue = np.where((distance > 0.93) & (folds > 0.3), _CSF, tissue)
  # One lesion, from a few pixels to a third of the brain across, with an irregular outline.
  size = np.exp(rng.uniform(np.log(0.08), np.log(0.42)))
  angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7)
  centre_x, centre_y = radius_x * reach * np.cos(angle), radius_y * reach * np.sin(angle)
  centre_z, size_z = rng.uniform(-0.4, 0.4), max(0.25 + size, 1.5 / slices)
  depth = np.hypot(np.hypot((x - centre_x) / size, (y - centre_y) / size), (z - centre_z) / size_z)
  depth = depth + 0.12 * _smooth_noise(rng, shape, 10)
  lesion = (depth < 1) & brain & (np.abs(z) < 0.95)
  tissue = np.where(lesion, _LESION, tissue)
  if rng.random() < 0.5:
    tissue = np.where(lesion & (depth < 0.45), _CORE, tissue)
  # The scanner: a smooth gain over the volume, blur, Rician noise and a gain of its own.
  channels = []
  noise_level = rng.uniform(0.02, 0.04)
  for name, intensity in _INTENSITY.items():
    signal = np.where(brain, intensity[tissue], 0).astype(np.float32)
    if has_skull:
      signal += _SCALP[name] * ((ellipse > _SKULL_ENDS) & (ellipse < _SCALP_ENDS) & ~brain)
    signal = ndimage.gaussian_filter(signal, (0, 0.7, 0.7))
    bias = np.exp(0.12 * _smooth_noise(rng, shape, 60))
    real, imaginary = (noise_level * rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    channels.append(np.hypot(signal * bias + real, imaginary) * rng.uniform(0.8, 1.1))
  pre, flair, post = channels
  image = np.stack([pre if has_pre else flair, flair, post if has_post else flair], axis=-1)
  return np.clip(image * 255, 0, 255).astype(np.uint8), np.where(lesion, 255, 0).astype(np.uint8)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], scale: int) -> np.ndarray:
  """Gaussian noise of unit variance, smooth over `scale` pixels in the plane and two slices across."""
  coarse = [shape[0] // 2 + 3, *(int(n / scale) + 3 for n in shape[1:])]
  grid = rng.standard_normal(coarse).astype(np.float32)
  offsets = [np.linspace(1, n - 2, m, dtype=np.float32) for n, m in zip(coarse, shape, strict=True)]
  field = ndimage.map_coordinates(grid, np.meshgrid(*offsets, indexing="ij"), order=1)
  return field / field.std()
