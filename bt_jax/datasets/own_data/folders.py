"""Lists folders that no file describes: images/ and masks/, masks beside their images, and a folder for each case."""

import collections
import itertools
import os
import pathlib
import re

from bt_jax.datasets.own_data.collection import Case, Collection, Labels, shown
from bt_jax.scans import discovery, raster, sequences
from bt_jax.scans.sequences import stem

Listed = dict[pathlib.Path, list[pathlib.Path]]
_IMAGES = re.compile(r"images?|imgs?|scans?|x", re.IGNORECASE)
_MASKS = re.compile(r"masks?|labels?|segmentations?|annotations?|y", re.IGNORECASE)
_PICTURES, _VOLUMES = (".png", ".tif", ".tiff", ".jpg", ".jpeg"), (".nii.gz", ".nii")
_MASK_NAME = re.compile(r"(.*?)[-_. ]?(?:mask|seg|segmentation|label|labels|gt)", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"[-_. ]*(\d+)(?!.*\d)")
_VISIT = re.compile(r"(BraTS-[A-Z-]+-\d+)-\d{3}")  # patient and visit, as BraTS numbers them since 2023
# BraTS calls sequences in two ways, of which this is the first; and what its labels have stood for since 2017.
_SEQUENCES = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
_BRATS = {"flair", "t1", "t1ce", "t2"}
BRATS_LABELS = {1: "necrosis", 2: "oedema", 3: "enhancing", 4: "enhancing"}


def read_images_and_masks(root: pathlib.Path, listed: Listed) -> Collection | None:
  """A folder of images, and one of masks of the same names, with or without `_mask` at their end."""
  below = [folder for folder in listed if folder.parent == root]
  images = [folder for folder in below if _IMAGES.fullmatch(folder.name)]
  masks = [folder for folder in below if _MASKS.fullmatch(folder.name)]
  if len(images) != 1 or len(masks) > 1:
    return None
  collection = Collection(root, f"{images[0].name}/ and {masks[0].name}/" if masks else f"{images[0].name}/")
  files = {"image": _below(images[0], listed), "mask": _below(masks[0], listed) if masks else []}
  return _paired(
    collection,
    {(_folder(file, images[0]), stem(file)): file for file in files["image"]},
    {(_folder(file, masks[0]), _without_mask(stem(file))): file for file in files["mask"]},
  )


def read_masks_beside(root: pathlib.Path, listed: Listed) -> Collection | None:
  """Images anywhere, each with its mask beside it, `X.png` and `X_mask.png`."""
  files = _below(root, listed)
  masks = {(_folder(file, root), _without_mask(stem(file))): file for file in files if _is_mask(file)}
  if not masks:
    return None
  images = {(_folder(file, root), stem(file)): file for file in files if not _is_mask(file)}
  return _paired(Collection(root, "masks beside images"), images, masks)


def read_case_folders(root: pathlib.Path, listed: Listed) -> Collection | None:
  """A folder for each case with a NIfTI of each sequence and one of the mask, as BraTS has them."""
  of_case: dict[pathlib.Path, dict[str, pathlib.Path]] = {}
  twice = []
  for folder, files in listed.items():
    volumes = [file for file in files if file.name.lower().endswith(_VOLUMES)]
    if len(volumes) < 2 or folder == root:
      continue
    named = of_case.setdefault(folder, {})
    start = _common(volumes, folder)
    for file in volumes:
      word = stem(file)[len(start) :].strip("-_. ").lower()
      word = "mask" if sequences.in_name(word)[0] == "mask" else sequence_of(word)
      twice += [(file, named[word])] if word in named else []
      named[word] = file
  if not any("mask" in named for named in of_case.values()):
    return None
  collection = Collection(root, "a folder for each case")
  for file, other in twice:
    collection.problem(f"{file} and {other.name} are the same sequence by their names: move one of them away")
  counted = collections.Counter(word for named in of_case.values() for word in named if word != "mask")
  common = [word for word, count in counted.items() if 2 * count > len(of_case)]
  collection.channels = tuple(sorted(common))
  for word, count in counted.items():
    if count < len(of_case) and word in common:
      lacking = next(folder for folder, named in of_case.items() if word not in named)
      collection.problem(
        f"{lacking} has no {word}, as {count} of {len(of_case)} cases have: add it, or move the case away"
      )
    elif word not in common:
      collection.notes.append(f"{word} is left out, as {count} of {len(of_case)} cases alone have it")
  for folder, named in of_case.items():
    visit = _VISIT.fullmatch(folder.name)
    name = "_".join(folder.relative_to(root).parts)
    groups = tuple((named[word],) for word in collection.channels if word in named)
    if len(groups) == len(collection.channels):
      collection.cases.append(
        Case(name, visit[1] if visit else name, groups, (named["mask"],) if "mask" in named else ())
      )
  if set(collection.channels) == _BRATS:
    collection.layout = "BraTS"
  return collection


