"""Lists the cases of folders that a `dataset.json` describes: nnU-Net's, of both versions, and the Medical Segmentation Decathlon's."""

import pathlib
import re
from typing import Any

from bt_jax.datasets.own_data.collection import (
  Case,
  Collection,
  Labels,
  Spacing,
  in_capitals,
  is_image,
  patient_of,
  plain,
  read_json,
  shown,
  stem,
)  # fmt: skip
from bt_jax.errors import UserError

_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_NUMBERED = re.compile(r"(.+)_(\d{4})")
Groups = dict[str, tuple[tuple[pathlib.Path, ...], ...]]


def read(root: pathlib.Path, listed: dict[pathlib.Path, list[pathlib.Path]]) -> Collection | None:
  """The cases of `imagesTr` and `labelsTr`, or of a folder that itself holds scans, such as `imagesTs`.

  Raises:
    UserError: `dataset.json` is missing beside `imagesTr`, or is not a JSON object, or a folder differs in capitals.
  """
  for folder in listed:
    right = next((name for name in _FOLDERS if name.casefold() == folder.name.casefold()), folder.name)
    if folder.parent == root and folder.name != right:
      raise UserError(f"{folder} is called {right} in nnU-Net: rename it")
  training = root / "imagesTr"
  beside = [root] if training in listed or root / "imagesTs" in listed else [root.parent] if listed[root] else []
  path = next((folder / "dataset.json" for folder in beside if (folder / "dataset.json").is_file()), None)
  if path is None:
    if training in listed:
      raise UserError(f"{root} has imagesTr/, and no dataset.json, which names channels and labels: add nnU-Net's")
    return None
  collection = Collection(root, "", described=[path])
  about = read_json(path)
  if not isinstance(about, dict):
    raise UserError(f"{path} is not a JSON object: expected nnU-Net's, with channel_names and labels")
  collection.channels = _channels(about, path, collection)
  collection.labels = _labels(about, path, collection)
  images = [file for file in listed.get(training, listed[root]) if is_image(file)]
  masks = [file for file in listed.get(root / "labelsTr", []) if is_image(file)]
  pairs = _listed_pairs(about, path, collection)
  # nnU-Net has a file for each channel; the Decathlon one of four dimensions, and a list of pairs.
  if any(image.is_file() for image, _ in pairs) or not any(_NUMBERED.fullmatch(stem(file)) for file in images):
    collection.layout = "Medical Segmentation Decathlon"
    _read_pairs(collection, path, pairs or _pairs(collection, images, masks))
  else:
    collection.layout = "nnU-Net"
    _read_numbered(collection, images, masks, training)
  if isinstance(number := about.get("numTraining"), int) and training in listed and number != len(collection.names):
    collection.notes.append(f"{path.name} says {number} cases, and {len(collection.names)} are there")
  return collection


def _listed_pairs(
  about: dict[str, Any], path: pathlib.Path, collection: Collection
) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Image and mask of each entry of `training`; none where there is no such list."""
  entries, pairs = about.get("training", []), []
  for entry in entries if isinstance(entries, list) else []:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("image", "label")):
      collection.problem(f"{path} has {entry!r} in training, expected an image and a label: correct it")
      continue
    image, mask = (entry[name].replace("\\", "/").removeprefix("./") for name in ("image", "label"))
    pairs.append((path.parent / image, path.parent / mask))
  return pairs


def _pairs(
  collection: Collection, images: list[pathlib.Path], masks: list[pathlib.Path]
) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Pairs images and masks by name."""
  of_image, of_mask = collection.by_name(images, stem), collection.by_name(masks, stem)
  in_small = {name.casefold(): file for name, file in of_image.items()}
  for name in sorted(of_mask.keys() - of_image.keys()):
    remedy = in_capitals(name, in_small, "add it, or move the mask away")
    collection.problem(f"{of_mask[name]} has no image of its name: {remedy}")
  return [(file, of_mask.get(name, file.parent)) for name, file in of_image.items()]


def _read_pairs(collection: Collection, path: pathlib.Path, pairs: list[tuple[pathlib.Path, pathlib.Path]]) -> None:
  for image, mask in pairs:
    name = stem(image)
    if not image.is_file():
      collection.problem(f"{path} lists {image}, which is not there: add it, or leave it out of training")
      collection.refused.add(name)
    else:
      collection.cases.append(Case(name, patient_of(name), ((image,),), (mask,) if mask.is_file() else ()))


def _read_numbered(
  collection: Collection, images: list[pathlib.Path], masks: list[pathlib.Path], training: pathlib.Path
) -> None:
  groups, of_mask = _groups(images, collection), collection.by_name(masks, stem)
  in_small = {name.casefold(): files[0][0] for name, files in groups.items()}
  for name in sorted(of_mask.keys() - groups.keys() - collection.refused):
    remedy = in_capitals(name, in_small, f"add {name}_0000, or move the mask away")
    collection.problem(f"{of_mask[name]} has no image in {training}: {remedy}")
  for name, files in groups.items():
    mask = (of_mask[name],) if name in of_mask else ()
    collection.cases.append(Case(name, patient_of(name), files, mask, _spacing(files[0][0], name, collection)))


