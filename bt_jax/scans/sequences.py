"""The sequence that a file, series or channel holds, by the words of its name or by the order of channels.

One set of word lists serves NIfTI, images and DICOM, so that a name means the same in every format.
"""

import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Shaped

from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.schema import CHANNELS

_PLANE = r"(?:ax|axi|axial|sag|cor|tra|trans|obl|iso|fs|wip|s|e|v|cs|2d|3d|c|ce)?"
# Whole words of letters and digits, in order of precedence: a map made from FLAIR is not FLAIR, a T1 FLAIR is T1, and
# `t2_flair` is FLAIR.
_WORDS = {
  "mask": r"[a-z]*seg(?:m[a-z]*|s)?|masks?|label(?:s|map|maps)?|labels(?:tr|ts|val)|probabilit(?:y|ies)|annotations?"
  r"|glistr[a-z]*|truth|groundtruth|gt|rois?",
  "other": r"dwi|dti|diff|diffusion[a-z]*|e?adc|e?trace[a-z]*|swi|swan|perf|perfusion[a-z]*|dsc|dce|asl|tof|mra|mrv"
  r"|angio[a-z]*|field|fieldmap|bold|fmri|q?t1maps?|qt1|t1rho|maps?|mrs|spectro[a-z]*|sub|subtr[a-z]*|mip|r?cbv|r?cbf|mtt",
  "t1": rf"{_PLANE}t1(?!\d)[a-z0-9]*|[a-z]*mp2?rage[a-z0-9]*|rage|f?spgr[a-z0-9]*|bravo|tfl3d[a-z0-9]*|mdeft|vibe[a-z]*",
  "flair": r"[a-z0-9]*flair[a-z0-9]*|(?:dark)?fluid|tirm|t2f",
  "t2": rf"{_PLANE}t2[a-z0-9]*|pd|pdw|pdfs|proton|stir|haste|fiesta|ciss|loc",
}
_WORDS = {kind: re.compile(pattern) for kind, pattern in _WORDS.items()}
# Words in file names that stand for T1 without or with contrast, even where T1 is not mentioned.
_BARE = {
  "pre": re.compile(r"pre(?:contrast|gad|gd|km|c)?|without|nativ|native|unenhanced"),
  "post": re.compile(r"post(?:contrast|gad|gd|km|c)?|contrast|ce|gd|gad[a-z]*|km"),
}
# Words for T1 without and with contrast, between characters that are not letters: both `t1_ce` and `t1ce` match.
_WITHOUT = re.compile(
  r"(?<![a-z])(?:pre.?(?:contrast|gd|gad[a-z]*|km|c)?|without|w/?o|no|non|nativ[a-z]*|unenhanced|ohne|plain|c-"
  r"|-\s?c(?! ?-?spine))(?![a-z])"
)
_WITH = re.compile(
  r"(?<![a-z])(?:ce?t1w?|w?(?:post[a-z]*|gd|gad[a-z]*|km|ce|contrast)|with|\+.?(?:c|gd|gad[a-z]*|km)|c\+)(?![a-z])"
  r"|t1w?(?:c|(?![a-z]).*?(?<![a-z])c)(?![a-z])"  # before T1, a c is somebody's name
)
_TARGET = re.compile(
  r"[-_ ](?:to|in|on)[-_ ]?(?:t1|t2|flair)[a-z0-9]*|[-_ ]space-t[12]w", re.IGNORECASE
)  # registered to
_WITH_C = re.compile(r"(t1w?)[-_ +]+c(?![a-z0-9])", re.IGNORECASE)  # `t1_c` is `t1c`, while before T1 a c is a name
_SUBJECT = re.compile(r"sub(?=[-_])", re.IGNORECASE)  # the first word of BIDS names, not a subtraction
# Words that add nothing to a role, such as `t2` in `t2_flair`.
_OF_T1 = (_WORDS["t1"], _WORDS["flair"], *_BARE.values())
_SPENT = {"flair": (_WORDS["flair"], _WORDS["t2"], re.compile("dark")), "pre": _OF_T1, "post": _OF_T1}
IN_WORDS = {
  "pre": "T1 before contrast", "flair": "FLAIR", "post": "T1 after contrast", "t2": "T2", "mask": "a segmentation",
  "other": "another sequence or a map",
}  # fmt: skip


