"""Finds the studies in a folder, by the names and first bytes of its files, and by DICOM headers."""

import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from bt_jax.errors import UserError
from bt_jax.scans import dicom, discovery, raster
from bt_jax.scans.file_names import Study, of_names
from bt_jax.scans.file_types import EXPECTED, kind_of
from bt_jax.scans.sequences import stem

_OUTPUTS = re.compile(r"(.*_)?(mask|probability|entropy|disagreement|overlay)|contact_sheet", re.IGNORECASE)
_NO_SCANS = re.compile(
  r"masks?|labels?(tr|ts|val)?|segmentations?|annotations?|probabilities|entropies|disagreements|overlays|secondary_capture",
  re.IGNORECASE,
)  # names of folders
_LAST_NUMBER = re.compile(r"[-_. ]*\d+(?!.*\d)")


def find_in(root: pathlib.Path) -> list[Study]:
  """The studies below a folder, in natural order of their names.

  Args:
    root: the folder, searched with all folders in it; links are followed.

  Raises:
    UserError: there is nothing that can be read, or a folder cannot be listed.
  """
  studies, dicom_files = [], []
  for folder, files in _walk(root):
    by_kind: dict[str | None, list[pathlib.Path]] = {}
    for file in files:
      by_kind.setdefault(kind_of(file), []).append(file)
    label = "" if folder == root else folder.name
    here = of_names("images", _volumes(by_kind.get("images", [])), label)
    here += of_names("nifti", [(stem(file), (file,)) for file in by_kind.get("nifti", [])], label)
    here += [Study(stem(file), "zip", (file,), {}) for file in by_kind.get("zip", [])]
    alone = len(here) == 1 and folder != root  # then the folder's name says more than those of slices
    studies += [study._replace(name="" if alone else study.name) for study in here]
    dicom_files.append(by_kind.get("dicom", []))
  studies = [study._replace(name=_below(root, study)) for study in studies]
  for files in _by_study(dicom_files):
    folder = pathlib.Path(os.path.commonpath([file.parent for file in files]))
    name = folder.relative_to(root).as_posix() if folder != root else ""
    studies.append(Study(name, "dicom", tuple(files), {}))
  if not studies:
    raise UserError(f"{root} holds no scan, {EXPECTED} (masks and outputs are not read): name another folder")
  return _named_apart(sorted(studies, key=lambda study: discovery.natural(study.name)), root)


def _by_study(folders: Sequence[Sequence[pathlib.Path]]) -> list[list[pathlib.Path]]:
  """Groups the DICOM files of several folders by study; files without an image, such as a DICOMDIR, are left out.

  Files of one folder stay together: if they belong to several studies, reading them is refused. Folders that share a
  patient and a StudyInstanceUID are joined. A file whose header does not name its study goes with its folder.
  """
  groups: list[tuple[set[tuple[str, str]], list[pathlib.Path]]] = []
  for files in folders:
    of_files = {file: dicom.study_of(file) for file in files}
    kept = [file for file, study in of_files.items() if study is not None]
    known = {study for study in of_files.values() if study and study[1]}
    same = [group for group in groups if group[0] & known]
    if kept:
      groups = [group for group in groups if group not in same]
      groups.append((known.union(*(uids for uids, _ in same)), [file for _, more in same for file in more] + kept))
  return [files for _, files in groups]


def _walk(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[pathlib.Path]]]:
  """Folders and their files without outputs, masks and labels."""
  for folder, files in discovery.walk(root, enter=lambda name: not _NO_SCANS.fullmatch(name)):
    yield folder, [path for path in files if not _OUTPUTS.fullmatch(stem(path))]


def _volumes(files: Sequence[pathlib.Path]) -> list[tuple[str, tuple[pathlib.Path, ...]]]:
  """Groups the images of one folder into volumes, whose slices differ only in the last number of their names."""
  groups: dict[tuple[str, str], list[pathlib.Path]] = {}
  for file in files:
    kind = {".tiff": ".tif", ".jpeg": ".jpg"}.get(file.suffix.lower(), file.suffix.lower())
    groups.setdefault((_LAST_NUMBER.sub("", file.stem), kind), []).append(file)
  volumes = []
  for (name, _), group in groups.items():
    apart = raster.is_stack(group[0])
    volumes += [(one.stem, (one,)) for one in group] if apart or len(group) == 1 else [(name, tuple(group))]
  return volumes


def _below(root: pathlib.Path, study: Study) -> str:
  """The path of a study below the root; that of its folder, where the study has the folder's name or none."""
  folder = study.files[0].parent
  path = folder if study.name in ("", folder.name) else folder / study.name
  return path.relative_to(root).as_posix() if path != root else ""


def _named_apart(studies: list[Study], root: pathlib.Path) -> list[Study]:
  """Gives each study a name of its own, and none to a single study directly in the root."""
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
