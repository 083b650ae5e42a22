"""Finds cases without masks for a network whose channels are known: in the layouts that training reads, and by names."""

import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from bt_jax.datasets.own_data import folders
from bt_jax.datasets.own_data.collection import READ, Case, shown, stem
from bt_jax.errors import UserError
from bt_jax.scans import discovery, sequences
from bt_jax.scans.file_types import EXPECTED

_NUMBERED = re.compile(r"(.+)_(\d{4})")
_NO_IMAGES = re.compile(r"masks?|labels?(tr|ts)?|segmentations?|annotations?|probabilities|overlays", re.IGNORECASE)
Files = dict[pathlib.Path, list[pathlib.Path]]


class Found(NamedTuple):
  """A case, or why it cannot be predicted."""

  case: Case
  refusal: str = ""


def find(path: pathlib.Path, channels: Sequence[str]) -> list[Found]:
  """The cases in a file or a folder, in natural order of their names.

  Args:
    path: a file that has all channels; or a folder: nnU-Net's `imagesTs` or its parent, files named by their channels,
      volumes of all channels, or slices.
    channels: channels of the network.

  Raises:
    UserError: there is nothing to read.
  """
  if path.is_file():
    return [Found(Case(stem(path), stem(path), ((path,),)))]
  if not path.is_dir():
    raise UserError(f"{path} is not there: name a file or a folder that is ({EXPECTED})", "input")
  root = path / "imagesTs" if (path / "imagesTs").is_dir() else path
  listed = {folder: files for folder, files in _walk(root) if files}
  find_by: tuple[Callable[[pathlib.Path, Files, Sequence[str]], list[Found]], ...] = (_numbered, _named, _whole)
  matches = next((cases for find in find_by if (cases := find(root, listed, channels))), [])
  if not matches:
    raise UserError(
      f"{root} holds no case of {', '.join(channels)}, {EXPECTED}: name files as nnU-Net does, CASE_0000 and so on in this order, or by "
      "their channels",
      "input",
    )
  return sorted(matches, key=lambda one: discovery.natural(one.case.name))


def _walk(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[pathlib.Path]]]:
  """Folders and the images in them, without masks and labels."""
  is_mask = lambda file: sequences.in_name(stem(file))[0] == "mask"
  for folder, files in discovery.walk(root, enter=lambda name: not _NO_IMAGES.fullmatch(name)):
    yield folder, [file for file in files if file.name.lower().endswith(READ) and not is_mask(file)]


def _numbered(root: pathlib.Path, listed: Files, channels: Sequence[str]) -> list[Found]:
  """Cases whose files end in nnU-Net's numbers of channels."""
  groups: dict[str, dict[int, pathlib.Path]] = {}
  twice: dict[str, str] = {}
  for folder, files in listed.items():
    matches = [_NUMBERED.fullmatch(stem(file)) for file in files]
    if not all(matches):
      return []
    for file, match in zip(files, matches, strict=True):
      name = "_".join([*folder.relative_to(root).parts, match[1]])
      _put(groups.setdefault(name, {}), int(match[2]), file, twice, name)
  matched = []
  for name, files in groups.items():
    lacking = [channel for number, channel in enumerate(channels) if number not in files]
    whole = sorted(files) == [0] and not _is_volume(files[0])  # colours in one file
    groups_of_case = tuple((files[number],) for number in sorted(files) if number < len(channels))
    refusal = (
      f"lacks {shown(lacking)} out of {', '.join(channels)}: add it, or leave the case out"
      if lacking and not whole
      else ""
    )
    if len(files) > len(channels):
      refusal = f"has {len(files)} channels, and the network takes {len(channels)} ({', '.join(channels)}): leave the others out"
    matched.append(Found(Case(name, name, groups_of_case), twice.get(name) or refusal))
  return matched


def _named(root: pathlib.Path, listed: Files, channels: Sequence[str]) -> list[Found]:
  """Cases with a file for each channel, whose name ends with that of the channel, as in BraTS."""
  wanted = {_plain(channel): channel for channel in channels}
  cases: dict[str, dict[str, pathlib.Path]] = {}
  twice: dict[str, str] = {}
  for folder, files in listed.items():
    for file in files:
      word = next((word for word in _ends(stem(file)) if folders.sequence_of(_plain(word)) in wanted), None)
      if word is None:
        continue
      start = stem(file)[: len(stem(file)) - len(word)].strip("-_. ")
      name = "_".join([*folder.relative_to(root).parts, *([start] if start not in ("", folder.name) else [])])
      name = name or root.resolve().name
      _put(cases.setdefault(name, {}), wanted[folders.sequence_of(_plain(word))], file, twice, name)
  if not any(len(files) == len(channels) for files in cases.values()) or len(channels) == 1:
    return []
  matched = []
  for name, files in cases.items():
    lacking = [channel for channel in channels if channel not in files]
    refusal = f"lacks {shown(lacking)} out of {', '.join(channels)}: add it, or leave the case out" if lacking else ""
    groups = tuple((files[channel],) for channel in channels if channel in files)
    matched.append(Found(Case(name, name, groups), twice.get(name) or refusal))
  return matched


def _put(files: dict[Any, pathlib.Path], channel: Any, file: pathlib.Path, twice: dict[str, str], name: str) -> None:
  """Adds the file of a channel; where there is one already, neither is chosen, and the case is refused."""
  if (other := files.setdefault(channel, file)) is not file:
    twice[name] = f"has {other.name} and {file.name} for one channel, of which one would be read: move one of them away"


def _whole(root: pathlib.Path, listed: Files, channels: Sequence[str]) -> list[Found]:
  """Volumes that have all channels in one file, and slices, grouped as in training."""
  images = {(file.parent.relative_to(root).as_posix(), stem(file)): file for files in listed.values() for file in files}
  grouped = folders.grouped(images, set())
  return [Found(Case(name, name, (tuple(images[key] for key in keys),))) for name, keys in grouped.items()]


def _is_volume(file: pathlib.Path) -> bool:
  return file.name.lower().endswith((".nii.gz", ".nii"))


def _plain(name: str) -> str:
  return re.sub(r"[^a-z0-9]+", "", name.lower())


def _ends(name: str) -> list[str]:
  """The last three, two and one words of a name, e.g. `t1_ce`, the longest first."""
  words = [match.start() for match in re.finditer(r"(?:(?<=[^A-Za-z0-9])|^)[A-Za-z0-9]", name)]
  return [name[start:] for start in words[-3:]]