def stem(path: pathlib.Path) -> str:
  """The name of a file without its suffix, also where that is `.nii.gz`."""
  return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def kind_in(text: str) -> str | None:
  """The kind of sequence that a text mentions: `mask`, `other`, `t1`, `flair` or `t2`; None where it does not say."""
  words = re.split(r"[^a-z0-9]+", text.lower())
  return next((kind for kind, pattern in _WORDS.items() if any(map(pattern.fullmatch, words))), None)


def contrast_in(text: str) -> bool | None:
  """Whether a text about T1 says that it was taken with contrast; None where it does not say."""
  text = text.lower().replace("_", " ")
  return not _WITHOUT.search(text) if _WITHOUT.search(text) or _WITH.search(text) else None


def in_name(stem: str) -> tuple[str | None, str]:
  """The sequence that a file's name mentions, and the name without the words for it.

  Args:
    stem: name without its suffix, e.g. `BraTS-GLI-00001-t2f`.

  Returns:
    A name of `CHANNELS`, `t2`, `mask` for what is not an image, `other` for diffusion, maps and the like, or None where the
    name does not say; and e.g. `BraTS-GLI-00001`.
  """
  named = _WITH_C.sub(r"\1c", _TARGET.sub("", stem))
  text = _SUBJECT.sub("", named, count=1) if _SUBJECT.match(named) else named
  parts = re.split(r"([^A-Za-z0-9]+)", named)
  role = kind_in(text)
  if role == "t1":
    role = "post" if contrast_in(text) else "pre"
  elif role is None:
    words = [part.lower() for part in parts]
    role = next((role for role, pattern in _BARE.items() if any(map(pattern.fullmatch, words))), None)
  if role is None:
    return None, stem
  spent = _SPENT.get(role) or (_WORDS[role],)
  kept = [
    separator + word
    for separator, word in zip(["", *parts[1::2]], parts[::2], strict=True)
    if not any(pattern.fullmatch(word.lower()) for pattern in spent)
  ]
  return role, "".join(kept).strip("-_. +")


def by_role(paths: Sequence[pathlib.Path], given: Mapping[str, str]) -> dict[str, pathlib.Path]:
  """The file of each role, in the order of `CHANNELS`.

  Args:
    paths: the file of FLAIR, where `given` has none.
    given: paths by role.

  Raises:
    UserError: a file does not exist, or is given for two roles.
  """
  path_of = {"flair": paths[0], **{role: pathlib.Path(path) for role, path in given.items()}}
  for role, path in path_of.items():
    if not path.is_file():
      raise UserError(f"{path}, given as {role}, is not a file: name the file of one sequence", role)
  hashes = {role: files.sha256_of([path]) for role, path in path_of.items()}
  for one, other in itertools.combinations(path_of, 2):
    if hashes[one] == hashes[other]:
      raise UserError(
        f"{path_of[other]} is given twice, {one} and {other} hold the same bytes: leave out the sequence that is missing",
        other,
      )
  return {role: path_of[role] for role in CHANNELS if role in path_of}


def by_channel(
  image: Shaped[np.ndarray, "... channels"], path: pathlib.Path
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
  """The channels of one image: one channel is FLAIR, three are pre-contrast, FLAIR and post-contrast, as in the published slices.

  Returns:
    Arrays by role, what each was read from, in words, and warnings; for `scan.fill_roles`.
  """
  if image.shape[-1] == 1:
    return {"flair": image[..., 0]}, {"flair": path.name}, []
  channels = {role: image[..., index] for index, role in enumerate(CHANNELS)}
  origins = {role: f"channel {number} of {path.name}" for number, role in enumerate(CHANNELS, 1)}
  same = np.array_equal(channels["pre"], channels["flair"]) and np.array_equal(channels["post"], channels["flair"])
  return (
    channels,
    origins,
    ["the three channels are the same, expected pre-contrast, FLAIR and post-contrast"] if same else [],
  )


def one_each(
  images: Mapping[str, Shaped[np.ndarray, "... channels"]], paths: Mapping[str, pathlib.Path]
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
  """Like `by_channel`, for images given by role, with one channel each.

  Raises:
    UserError: an image has more than one channel.
  """
  for role, image in images.items():
    if image.shape[-1] != 1:
      raise UserError(f"{paths[role]} has {image.shape[-1]} channels, expected one of {role}: name it alone", "input")
  return {role: image[..., 0] for role, image in images.items()}, {role: paths[role].name for role in images}, []
