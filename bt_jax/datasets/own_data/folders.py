"""Lists the cases of folders that no file describes: images/ and masks/, masks beside their images, and a folder for each case."""

import collections
import itertools
import os
import pathlib
import re

from bt_jax.datasets.own_data.cases_table import case_names
from bt_jax.datasets.own_data.collection import (
  Case,
  Collection,
  Labels,
  in_capitals,
  is_image,
  patients_of,
  plain,
  shown,
  stem,
)
from bt_jax.datasets.own_data.nnunet import distinct
from bt_jax.errors import UserError
from bt_jax.scans import discovery, raster, sequences

Listed = dict[pathlib.Path, list[pathlib.Path]]
Key = tuple[str, str]  # the folder of a file, and its name without suffix and `_mask`
_IMAGES = re.compile(r"images?|imgs?|scans?|x", re.IGNORECASE)
_MASKS = re.compile(r"masks?|labels?|segmentations?|annotations?|y", re.IGNORECASE)
_VOLUMES, _STACKS = (".nii.gz", ".nii"), (".tif", ".tiff")
# A name that ends in such a word, after a character that is not a letter.
_MASK_NAME = re.compile(r"(?:(.*?)(?:[-_. ]+|(?<=\d)))?(?:mask|seg|segmentation|label|labels|gt)", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"[-_. ]*(\d+)(?!.*\d)")
# BraTS has two names for each sequence, of which one is mapped to the other; and the meaning of its labels since 2017.
_SEQUENCES = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
_BRATS = {"flair", "t1", "t1ce", "t2"}
BRATS_LABELS = {1: "necrosis", 2: "oedema", 3: "enhancing", 4: "enhancing"}


def read_images_and_masks(root: pathlib.Path, listed: Listed) -> Collection | None:
  """A folder of images, and one of masks of the same names, with or without `_mask` at their end.

  Raises:
    UserError: there are several folders of masks.
  """
  below = [folder for folder in listed if folder.parent == root]
  images = [folder for folder in below if _IMAGES.fullmatch(folder.name)]
  masks = [folder for folder in below if _MASKS.fullmatch(folder.name)]
  if len(images) != 1:
    return None
  if len(masks) > 1:
    raise UserError(f"{root} has {shown([folder.name for folder in masks])} for masks, expected one: move others away")
  collection = Collection(root, f"{images[0].name}/ and {masks[0].name}/" if masks else f"{images[0].name}/")
  of_images = collection.by_name(_below(images[0], listed), lambda file: (_folder(file, images[0]), stem(file)))
  # A mask has the name of its image, which may itself end in `_seg`, or that name and `_mask`.
  named = lambda folder, name: (folder, name if (folder, name) in of_images else _without_mask(name))
  of_masks = collection.by_name(
    _below(masks[0], listed) if masks else [], lambda file: named(_folder(file, masks[0]), stem(file))
  )
  return _paired(collection, of_images, of_masks)


def read_masks_beside(root: pathlib.Path, listed: Listed) -> Collection | None:
  """Images anywhere, each with its mask beside it, `X.png` and `X_mask.png`."""
  files = _below(root, listed)
  masks = [file for file in files if _is_mask(file)]
  if not masks:
    return None
  collection = Collection(root, "masks beside images")
  return _paired(
    collection,
    collection.by_name([file for file in files if not _is_mask(file)], lambda file: (_folder(file, root), stem(file))),
    collection.by_name(masks, lambda file: (_folder(file, root), _without_mask(stem(file)))),
  )


def read_case_folders(root: pathlib.Path, listed: Listed) -> Collection | None:
  """A folder for each case with a NIfTI of each sequence and one of the mask, as BraTS has them."""
  collection = Collection(root, "a folder for each case")
  of_case: dict[pathlib.Path, dict[str, pathlib.Path]] = {}
  for folder, files in listed.items():
    volumes = [file for file in files if file.name.lower().endswith(_VOLUMES)]
    if volumes and folder != root:
      words = _words(volumes, folder)
      of_case[folder] = collection.by_name(volumes, words.__getitem__)
  with_mask = sum("mask" in named and len(named) > 1 for named in of_case.values())
  several = sum(sum(_is_mask(file) for file in listed[folder]) > 1 for folder in of_case)
  if not with_mask or 2 * several > len(of_case):
    return None
  counted = collections.Counter(word for named in of_case.values() for word in named if word != "mask")
  common = sorted(word for word, count in counted.items() if 2 * count > len(of_case))
  collection.channels = distinct(common)
  name_of = {folder: plain("_".join(folder.relative_to(root).parts)) for folder in of_case}
  patient_of_case = patients_of(
    {name: list(map(plain, folder.relative_to(root).parts)) for folder, name in name_of.items()}
  )
  for folder, named in of_case.items():
    name = name_of[folder]
    if lacking := [word for word in common if word not in named]:
      collection.refused.add(name)
      collection.problem(
        f"{folder} has no {shown(lacking)}, as {counted[lacking[0]]} of {len(of_case)} cases have: add it, or move the case away"
      )
    else:
      masks = (named["mask"],) if "mask" in named else ()
      collection.cases.append(Case(name, patient_of_case[name], tuple((named[word],) for word in common), masks))
  for word in counted.keys() - common:
    collection.notes.append(f"{word} is left out, as only {counted[word]} of {len(of_case)} cases have it")
  if set(collection.channels) == _BRATS:
    collection.layout = "BraTS"
  return collection


