"""Lists folders that a `dataset.json` describes: nnU-Net's, of both versions, and the Medical Segmentation Decathlon's."""

import json
import pathlib
import re
from typing import Any

from bt_jax.datasets.own_data.collection import Case, Collection, Labels, shown
from bt_jax.errors import UserError, one_line
from bt_jax.scans.sequences import stem

_NUMBERED = re.compile(r"(.+)_(\d{4})")
_SUFFIXES = (".nii.gz", ".nii", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".nrrd", ".mha", ".npz")


def read(root: pathlib.Path, listed: dict[pathlib.Path, list[pathlib.Path]]) -> Collection | None:
  """The cases of `imagesTr` and `labelsTr`; of `imagesTs`, or of the folder itself, where it holds scans alone."""
  path = next((one for one in (root / "dataset.json", root.parent / "dataset.json") if one.is_file()), None)
  training = root / "imagesTr"
  if path is None or (path.parent == root and not training.is_dir() and not (root / "imagesTs").is_dir()):
    return None
  collection = Collection(root, "")
  about = _about(path, collection)
  images = [file for file in listed.get(training if training.is_dir() else root, []) if _is_image(file)]
  numbered = [match for file in images if (match := _NUMBERED.fullmatch(stem(file)))]
  collection.channels = _channels(about, path, collection)
  collection.labels = _labels(about, path, collection)
  # nnU-Net has a file for each channel; the Decathlon one of four dimensions.
  if numbered:
    collection.layout = "nnU-Net"
    groups = _groups(images, collection)
  else:
    collection.layout = "Medical Segmentation Decathlon"
    groups = {stem(file): ((file,),) for file in images}
  masks = {stem(file): file for file in listed.get(root / "labelsTr", []) if _is_image(file)}
  for name in sorted(masks.keys() - groups.keys()):
    collection.problem(f"{masks[name]} has no image in {training}: add {name}_0000, or move the mask away")
  collection.cases = [
    Case(name, name, files, (masks[name],) if name in masks else ()) for name, files in groups.items()
  ]
  _read_splits(collection)
  return collection


def _is_image(file: pathlib.Path) -> bool:
  return file.name.lower().endswith(_SUFFIXES)


def _about(path: pathlib.Path, collection: Collection) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read as JSON ({one_line(error)}): correct it") from error
  if not isinstance(content, dict):
    raise UserError(f"{path} is not an object of JSON: expected nnU-Net's, with channel_names and labels")
  return content


def _channels(about: dict[str, Any], path: pathlib.Path, collection: Collection) -> tuple[str, ...]:
  names = about.get("channel_names") or about.get("modality")
  if not isinstance(names, dict) or not names or not all(str(number).isdecimal() for number in names):
    collection.problem(f'{path} has no channel_names, expected e.g. {{"0": "FLAIR", "1": "T1"}}: add them')
    return ()
  in_order = [str(names[number]) for number in sorted(names, key=int)]
  if sorted(map(int, names)) != list(range(len(names))):
    collection.problem(
      f"{path} numbers its channels {shown(sorted(map(int, names)), 9)}, expected 0, 1, ... without a gap"
    )
  return distinct(in_order)


def distinct(names: list[str]) -> tuple[str, ...]:
  """Names as `data.channels` can list them: without commas, signs before numbers, and each once."""
  plain = [re.sub(r"([+-])(?=\d+$)", "_", re.sub(r"[\s,]+", "_", name.strip())) or "channel" for name in names]
  return tuple(
    name if plain.count(name) == 1 else f"{name}_{plain[:index].count(name) + 1}" for index, name in enumerate(plain)
  )