def sequence_of(word: str) -> str:
  """The one name of a sequence that BraTS has called by two."""
  return _SEQUENCES.get(word, word)


def brats_labels(values: list[int]) -> Labels:
  """What these numbers in masks of BraTS stand for."""
  return Labels({BRATS_LABELS[value]: (value,) for value in values}, tuple(values))


def _common(files: list[pathlib.Path], folder: pathlib.Path) -> str:
  """What the names of a case's files begin with: the folder's name, or as many whole words as they share."""
  names = [stem(file) for file in files]
  if all(name.startswith(folder.name) for name in names):
    return folder.name
  shared = os.path.commonprefix(names)  # noqa: RUF071
  return shared[: max(map(shared.rfind, "-_. ")) + 1]


def _below(folder: pathlib.Path, listed: Listed) -> list[pathlib.Path]:
  return [
    file
    for other, files in listed.items()
    if other.is_relative_to(folder)
    for file in files
    if file.name.lower().endswith((*_PICTURES, *_VOLUMES))
  ]


def _folder(file: pathlib.Path, root: pathlib.Path) -> str:
  return file.parent.relative_to(root).as_posix()


def _is_mask(file: pathlib.Path) -> bool:
  return _MASK_NAME.fullmatch(stem(file)) is not None


def _without_mask(name: str) -> str:
  match = _MASK_NAME.fullmatch(name)
  return match[1] if match and match[1] else name


Key = tuple[str, str]  # the folder of a file, and its name without suffix and `_mask`


def _paired(collection: Collection, images: dict[Key, pathlib.Path], masks: dict[Key, pathlib.Path]) -> Collection:
  """Puts the cases of images and their masks into the collection."""
  for key in sorted(masks.keys() - images.keys()):
    near = next(
      (file for other, file in images.items() if tuple(map(str.casefold, other)) == tuple(map(str.casefold, key))), None
    )
    remedy = (
      f"its name differs from {near.name} in capitals: rename one of them" if near else "add it, or move the mask away"
    )
    collection.problem(f"{masks[key]} has no image of its name: {remedy}")
  if masks:
    for key in sorted(images.keys() - masks.keys(), key=lambda key: discovery.natural("/".join(key))):
      collection.problem(f"{images[key]} has no mask of its name: add one, or move the image away")
  named = _case_names(collection.root)
  for name, keys in grouped({key: file for key, file in images.items() if key in masks or not masks}, named).items():
    _check_gaps(collection, name, keys)
    paired = tuple(masks[key] for key in keys if key in masks)
    collection.cases.append(Case(name, name, (tuple(images[key] for key in keys),), paired))
  return collection


def _case_names(root: pathlib.Path) -> set[str]:
  """The first column of `cases.csv`, where it is there: what a user names as a case is one."""
  path = root / "cases.csv"
  lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.is_file() else []
  column = lines[0].split(",").index("case") if lines and "case" in lines[0].split(",") else None
  return {line.split(",")[column] for line in lines[1:] if line.count(",") >= column} if column is not None else set()


def grouped(images: dict[Key, pathlib.Path], named: set[str]) -> dict[str, list[Key]]:
  """The images of each case, in the order of slices: by folder, and by the name before the last number."""
  apart = lambda folder, name: "_".join([*(part for part in folder.split("/") if part != "."), name]).strip("_")
  groups: dict[tuple[str, str], list[Key]] = {}
  for (folder, name), file in images.items():
    volume = file.name.lower().endswith(_VOLUMES) or (
      file.suffix.lower() in (".tif", ".tiff") and raster.is_stack(file)
    )
    alone = volume or name in named or apart(folder, name) in named
    groups.setdefault((folder, name if alone else _LAST_NUMBER.sub("", name)), []).append((folder, name))
  per_folder = collections.Counter(folder for folder, _ in groups)
  cases: dict[str, list[Key]] = {}
  for (folder, start), keys in groups.items():
    name = apart(folder, "" if folder != "." and per_folder[folder] == 1 and len(keys) > 1 else start) or "case"
    cases.setdefault(name, []).extend(keys)
  return {name: sorted(keys, key=lambda key: discovery.natural(key[1])) for name, keys in cases.items()}


def _check_gaps(collection: Collection, name: str, keys: list[Key]) -> None:
  """Slices are numbered in even steps; where they are not, one is missing, and its neighbours are not neighbours."""
  matches = [_LAST_NUMBER.search(key[1]) for key in keys]
  numbers = [int(match[1]) for match in matches if match]
  if len(numbers) < len(keys) or len(numbers) < 3:
    return
  steps = [after - before for before, after in itertools.pairwise(numbers)]
  if uneven := [index for index, step in enumerate(steps) if step != min(steps)]:
    jumps = [f"{numbers[index]} to {numbers[index + 1]}" for index in uneven]
    collection.problem(
      f"the slices of {name} in {collection.root} jump from {shown(jumps)}: add those that are missing, or name each image as a "
      "case in cases.csv"
    )
