"""Recognises the layout of a user's folder of images and masks, and lists its cases; opens no images but TIFFs, for pages."""

import collections
import os
import pathlib
from collections.abc import Callable

from bt_jax.datasets.own_data import cases_table, folders, folds, nnunet
from bt_jax.datasets.own_data.collection import Collection, shown
from bt_jax.errors import UserError
from bt_jax.scans import discovery
from bt_jax.scans.file_types import kind_of

EXPECTED = (
  "dataset.json with imagesTr/ and labelsTr/ (nnU-Net, Medical Segmentation Decathlon); a folder for each case with its "
  "sequences and *_seg.nii.gz (BraTS); images/ and masks/; or X.png with X_mask.png beside it"
)
Listed = dict[pathlib.Path, list[pathlib.Path]]
_OURS = ("SYNTHETIC",)

# The first that recognises a folder lists it.
_LAYOUTS: tuple[Callable[[pathlib.Path, Listed], Collection | None], ...] = (
  nnunet.read,
  folders.read_images_and_masks,
  folders.read_case_folders,
  folders.read_masks_beside,
)


def find(root: str | pathlib.Path | None, *, masks: bool = True) -> Collection:
  """The cases in a folder, with all problems that names and small files show.

  Args:
    root: the folder.
    masks: whether every case must have a mask, as for training.

  Raises:
    UserError: there is no such folder, or no layout that is known.
  """
  if root is None:
    raise UserError(f"data.name=own needs data.root=DIR, a folder with {EXPECTED}", "data.root=DIR")
  root = pathlib.Path(root).expanduser()
  if not root.is_dir():
    raise UserError(f"{root} is not a folder: name one with {EXPECTED}", "data.root")
  listed = dict(discovery.walk(root))
  collection = next((one for read in _LAYOUTS if (one := read(root, listed)) is not None), None)
  if collection is None:
    dicom = next((file for files in listed.values() for file in files[:1] if kind_of(file) == "dicom"), None)
    if dicom is not None:
      raise UserError(
        f"{root} holds DICOM, as {dicom}, which is read for prediction and not for training: convert each series to NIfTI, e.g. "
        f"with dcm2niix, and arrange the files as {EXPECTED}",
        "data.root",
      )
    raise UserError(f"{root} has no layout that is known, expected {EXPECTED}", "data.root")
  collection.cases.sort(key=lambda case: discovery.natural(case.name))
  cases_table.apply(collection)
  folds.read_splits(collection)
  _check_links(collection, listed)
  _check_files(collection)
  _check_names(collection)
  if masks:
    _check_masks(collection)
  folds.check_patients(collection)
  _note_left_out(collection, listed)
  return collection


def _check_links(collection: Collection, listed: Listed) -> None:
  """Reports links to missing files, which would be left out silently, before the problems that they cause."""
  dangling = [
    UserError(f"{entry.path} is a link to {os.readlink(entry.path)}, which is not there: fetch or remove it")
    for folder in listed
    for entry in os.scandir(folder)
    if entry.is_symlink() and not os.path.exists(entry.path) and not discovery.is_hidden(entry.name)
  ]
  collection.problems[:0] = dangling


def _check_files(collection: Collection) -> None:
  inside = os.path.realpath(collection.root)
  real_folders: dict[pathlib.Path, str] = {}
  for file in [*collection.described, *(file for case in collection.cases for file in case.files)]:
    folder = real_folders.setdefault(file.parent, "") or os.path.realpath(file.parent)
    real_folders[file.parent] = folder
    if file in collection.broken:  # which was reported when it was read
      continue
    real = pathlib.Path(os.path.realpath(file) if file.is_symlink() else os.path.join(folder, file.name))
    if not real.is_relative_to(inside) and file.parent != collection.root.parent:
      why = f"is a link to {real}, outside of {collection.root}: copy the file here"
    elif file.stat().st_size == 0:
      why = "is empty (0 bytes): copy it again"
    elif not os.access(file, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
      why = "cannot be read (no permission): make it readable"
    else:
      continue
    collection.broken.add(file)
    collection.problem(f"{file} {why}")


def _check_names(collection: Collection) -> None:
  """Reports names that cannot be printed, are used twice, or differ only in capitals, most often one patient by mistake."""
  if not collection.cases and not collection.problems:
    collection.problem(f"{collection.root} holds no case, expected {EXPECTED}", "data.root")
  for case in collection.cases:
    if not case.name.isprintable() or not case.patient.isprintable():  # so are names that were not UTF-8
      name = case.name.encode("unicode_escape", "surrogatepass").decode()
      collection.problem(f"{name} in {collection.root} has characters in its name that cannot be printed: rename it")
  of_cases = [case.name for case in collection.cases]
  of_patients = [] if collection.patients == of_cases else collection.patients
  for what, names in (("case", of_cases), ("patient", of_patients)):
    alike: dict[str, str] = {}
    for name in names:
      if (other := alike.setdefault(name.casefold(), name)) != name:
        collection.problem(
          f"the {what}s {other} and {name} in {collection.root} differ in capitals alone: rename one of them"
        )
  for name, count in collections.Counter(of_cases).items():
    if count > 1:
      collection.problem(f"{count} cases in {collection.root} are called {name}: rename all but one")


def _check_masks(collection: Collection) -> None:
  for case in collection.cases:
    if not case.masks:
      collection.problem(f"{case.images[0][0]} has no mask: add one to {case.name}, or move the image away")
  if len(collection.cases) == 1:
    (case,) = collection.cases
    collection.problem(
      f"{collection.root} holds one case only, {case.name}: expected three patients or more; images whose names differ in "
      "their last number alone are slices of one case, unless cases.csv names each as a case"
    )
  elif len(collection.patients) < 3 and collection.cases:
    collection.problem(
      f"{collection.root} holds {len(collection.patients)} patients ({shown(collection.patients)}): expected three or more, "
      "to train, to validate and to test; cases in one folder count as one patient's unless cases.csv says otherwise"
    )


def _note_left_out(collection: Collection, listed: Listed) -> None:
  """Counts the files that are not read: by folder where none of its files is read, else by suffix."""
  used = {*collection.described, *(file for case in collection.cases for file in case.files)}
  top = lambda file: file.relative_to(collection.root).parts[0]
  read_from = {top(file) for file in used if file.is_relative_to(collection.root)}
  reasons: collections.Counter[str] = collections.Counter()
  first: dict[str, str] = {}
  for folder, files in listed.items():
    for file in files:
      if file not in used and file.name not in _OURS:
        below = file.parent != collection.root and top(file) not in read_from
        reason = f"in {top(file)}/" if below else f"of {file.suffix.lower() or 'no suffix'}"
        reasons[reason] += 1
        if not below:
          first.setdefault(reason, f" ({file.relative_to(collection.root)})")
    reasons["hidden, as systems leave them"] += sum(map(discovery.is_hidden, os.listdir(folder)))
  if total := sum(reasons.values()):
    counts = [f"{count} {reason}{first.get(reason, '')}" for reason, count in reasons.most_common() if count]
    collection.notes.append(f"{total} files are left out, as they belong to no case: {shown(counts, 6)}")
