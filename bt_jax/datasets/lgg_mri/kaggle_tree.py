"""Finds, pairs and checks the published folders of slices, and reads `data.csv`.

The published layout is `kaggle_3m/<case>/<case>_<slice>.tif` with `<case>_<slice>_mask.tif` beside it, and
`kaggle_3m/data.csv`, where a case is `<patient>_<date>` and a patient `TCGA_<site>_<number>`.
"""

import csv
import dataclasses
import hashlib
import pathlib
import re

import numpy as np
from PIL import Image

from bt_jax.datasets.lgg_mri.constants import CLINICAL_FIELDS, INFO
from bt_jax.errors import UserError, one_line
from bt_jax.scans import discovery, tiff
from bt_jax.scans.intensities import check_range

FULL_PATIENTS = 110
FULL_SLICES = 3929

HOW_TO_GET = (
  "expected DIR/kaggle_3m/<case>/<case>_<slice>.tif with <case>_<slice>_mask.tif beside each and DIR/kaggle_3m/data.csv; "
  "get it with `kaggle datasets download mateuszbuda/lgg-mri-segmentation --unzip -p DIR` and set data.root=DIR, or try "
  "everything on synthetic data with the configuration configs/seg.py:phantom"
)
_ARGUMENTS = ("data.root=DIR", "config=configs/seg.py:phantom")