def _spacing(image: pathlib.Path, name: str, collection: Collection) -> Spacing | None:
  """The spacing in `CASE.json` beside a TIFF, as in nnU-Net; None where there is none."""
  path = image.with_name(f"{name}.json")
  if not image.name.lower().endswith((".tif", ".tiff")) or not path.is_file():
    return None
  collection.described.append(path)
  try:
    sizes = read_json(path)["spacing"]
    if len(sizes) != 3 or not all(isinstance(size, int | float) and 0 < size < 1e3 for size in sizes):
      raise ValueError
  except UserError as error:
    collection.unreadable(path, error)
  except (KeyError, TypeError, ValueError):
    collection.problem(f'{path} has no {{"spacing": [slices, rows, columns]}} in mm: correct it')
  else:
    return tuple(map(float, sizes))
  return None


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
  """Names that `data.channels` can list: unique, and without commas or signs before numbers."""
  usable = [re.sub(r"([+-])(?=\d+$)", "_", re.sub(r"[\s,]+", "_", plain(name))) or "channel" for name in names]
  return tuple(
    name if usable.count(name) == 1 else f"{name}_{usable[:index].count(name) + 1}" for index, name in enumerate(usable)
  )


def _labels(about: dict[str, Any], path: pathlib.Path, collection: Collection) -> Labels | None:
  """Labels of version 2, `{"edema": 1}` or regions `{"whole": [1, 2]}`, or of version 1, `{"1": "edema"}`; None if wrong."""
  labels = about.get("labels")
  try:
    if not isinstance(labels, dict) or not labels:
      raise UserError('has no labels, expected e.g. {"background": 0, "edema": 1}: add them')
    if all(name.isdecimal() and isinstance(value, str) and not value.isdecimal() for name, value in labels.items()):
      if len({*labels.values()}) < len(labels):
        raise UserError("calls two labels alike: rename one")
      labels = {value: int(name) for name, value in labels.items()}
    values = _values(labels)
    if zeros := [name for name, value in labels.items() if value in (0, "0", [0]) and name.lower() != "background"]:
      collection.notes.append(f"the label {shown(zeros)} is 0, and taken as the background")
    return Labels(values, _ids(about, values))
  except UserError as error:
    collection.problem(f"{path} {error}")
    return None


def _values(labels: dict[str, Any]) -> dict[str, tuple[int, ...]]:
  """The numbers of each class, without the background."""
  values: dict[str, tuple[int, ...]] = {}
  for name, given in labels.items():
    numbers = tuple(_number(name, one) for one in (given if isinstance(given, list) and given else [given]))
    name = plain(name.replace(",", " "))
    if name.lower() == "ignore":
      raise UserError("has an ignore label, which is not supported: mark those voxels as background or a class")
    if name.lower() == "background" and numbers != (0,):
      raise UserError(f"has the background {given!r}, expected 0: correct it, and the masks")
    if numbers == (0,):
      continue
    if 0 in numbers:
      raise UserError(f"has the label {name} {given!r}, and 0 is the background alone: correct it")
    if name in values or not name:
      raise UserError(f"has {'two labels' if name else 'a label without a name,'} {name}: rename one")
    values[name] = numbers
  if not values:
    raise UserError('has no label but the background, expected e.g. {"background": 0, "edema": 1}: add them')
  return values


def _number(name: str, given: Any) -> int:
  text = str(given)
  if isinstance(given, bool) or not isinstance(given, int | str) or not text.isdecimal() or int(text) > 255:
    raise UserError(f"has the label {name} {given!r}, expected numbers from 0 to 255: correct it")
  return int(text)


def _ids(about: dict[str, Any], values: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
  """The number of each class in masks that are written: its own, or, with regions, that of `regions_class_order`."""
  ids = [numbers[0] for numbers in values.values()]
  if any(len(numbers) > 1 for numbers in values.values()):
    ids = about.get("regions_class_order")
    right = isinstance(ids, list) and all(type(label) is int and 0 < label < 256 for label in ids)
    if not right or len(ids) != len(values) or len(set(ids)) < len(ids):
      raise UserError(
        f"has regions, and regions_class_order is {ids!r}, expected {len(values)} different numbers from 1 to 255, one for each "
        "region in the order of labels: correct it"
      )
    _check_order(ids, values)
  if len(set(ids)) < len(ids):
    raise UserError("gives two labels the same number: correct it")
  return tuple(ids)


def _check_order(ids: list[int], values: dict[str, tuple[int, ...]]) -> None:
  """Raises UserError where masks that are written would not be numbered as those that were read.

  As in nnU-Net, regions are written one over the other: each keeps the numbers that no later one has.
  """
  later: set[int] = set()
  for (name, numbers), label in reversed(list(zip(values.items(), ids, strict=True))):
    kept = sorted(set(numbers) - later)
    if not kept:
      raise UserError(
        f"has the region {name} before regions that cover all of it and are written over it: list larger regions first, in labels "
        "and in regions_class_order"
      )
    if label not in kept:
      raise UserError(
        f"gives the region {name} the number {label} in regions_class_order, expected {' or '.join(map(str, kept))}, which it has and "
        "no later region: correct it"
      )
    later.update(numbers)


def _groups(images: list[pathlib.Path], collection: Collection) -> Groups:
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
      lacking = [f"{collection.channels[number]} (_{number:04d})" for number in range(count) if number not in channels]
      what = f"lacks the channel {shown(lacking)}" if lacking else f"has {len(channels)} channels"
      collection.problem(
        f"{name} in {collection.root} {what}, expected {count} by dataset.json: add it, or leave the case out"
      )
      collection.refused.add(name)
    else:
      groups[name] = tuple((channels[number],) for number in sorted(channels))
  return groups
