"""The content of a user's own folder of images and masks: cases, channels, classes, and everything that is wrong with it."""

import dataclasses
import json
import pathlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bt_jax.errors import UserError, one_line
from bt_jax.scans import sequences

CHECK = "mode=check"  # lists everything that is wrong, where a build stops at the first
READ = (".nii.gz", ".nii", ".png", ".tif", ".tiff", ".jpg", ".jpeg")
# Images that are not read: their cases are refused, rather than silently left out.
_NOT_READ = (".bmp", ".gif", ".webp", ".nrrd", ".mha", ".mhd", ".mgz", ".npy", ".npz", ".dcm", ".jp2")
# Names that contain the patient: of BraTS since 2023 (patient and visit) and of TCGA, anywhere in a name, and of BIDS.
_PATIENT = re.compile(
  r"(?:.*_)?(BraTS-[A-Z-]+-\d+)-\d{3}|(?:.*_)?(TCGA[-_]\w{2}[-_]\w{4})(?![A-Za-z0-9]).*|(?:.*_)?(sub-[A-Za-z0-9]+)(?:_.*)?"
)
_SUBSET = re.compile(r"(train|val|valid|validation|test)(ing)?", re.IGNORECASE)
Spacing = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Case:
  """One examination.

  Attributes:
    name: name of the case.
    patient: name of its patient.
    images: the files of each group of channels, e.g. of each sequence; within a group, in the order of slices.
    masks: the files of its mask, in the order of slices; empty where it has none.
    spacing_mm: distances between slices, rows and columns, where a file beside the images gives them.
  """

  name: str
  patient: str
  images: tuple[tuple[pathlib.Path, ...], ...]
  masks: tuple[pathlib.Path, ...] = ()
  spacing_mm: Spacing | None = None

  @property
  def files(self) -> list[pathlib.Path]:
    """All its files."""
    return [file for group in (*self.images, self.masks) for file in group]


@dataclasses.dataclass(frozen=True)
class Labels:
  """What the numbers in masks stand for.

  Attributes:
    values: the numbers that mark each class, by its name; a region that contains others has several.
    ids: the number that stands for each class in masks that are written.
  """

  values: dict[str, tuple[int, ...]]
  ids: tuple[int, ...]

  @property
  def overlapping(self) -> bool:
    """Whether a pixel may have several classes."""
    every = [value for values in self.values.values() for value in values]
    return len(every) > len(set(every))

  @property
  def known(self) -> set[int]:
    """The numbers that masks may have, besides 0 for the background."""
    return {value for values in self.values.values() for value in values}


@dataclasses.dataclass
class Collection:
  """A folder as it was understood.

  Attributes:
    root: the folder.
    layout: the layout that was recognised, in words.
    channels: names of the channels of an image; empty where the files do not name them.
    labels: labels of the masks; None where no file says, and masks are read to find out.
    cases: in natural order of their names.
    folds: the fold of each case by a file of the user; -1 for a case that no fold tests.
    fields: what `cases.csv` says of each patient.
    problems: everything that is wrong, in the order in which it was seen.
    notes: what is worth knowing and not wrong, a sentence each.
    described: files other than images that were read.
    broken: files that cannot be read, for which there is a problem.
    refused: names of cases that were left out because of a problem.
  """

  root: pathlib.Path
  layout: str
  channels: tuple[str, ...] = ()
  labels: Labels | None = None
  cases: list[Case] = dataclasses.field(default_factory=list)
  folds: dict[str, int] | None = None
  fields: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
  problems: list[UserError] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)
  described: list[pathlib.Path] = dataclasses.field(default_factory=list)
  broken: set[pathlib.Path] = dataclasses.field(default_factory=set)
  refused: set[str] = dataclasses.field(default_factory=set)

  @property
  def names(self) -> set[str]:
    """Names of all cases that are there, also of those refused."""
    return {case.name for case in self.cases} | self.refused

  @property
  def patients(self) -> list[str]:
    """Each patient once, in the order of cases."""
    return list(dict.fromkeys(case.patient for case in self.cases))

  def problem(self, message: str, *arguments: str) -> None:
    """Records a problem, in one line even where the name of a file has line breaks; see `UserError`."""
    self.problems.append(UserError(re.sub(r"[\r\n]+", " ", message), *arguments))

  def unreadable(self, path: pathlib.Path, error: UserError) -> None:
    """Records the problem of a file that cannot be read, which is its only one."""
    self.problems.append(error)
    self.broken.add(path)

  def check(self) -> None:
    """Raises the first problem, if there is one, and says how many more names and small files show."""
    if not self.problems:
      return
    first, others = self.problems[0], len(self.problems) - 1
    more = (
      f" (at least {others} more problem{'s' * (others > 1)} in this folder, which a check lists)" if others else ""
    )
    raise UserError(f"{first}{more}", *first.arguments, *((CHECK,) if others else ()))

  def by_name(self, files: Sequence[pathlib.Path], name_of: Callable[[pathlib.Path], Any]) -> dict[Any, pathlib.Path]:
    """The file of each name; two files with one name, such as `a.nii` and `a.nii.gz`, are a problem, and the first counts."""
    named: dict[Any, pathlib.Path] = {}
    for file in files:
      if (other := named.setdefault(name_of(file), file)) is not file:
        self.problem(f"{file} and {other.name} have one name, and one of them would be read: move the other away")
    return named