_DEPTH = 3  # folders below the tree to look in, deep enough to find the tree inside itself
_SUFFIXES = (".tif", ".tiff")  # in capitals too
_CASE = re.compile(r"(?P<patient>[^_]+_(?P<site>[^_]+)_[^_]+)_\d{8}")
_SLICE = re.compile(r"(?P<stem>(?P<case>.+)_(?P<number>\d+))(?P<mask>_mask)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class SliceFiles:
  """The two files of one slice; `number` counts from 1 within the volume."""

  number: int
  image: pathlib.Path
  mask: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Case:
  """One examination: a volume of slices in slice order."""

  name: str
  patient: str
  site: str
  slices: tuple[SliceFiles, ...]


@dataclasses.dataclass(frozen=True)
class Tree:
  """A checked tree: its cases by name, each patient's clinical fields, and the hash of its listing (names, sizes) and of `data.csv`."""

  path: pathlib.Path
  cases: tuple[Case, ...]
  clinical: dict[str, dict[str, int]]
  fingerprint: str


def find_tree(root: str | pathlib.Path | None) -> pathlib.Path:
  """The folder that holds the cases: `kaggle_3m` below `root`, or `root` itself if it is that folder.

  The published archive holds the tree twice; its copy in `lgg-mri-segmentation` is read only where there is no other.

  Raises:
    UserError: no root given, or no such folder.
  """
  if root is None:
    raise UserError(f"no data: data.root is not set; {HOW_TO_GET}", *_ARGUMENTS)
  root = pathlib.Path(root).expanduser()
  if not root.is_dir():
    raise UserError(f"no data: {root} is not a folder; {HOW_TO_GET}", *_ARGUMENTS)
  below = (root / "kaggle_3m", root / "lgg-mri-segmentation" / "kaggle_3m")
  return next((path for path in below if path.is_dir()), root)


def read_tree(root: str | pathlib.Path | None, *, expect_full: bool) -> Tree:
  """Lists and pairs every file of a tree; opens none but `data.csv`.

  Args:
    root: the folder that holds `kaggle_3m`, or `kaggle_3m` itself.
    expect_full: insist on the published 110 patients and 3,929 slices.

  Raises:
    UserError: see the module's tests for the list; every one names the file or folder and the remedy.
  """
  path = find_tree(root)
  cases = _find_cases(path)
  patients = {case.patient for case in cases}
  slices = sum(len(case.slices) for case in cases)
  if expect_full and (len(patients), slices) != (FULL_PATIENTS, FULL_SLICES):
    raise UserError(
      f"{path} holds {len(patients)} patients and {slices} slices, expected {FULL_PATIENTS} and {FULL_SLICES}: "
      "unpack the archive again, or accept a part of it with data.expect_full=False",
      "data.expect_full=False",
    )
  clinical = read_clinical(path / "data.csv", patients)
  return Tree(path, cases, clinical, _fingerprint(path, cases))


def _find_cases(path: pathlib.Path) -> tuple[Case, ...]:
  folders = {}
  for folder, files in discovery.walk(path, depth=_DEPTH):
    if tiffs := [file for file in files if file.suffix.lower() in _SUFFIXES]:
      folders[folder] = tiffs
  if not folders:
    raise UserError(f"no cases: {path} holds no .tif file; {HOW_TO_GET}", *_ARGUMENTS)
  cases: dict[str, tuple[pathlib.Path, Case]] = {}
  for folder, files in sorted(folders.items()):
    if not (match := _CASE.fullmatch(folder.name)):
      raise UserError(f"{folder} is not named like a case (TCGA_CS_4941_19960909) but holds .tif files: move it away")
    if folder.name in cases:
      raise UserError(
        f"the case {folder.name} is there twice, in {cases[folder.name][0]} and in {folder}: keep one copy, or point "
        "data.root at one (the published archive holds the tree twice)",
        "data.root",
      )
    cases[folder.name] = folder, Case(folder.name, match["patient"], match["site"], _pair(folder, files))
  return tuple(case for _, case in cases.values())


def _pair(folder: pathlib.Path, files: list[pathlib.Path]) -> tuple[SliceFiles, ...]:
  """Pairs images and masks by name; sorting two lists separately would mispair slices 2 and 10."""
  by_kind: dict[bool, dict[int, pathlib.Path]] = {False: {}, True: {}}
  for file in files:
    match = _SLICE.fullmatch(file.stem)
    if not match or match["case"] != folder.name:
      raise UserError(f"{file} is not named {folder.name}_<slice>.tif or {folder.name}_<slice>_mask.tif: move it away")
    of_kind, number = by_kind[bool(match["mask"])], int(match["number"])
    if number in of_kind:
      raise UserError(f"{file} and {of_kind[number].name} are the same slice: move one of them away")
    of_kind[number] = file
  images, masks = by_kind[False], by_kind[True]
  if lonely := sorted(images.keys() - masks.keys()):
    raise UserError(f"{images[lonely[0]]} has no mask: expected {images[lonely[0]].stem}_mask.tif beside it")
  if lonely := sorted(masks.keys() - images.keys()):
    raise UserError(
      f"{masks[lonely[0]]} has no image: expected {masks[lonely[0]].stem.removesuffix('_mask')}.tif beside it"
    )
  return tuple(SliceFiles(number, images[number], masks[number]) for number in sorted(images))


def _fingerprint(path: pathlib.Path, cases: tuple[Case, ...]) -> str:
  digest = hashlib.sha256((path / "data.csv").read_bytes())
  for case in cases:
    for files in case.slices:
      for file in (files.image, files.mask):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
  return digest.hexdigest()


def read_clinical(path: pathlib.Path, patients: set[str]) -> dict[str, dict[str, int]]:
  """The 17 fields of `data.csv` for each of `patients`; -1 where a field is empty.

  Comma and semicolon files are read alike, as both are published.

  Raises:
    UserError: the file is missing, lacks a column or a patient, or holds something that is not a whole number.
  """
  if not path.is_file():
    raise UserError(f"{path} is missing: copy it from the archive, it holds the patients' clinical fields")
  try:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from error
  header = text.partition("\n")[0]
  rows = csv.DictReader(text.splitlines(), delimiter=";" if header.count(";") > header.count(",") else ",")
  if missing := [name for name in ("Patient", *CLINICAL_FIELDS) if name not in (rows.fieldnames or ())]:
    raise UserError(
      f"{path} lacks the column {missing[0]} (it starts with {header[:60]!r}): copy it from the archive again"
    )
  clinical = {}
  for row in rows:
    if None in row or None in row.values():
      raise UserError(
        f"{path}, line {rows.line_num} has not as many fields as the header: copy it from the archive again"
      )
    try:
      clinical[row["Patient"]] = {name: int(row[name]) if row[name] else -1 for name in CLINICAL_FIELDS}
    except ValueError as error:
      raise UserError(f"{path}, line {rows.line_num}: {error}; expected a whole number or nothing") from error
  if missing := sorted(patients - clinical.keys()):
    raise UserError(
      f"{path} has no row for {missing[0]} ({len(missing)} of {len(patients)} patients missing): copy it from the archive again"
    )
  return clinical


def read_case(case: Case) -> tuple[np.ndarray, np.ndarray]:
  """Reads one volume.

  Returns:
    Images, uint8 [slices, 256, 256, 3], and masks, uint8 [slices, 256, 256, 1] in {0, 1}, in slice order.

  Raises:
    UserError: a file is unreadable, or of the wrong size, mode, bit depth or mask values; or a sequence is constant.
  """
  images = np.stack([_read_tiff(files.image, "RGB") for files in case.slices])
  masks = np.stack([_read_mask(files.mask) for files in case.slices])
  check_range(images, f"the volume in {case.slices[0].image.parent}")
  return images, masks[..., None]


def _read_tiff(path: pathlib.Path, mode: str) -> np.ndarray:
  """The one slice of a file, upright: Pillow turns a TIFF as its Orientation says, as prediction does."""
  try:
    with Image.open(path) as image:
      if (image.format, image.mode, image.size) != ("TIFF", mode, (INFO.size, INFO.size)):
        width, height = image.size
        raise UserError(
          f"{path} is a {image.format} of {width}x{height} pixels in mode {image.mode}, expected a TIFF of "
          f"{INFO.size}x{INFO.size} in mode {mode} (8 bits a channel): restore it from the archive"
        )
      pixels = np.asarray(image)
      if (pages := len(tiff.orientations(path))) != 1:
        raise UserError(f"{path} has {pages} pages, expected one slice: restore it from the archive")
      return pixels
  except UserError:
    raise
  except Exception as error:  # Pillow raises many kinds for a broken file: OSError, SyntaxError, struct.error, ...
    raise UserError(f"{path} cannot be read ({one_line(error)}): restore it from the archive") from error


def _read_mask(path: pathlib.Path) -> np.ndarray:
  mask = _read_tiff(path, "L")
  if np.any((mask != 0) & (mask != 255)):
    strange = sorted(set(np.unique(mask).tolist()) - {0, 255})
    raise UserError(f"{path} holds the values {strange[:5]}, a mask has 0 and 255 only: restore it from the archive")
  return (mask == 255).astype(np.uint8)
