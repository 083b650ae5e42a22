"""Groups the files of one folder into studies by their names: FLAIR, the sequences beside it, and files to leave out."""

import collections
import json
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from bt_jax.scans import sequences
from bt_jax.schema import CHANNELS

_CHANNEL = re.compile(r"(.+)_(\d{4})")  # as nnU-Net numbers the sequences of one patient
_MOST_CHANNELS = 8  # more files with consecutive numbers are patients


class Study(NamedTuple):
  """The files of one study.

  Attributes:
    name: the path of its outputs below the output folder; empty where the input itself is the study.
    format: a name of `FORMATS`, or `zip`: what is in it shows when it is read.
    files: in the order of slices; only FLAIR where `given` has other roles; or a zip.
    given: a path (images, NIfTI) or a SeriesInstanceUID (DICOM) for each role.
    left_out: files beside it that are not a sequence for the networks, in words.
    refusal: why it cannot be read, as far as names show; empty where it can.
    arguments: the arguments that the remedy names, see `UserError`.
  """

  name: str
  format: str
  files: tuple[pathlib.Path, ...]
  given: dict[str, str]
  left_out: tuple[str, ...] = ()
  refusal: str = ""
  arguments: tuple[str, ...] = ()

  @property
  def of_series(self) -> bool:
    """Whether `given` names series of DICOM, rather than files."""
    return self.format in ("dicom", "zip")


class _Volume(NamedTuple):
  role: str | None
  name: str  # without the words for its role
  stem: str
  files: tuple[pathlib.Path, ...]

  def in_words(self) -> str:
    file = self.files[0].name if len(self.files) == 1 else f"{self.files[0].name} and {len(self.files) - 1} more"
    return f"{file} ({sequences.IN_WORDS[self.role] if self.role else 'not called FLAIR'})"


def of_names(format: str, volumes: Sequence[tuple[str, tuple[pathlib.Path, ...]]], folder: str) -> list[Study]:
  """The studies among the volumes of one folder.

  Beside a FLAIR, volumes that are not a sequence of the same study are left out. Where no name says FLAIR, a volume whose
  name says nothing is taken as FLAIR, and one that is known to be something else is refused.

  Args:
    format: `images` or `nifti`.
    volumes: the name and the files of each volume.
    folder: name of the folder, used for volumes whose own names say nothing; empty for the root.
  """
  named = [_volume(*volume, folder) for volume in volumes]
  studies, left = _channels(format, named)
  groups = collections.defaultdict(list)
  for volume in left:
    groups[volume.name].append(volume)
  flairs = {name: group for name, group in groups.items() if any(one.role == "flair" for one in group)}
  studies += [_around_flair(format, name, group) for name, group in flairs.items()]
  beside = []
  for name, group in groups.items():
    if name in flairs:
      continue
    of_patient = len(flairs) != 1 and any(
      one.role in CHANNELS for one in group
    )  # one of several patients in the folder
    if flairs and not of_patient:
      beside += group
    else:
      studies += _without_flair(format, name, group)
  return [_with_left_out(study, beside, studies) for study in studies]


def _without_flair(format: str, name: str, group: Sequence[_Volume]) -> list[Study]:
  """A study for each volume whose name says nothing; a refusal where every name says something; nothing where all are masks."""
  known = tuple(one.in_words() for one in group if one.role)
  if unknown := [one for one in group if one.role is None]:
    return [Study(one.stem, format, one.files, {}, known) for one in unknown]
  if all(one.role == "mask" for one in group):
    return []
  refusal = f"has no FLAIR, but {_listed(known)}: name the file of FLAIR alone, as flair"
  return [Study(name, format, group[0].files, {}, (), refusal, ("flair",))]


def _volume(stem: str, files: tuple[pathlib.Path, ...], folder: str) -> _Volume:
  role, name = sequences.in_name(stem)
  if role is None:
    of_folder = sequences.in_name(folder)[0]
    role = None if of_folder == "mask" else of_folder
  return _Volume(role, name, stem, files)