def _labels(about: dict[str, Any], path: pathlib.Path, collection: Collection) -> Labels | None:
  """Of version 2, `{"edema": 1}` or regions `{"whole": [1, 2]}`; or of version 1, `{"1": "edema"}`."""
  said = about.get("labels")
  expected = 'expected e.g. {"background": 0, "edema": 1}'
  if not isinstance(said, dict) or not said:
    collection.problem(f"{path} has no labels, {expected}: add them")
    return None
  if all(str(name).isdecimal() and isinstance(value, str) for name, value in said.items()):
    said = {value: int(name) for name, value in said.items()}
  values = {}
  for name, numbers in said.items():
    numbers = tuple(numbers) if isinstance(numbers, list) else (numbers,)
    if not numbers or not all(isinstance(number, int) and 0 <= number < 256 for number in numbers):
      collection.problem(f"{path} has the label {name} {said[name]!r}, expected numbers from 0 to 255: correct it")
      return None
    if name == "ignore":
      collection.problem(
        f"{path} has an ignore label, which is not supported: mark those voxels as background or a class"
      )
    elif numbers != (0,):
      values[name.replace(",", " ")] = numbers
  if not values:
    collection.problem(f"{path} has no label but the background, {expected}: add them")
    return None
  ids = [numbers[0] for numbers in values.values()]
  if any(len(numbers) > 1 for numbers in values.values()):
    ids = about.get("regions_class_order")
    if not isinstance(ids, list) or len(ids) != len(values) or len(set(ids)) < len(ids):
      collection.problem(
        f"{path} has regions, and regions_class_order is {ids!r}, expected {len(values)} different numbers, one for each region in "
        "the order of labels"
      )
      return None
  if len(set(ids)) < len(ids):
    collection.problem(f"{path} gives two labels the same number: correct it")
    return None
  return Labels(values, tuple(ids))


def _groups(images: list[pathlib.Path], collection: Collection) -> dict[str, tuple[tuple[pathlib.Path, ...], ...]]:
  """The files of each case, by channel."""
  of_case: dict[str, dict[int, pathlib.Path]] = {}
  for file in images:
    match = _NUMBERED.fullmatch(stem(file))
    if not match:
      collection.problem(
        f"{file} is not named CASE_0000 and so on, as the other images are: rename it, or move it away"
      )
      continue
    channels = of_case.setdefault(match[1], {})
    if int(match[2]) in channels:
      collection.problem(f"{file} and {channels[int(match[2])].name} are the same channel: move one of them away")
    channels[int(match[2])] = file
  count = len(collection.channels)
  in_one = all(set(channels) == {0} for channels in of_case.values())  # colours in one file
  groups = {}
  for name, channels in of_case.items():
    if count and not in_one and sorted(channels) != list(range(count)):
      lacking = [number for number in range(count) if number not in channels]
      what = (
        f"lacks the channel {collection.channels[lacking[0]]} (_{lacking[0]:04d})"
        if lacking
        else f"has {len(channels)} channels"
      )
      collection.problem(
        f"{name} in {collection.root} {what}, expected {count} by dataset.json: add it, or leave the case out"
      )
      continue
    groups[name] = tuple((channels[number],) for number in sorted(channels))
  return groups


def _read_splits(collection: Collection) -> None:
  """The folds of `splits_final.json`, where it lies beside `dataset.json`: a case is in the fold that validates on it."""
  path = collection.root / "splits_final.json"
  if not path.is_file():
    return
  try:
    folds = [[str(name) for name in fold["val"]] for fold in json.loads(path.read_text(encoding="utf-8"))]
  except (OSError, ValueError, TypeError, KeyError) as error:
    collection.problem(
      f'{path} is not a list of {{"train": [...], "val": [...]}} ({one_line(error)}): correct it, or remove it'
    )
    return
  names, collection.folds = {case.name for case in collection.cases}, {}
  for number, fold in enumerate(folds):
    for name in fold:
      if name not in names:
        collection.problem(
          f"{path} names {name}, which is not in {collection.root / 'imagesTr'}: remove it there, or add the case"
        )
      elif name in collection.folds:
        collection.problem(
          f"{path} has {name} in val of the folds {collection.folds[name]} and {number}: expected one of them"
        )
      else:
        collection.folds[name] = number
  if untested := [case.name for case in collection.cases if case.name not in collection.folds]:
    collection.notes.append(
      f"{len(untested)} cases are in no val of splits_final.json, and always train: {shown(untested)}"
    )