def check_hint(error: UserError) -> UserError:
  """The first problem of a build, with the hint that a check lists all."""
  return UserError(f"{error} (a check lists all that is wrong)", *error.arguments, CHECK)


def in_capitals(name: str, in_small: Mapping[str, pathlib.Path], otherwise: str) -> str:
  """The remedy for a name that no file has: that for one whose name differs in capitals, or `otherwise`.

  Args:
    name: the name.
    in_small: the files, by their names in small letters (`str.casefold`).
    otherwise: the remedy where there is no such file.
  """
  near = in_small.get(name.casefold())
  return otherwise if near is None else f"its name differs from {near.name} in capitals: rename one of them"


def is_image(file: pathlib.Path) -> bool:
  """Whether a file has the suffix of an image, also of a kind that is not read."""
  return file.name.lower().endswith((*READ, *_NOT_READ))


def stem(file: pathlib.Path) -> str:
  """The name of a file without its suffix, e.g. `.nii.gz`; accented letters as one character, which macOS writes as two."""
  return plain(sequences.stem(file))


def plain(name: str) -> str:
  """A name in the form in which names are compared: without surrounding blanks, accented letters as one character."""
  return unicodedata.normalize("NFC", name).strip()


def patient_of(case: str) -> str:
  """The patient of a case by its name alone: the name itself, unless it is that of an archive that numbers patients.

  >>> patient_of("BraTS-GLI-00001-000"), patient_of("sub-07_ses-1"), patient_of("scan 3")
  ('BraTS-GLI-00001', 'sub-07', 'scan 3')
  """
  match = _PATIENT.fullmatch(case)
  return next(filter(None, match.groups())) if match else case


def patients_of(folder_of: Mapping[str, Sequence[str]]) -> dict[str, str]:
  """The patient of each case, by its name if that numbers patients, or else by the outermost folder that divides cases.

  A folder may hold several examinations of one patient, which must not be divided. Folders of subsets, such as `train`,
  do not count.

  >>> patients_of({"p0_base": ["p0"], "p0_top": ["p0"], "p1_base": ["p1"]})
  {'p0_base': 'p0', 'p0_top': 'p0', 'p1_base': 'p1'}

  Args:
    folder_of: by the name of a case, the names of the folders around it, the outermost first.
  """
  folders = {case: [name for name in names if not _SUBSET.fullmatch(name)] for case, names in folder_of.items()}
  while len({names[0] if names else "" for names in folders.values()}) == 1 and all(folders.values()):
    folders = {case: names[1:] for case, names in folders.items()}  # one folder around all of them
  return {
    case: patient_of(names[0] if names and not _PATIENT.fullmatch(case) else case) for case, names in folders.items()
  }


def read_json(path: pathlib.Path) -> Any:
  """The content of a JSON file; raises UserError where it is not JSON, or has a key twice."""

  def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
      raise ValueError(f"{twice[0]!r} is there twice")
    return dict(pairs)

  if path.is_file() and not path.stat().st_size:
    raise UserError(f"{path} is empty (0 bytes): copy it again, or remove it")
  try:
    return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read as JSON ({one_line(error)}): correct it") from error


def shown(names: Sequence[Any], most: int = 3) -> str:
  """The first few of some names, and how many more there are."""
  names = list(map(str, names))
  return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