def sequence_of(word: str) -> str:
  """One name for a sequence that has two in BraTS."""
  return _SEQUENCES.get(word, word)


def brats_labels(values: list[int]) -> Labels:
  """The labels for these numbers in masks of BraTS."""
  return Labels({BRATS_LABELS[value]: (value,) for value in values}, tuple(values))


def _words(files: list[pathlib.Path], folder: pathlib.Path) -> dict[pathlib.Path, str]:
  """The sequence of each file of a case: its name after the folder's, or after the whole words that all files share."""
  names = {file: stem(file) for file in files}
  start = plain(folder.name)
  if not any(name.startswith(start) for name in names.values()):
    shared = os.path.commonprefix([*names.values()])  # noqa: RUF071
    start = shared[: max(map(shared.rfind, "-_. ")) + 1]
  words = {}
  for file, name in names.items():
    word = name.removeprefix(start).strip("-_. ").lower() or "image"
    words[file] = "mask" if sequences.in_name(word)[0] == "mask" else sequence_of(word)
  return words


def _below(folder: pathlib.Path, listed: Listed) -> list[pathlib.Path]:
  return [file for other, files in listed.items() if other.is_relative_to(folder) for file in files if is_image(file)]


def _folder(file: pathlib.Path, root: pathlib.Path) -> str:
  return plain(file.parent.relative_to(root).as_posix())


def _is_mask(file: pathlib.Path) -> bool:
  return _MASK_NAME.fullmatch(stem(file)) is not None


def _without_mask(name: str) -> str:
  match = _MASK_NAME.fullmatch(name)
  return match[1] if match and match[1] else name


def _paired(collection: Collection, images: dict[Key, pathlib.Path], masks: dict[Key, pathlib.Path]) -> Collection:
  """Adds the cases of images and their masks to the collection."""
  in_small = {"/".join(key).casefold(): file for key, file in images.items()}
  for key in sorted(masks.keys() - images.keys()):
    remedy = in_capitals("/".join(key), in_small, "add it, or move the mask away")
    collection.problem(f"{masks[key]} has no image of its name: {remedy}")
  named = case_names(collection.root)
  groups = grouped(images, named)
  patient_of_case = patients_of(
    {name: [*filter(None, keys[0][0].strip(".").split("/"))] for name, keys in groups.items()}
  )
  for name, keys in groups.items():
    lacking = [key for key in keys if key not in masks] if masks else []
    for key in lacking:
      collection.problem(f"{images[key]} has no mask of its name: add one, or move the image away")
    if lacking:
      collection.refused.add(name)
      continue
    _check_gaps(collection, [images[key] for key in keys])
    paired = tuple(masks[key] for key in keys if key in masks)
    collection.cases.append(Case(name, patient_of_case[name], (tuple(images[key] for key in keys),), paired))
  return collection


def grouped(images: dict[Key, pathlib.Path], named: set[str]) -> dict[str, list[Key]]:
  """The images of each case, in the order of slices: by folder, and by the name before the last number.

  Args:
    images: images by folder and name.
    named: names of cases in `cases.csv`; an image of such a name is a case of its own.
  """
  apart = lambda folder, name: "_".join([*(part for part in folder.split("/") if part != "."), name]).strip("_")
  groups: dict[tuple[str, str], list[Key]] = {}
  for (folder, name), file in images.items():
    alone = name in named or apart(folder, name) in named or _is_volume(file)
    groups.setdefault((folder, name if alone else _LAST_NUMBER.sub("", name)), []).append((folder, name))
  per_folder = collections.Counter(folder for folder, _ in groups)
  cases: dict[str, list[Key]] = {}
  for (folder, start), keys in groups.items():
    name = apart(folder, "" if folder != "." and per_folder[folder] == 1 and len(keys) > 1 else start) or "case"
    if name in cases:  # as `a_b`, and `b` in a folder `a`
      name = next(other for number in itertools.count(2) if (other := f"{name}_{number}") not in cases)
    cases[name] = sorted(keys, key=lambda key: discovery.natural(key[1]))
  return cases


def _is_volume(file: pathlib.Path) -> bool:
  """Whether a file is a case of its own: a NIfTI, or a TIFF of several pages."""
  name = file.name.lower()
  try:
    return name.endswith(_VOLUMES) or (name.endswith(_STACKS) and raster.is_stack(file))
  except Exception:  # any error of tifffile over damaged tags; reading the file will report it
    return False


def _check_gaps(collection: Collection, files: list[pathlib.Path]) -> None:
  """Adds a problem where the numbers of slices do not go in even steps: one slice is missing, or is there twice."""
  matches = [_LAST_NUMBER.search(stem(file)) for file in files]
  numbers = [int(match[1]) for match in matches if match]
  if len(numbers) < len(files) or len(numbers) < 2:
    return
  steps = [after - before for before, after in itertools.pairwise(numbers)]
  if 0 in steps:
    index = steps.index(0)
    collection.problem(f"{files[index + 1]} and {files[index].name} are one slice by their numbers: rename one of them")
  elif uneven := [index for index, step in enumerate(steps) if step != min(steps)]:
    jumps = [f"{numbers[index]} to {numbers[index + 1]}" for index in uneven]
    collection.problem(
      f"the slices after {files[uneven[0]]} jump from {shown(jumps)}: add those that are missing, or name each image as a "
      "case in cases.csv"
    )
