"""Finds the studies in a folder, by the names and first bytes of its files."""

import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bt_jax.errors import UserError
from bt_jax.scans import dicom, discovery, images, roles
from bt_jax.scans.kinds import EXPECTED, kind_of
from bt_jax.scans.roles import stem

_OUTPUTS = re.compile(r"(.*_)?(mask|probability|overlay)|contact_sheet", re.IGNORECASE)
_NO_SCANS = re.compile(
  r"masks?|labels?|segmentations?|annotations?|probabilities|overlays", re.IGNORECASE
)  # of folders
_LAST_NUMBER = re.compile(r"[-_. ]*\d+(?!.*\d)")


class Study(NamedTuple):
  """The files of one study.

  Attributes:
    name: the place of its outputs below the output folder; empty where the input itself is the study.
    format: a name of `FORMATS`; of a zip, which is looked into when it is read, `dicom`, and its scan knows better.
    files: in the order of slices; FLAIR alone where `given` has other roles; or a zip.
    given: by role, a path (pictures, NIfTI) or a SeriesInstanceUID (DICOM).
  """

  name: str
  format: str
  files: tuple[pathlib.Path, ...]
  given: dict[str, str]


def find_in(root: pathlib.Path) -> list[Study]:
  """The studies below a folder, in natural order of their names.

  Args:
    root: searched with all folders in it; links are followed.

  Raises:
    UserError: there is nothing that can be read, or a folder cannot be listed.
  """
  found, of_study = [], {}
  for folder, files in _walk(root):
    by_kind: dict[str | None, list[pathlib.Path]] = {}
    for file in files:
      by_kind.setdefault(kind_of(file), []).append(file)
    here = [Study(name, "images", group, {}) for name, group in _volumes(by_kind.get("images", []))]
    here += _sequences(by_kind.get("nifti", []))
    here += [Study(stem(file), "dicom", (file,), {}) for file in by_kind.get("zip", [])]
    alone = len(here) == 1 and folder != root  # then the folder's name says more than those of slices
    found += [study._replace(name="" if alone else study.name) for study in here]
    if series := by_kind.get("dicom"):  # one folder, or one of many folders of one study
      of_study.setdefault(dicom.study_uid(series[0]) or str(folder), []).append(series)
  found = [study._replace(name=_place(root, study)) for study in found]
  for series in of_study.values():
    place = pathlib.Path(os.path.commonpath([files[0].parent for files in series]))
    name = place.relative_to(root).as_posix() if place != root else ""
    found.append(Study(name, "dicom", tuple(file for files in series for file in files), {}))
  if not found:
    raise UserError(
      f"{root} holds nothing to read, {EXPECTED} (masks, T2 and outputs are left out): name another folder"
    )
  return _named_apart(sorted(found, key=lambda study: discovery.natural(study.name)), root)


def _walk(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[pathlib.Path]]]:
  """Folders and their files without outputs, masks and labels."""
  for folder, files in discovery.walk(root, enter=lambda name: not _NO_SCANS.fullmatch(name)):
    yield folder, [path for path in files if path.name != "DICOMDIR" and not _OUTPUTS.fullmatch(stem(path))]


def _volumes(pictures: Sequence[pathlib.Path]) -> list[tuple[str, tuple[pathlib.Path, ...]]]:
  """Pictures of one folder by the volume they are slices of: alike but for the last number of the name."""
  groups: dict[tuple[str, str], list[pathlib.Path]] = {}
  for picture in pictures:
    kind = {".tiff": ".tif", ".jpeg": ".jpg"}.get(picture.suffix.lower(), picture.suffix.lower())
    groups.setdefault((_LAST_NUMBER.sub("", picture.stem), kind), []).append(picture)
  volumes = []
  for (name, _), group in groups.items():
    apart = images.is_stack(group[0])
    volumes += [(one.stem, (one,)) for one in group] if apart or len(group) == 1 else [(name, tuple(group))]
  return volumes


def _sequences(volumes: Sequence[pathlib.Path]) -> list[Study]:
  """NIfTI files of one folder, those of one study together if one is FLAIR."""
  groups: dict[str, list[tuple[str | None, pathlib.Path]]] = {}
  for volume in volumes:
    role, rest = roles.in_name(stem(volume))
    if role not in ("mask", "t2"):
      groups.setdefault(rest, []).append((role, volume))
  studies = []
  for name, group in groups.items():
    by_role = dict(group)
    if "flair" in by_role and None not in by_role and len(by_role) == len(group):
      given = {role: str(file) for role, file in group if role != "flair"}
      studies.append(Study(name, "nifti", (by_role["flair"],), given))
    else:
      studies += [Study(stem(file), "nifti", (file,), {}) for _, file in group]
  return studies


def _place(root: pathlib.Path, study: Study) -> str:
  """The path of a study below the root; that of its folder, where it is called like it or not at all."""
  folder = study.files[0].parent
  place = folder if study.name in ("", folder.name) else folder / study.name
  return place.relative_to(root).as_posix() if place != root else ""


def _named_apart(studies: list[Study], root: pathlib.Path) -> list[Study]:
  """No two of one name; none without, but for a study that is all there is and lies directly in the root."""
  if len(studies) == 1 and (not studies[0].name or studies[0].files[0].parent == root):
    return [studies[0]._replace(name="")]
  names = [study.name or root.absolute().name or "study" for study in studies]
  taken, apart = set(), []
  for study, name in zip(studies, names, strict=True):
    file = study.files[0]
    if names.count(name) > 1 and len(study.files) == 1 and stem(file) == pathlib.PurePath(name).name:
      name = f"{name}{file.name.removeprefix(stem(file))}"  # a file beside a folder, or another file, of its name
    name = next(
      one for one in (name, *(f"{name}_{number}" for number in range(2, len(studies) + 2))) if one not in taken
    )
    taken.add(name)
    apart.append(study._replace(name=name))
  return apart