def _around_flair(format: str, name: str, group: Sequence[_Volume]) -> Study:
  by_role = collections.defaultdict(list)
  for volume in group:
    by_role[volume.role].append(volume)
  (flair, *_) = by_role["flair"]
  left_out = tuple(one.in_words() for one in group if one.role not in CHANNELS)
  twice = next((role for role in CHANNELS if len(by_role[role]) > 1), None)
  if twice:
    choices = [one.files[0].name for one in by_role[twice]]
    refusal = (
      f"has several files of {sequences.IN_WORDS[twice]} ({_listed(choices)}): name the files alone, one as {twice}"
    )
    return Study(name, format, flair.files, {}, left_out, refusal, tuple(dict.fromkeys(("flair", twice))))
  others = {role: by_role[role][0] for role in CHANNELS if role != "flair" and by_role[role]}
  if format == "images" and any(len(one.files) > 1 for one in (flair, *others.values())):
    return Study(name, format, flair.files, {}, left_out + tuple(one.in_words() for one in others.values()))
  return Study(name, format, flair.files, {role: str(one.files[0]) for role, one in others.items()}, left_out)


def _with_left_out(study: Study, others: Sequence[_Volume], studies: Sequence[Study]) -> Study:
  """Adds the volumes left out beside a study: those whose names begin like it, and those that begin like no study."""
  owners = lambda volume: [one.name for one in studies if one.name and volume.stem.startswith(one.name)]
  mine = [one for one in others if study.name in (owners(one) or [study.name])]
  return study._replace(left_out=study.left_out + tuple(one.in_words() for one in mine))


def _channels(format: str, volumes: Sequence[_Volume]) -> tuple[list[Study], list[_Volume]]:
  """Studies whose sequences are numbered `_0000`, `_0001`, ... as nnU-Net has them, and the other volumes."""
  groups = collections.defaultdict(list)
  for volume in volumes:
    match = _CHANNEL.fullmatch(volume.stem) if format == "nifti" and volume.role is None else None
    if match:
      groups[match[1]].append((int(match[2]), volume))
  studies, taken = [], set()
  for name, group in groups.items():
    numbers, members = zip(*sorted(group), strict=True)
    if numbers != (*range(len(group)),) or not 1 < len(group) <= _MOST_CHANNELS:
      continue
    taken.update(members)
    stated = _dataset_names(members[0].files[0].parent)
    if any(number not in stated for number in numbers):
      refusal = (
        f"has {len(group)} files that differ in _0000, _0001, ... alone, as sequences of nnU-Net do, and no dataset.json "
        "beside them says which one is FLAIR: copy nnU-Net's there, with its channel_names; or name the file of FLAIR "
        "alone, as flair; or, where they are patients, give each a folder"
      )
      studies.append(Study(name, format, members[0].files, {}, (), refusal, ("flair",)))
      continue
    renamed = [one._replace(role=sequences.in_name(stated[number])[0], name=name) for number, one in sorted(group)]
    if any(one.role == "flair" for one in renamed):
      studies.append(_around_flair(format, name, renamed))
    else:
      known = _listed([one.in_words() for one in renamed])
      studies.append(Study(name, format, members[0].files, {}, (), f"has no FLAIR by dataset.json, but {known}"))
  return studies, [one for one in volumes if one not in taken]


def _dataset_names(folder: pathlib.Path) -> dict[int, str]:
  """What nnU-Net's `dataset.json`, in a folder or its parent, calls each channel; empty where there is none."""
  for path in (folder / "dataset.json", folder.parent / "dataset.json"):
    try:
      content = json.loads(path.read_text(encoding="utf-8"))
      names = content.get("channel_names") or content.get("modality") or {}
      return {int(number): str(name) for number, name in names.items()}
    except (OSError, ValueError, AttributeError):
      continue
  return {}


def _listed(names: Sequence[str]) -> str:
  return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
