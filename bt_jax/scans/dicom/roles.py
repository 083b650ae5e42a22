"""Which series of a study is FLAIR, T1 before and T1 after contrast: told by the user, or guessed from headers."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from bt_jax.errors import UserError
from bt_jax.scans.dicom.pixels import is_coloured
from bt_jax.scans.dicom.series import Series
from bt_jax.schema import CHANNELS


def _words(pattern: str) -> re.Pattern:
  """Matches these words where no letter goes on before or after; `t1_ce` and `t1ce` are both words."""
  return re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])")


# In the order they are asked for: a T1 FLAIR is T1, and the first line is of what is made out of others.
_KINDS = {
  "other": _words(
    r"dwi|dti|diff\w*|e?adc|e?trace\w*|swi|swan|perf\w*|dsc|dce|asl|tof|mra|mrv|angio\w*|field|bold|fmri|q?t1.?maps?|qt1"
    r"|t1rho|maps?|mrs|spectro\w*|sub|subtract\w*|mip|cbv|cbf|mtt"
  ),
  "t1": re.compile(r"t1|mp.?rage|spgr|bravo|tfl3d|mdeft|vibe"),
  "flair": re.compile(r"flair|dark.?fluid|fluid.?att|tirm"),
  "none": _words(r"t2\w*|pd\w*|stir|loc|haste|fiesta|ciss"),
}
_LOCALIZER = _words(r"loc|localizer|localiser|scout|pilot|survey|3.?plane|aahead\w*")
_WITHOUT = _words(
  r"pre.?(?:contrast|gd|gad\w*|km|c)?|without|w/?o|no|non|nativ\w*|unenhanced|ohne|plain|c-|-\s?c(?! ?-?spine)"
)
_WITH = _words(r"post\w*|gd|gad\w*|km|ce|c|contrast|with|\+.?(?:c|gd|gad\w*|km)|c\+")
_SHORT_INVERSION, _LONG_INVERSION = 1000.0, 1500.0  # ms: one that nulls fat, one that nulls fluid


def choose(found: Sequence[Series], given: Mapping[str, str], name: str) -> tuple[dict[str, Series], list[str]]:
  """The series of each role, and a warning for each choice that could have been another.

  Args:
    found: image series of one study.
    given: SeriesInstanceUIDs by role, a name of `CHANNELS`, as the user told them.
    name: of the study, for messages.

  Raises:
    UserError: there is no series of a UID given, one is given twice, or none is told to be FLAIR.
  """
  known = {series.uid: series for series in found}
  for role, uid in given.items():
    if uid not in known:
      raise UserError(f"--{role}={uid} is no series of {name}, which has {_listed(found)}: give the UID of one of them")
  if len(set(given.values())) < len(given):
    raise UserError(f"one series is given for two roles of {name} ({', '.join(given)}): give each its own")
  left = _usable([series for series in found if series.uid not in given.values()])
  chosen, warnings = {role: known[uid] for role, uid in given.items()}, []
  for role in CHANNELS:
    fitting = sorted((one for one in left if guess(one) == role), key=lambda one: (is_axial(one), len(one.frames)))
    if role in given or not fitting:
      continue
    *others, chosen[role] = fitting
    if others:
      labels = ", ".join(one.label for one in others)
      warnings.append(f"{role} was read from {chosen[role].label}; it could also be {labels}")
  if "flair" not in chosen and len(left) == 1:
    chosen = {role: one for role, one in chosen.items() if role in given} | {"flair": left[0]}
    warnings.append(f"no series is called FLAIR: the only one, {left[0].label}, is taken as FLAIR")
  if "flair" not in chosen:
    raise UserError(f"{name} has no series that is called FLAIR, but {_listed(found)}: name it with --flair=UID")
  return chosen, warnings


def guess(series: Series) -> str | None:
  """The role of a series by its header, a name of `CHANNELS`; None where it has none of them."""
  texts = [
    series.says(word).lower().replace("_", " ") for word in ("SeriesDescription", "ProtocolName", "SequenceName")
  ]
  kind = next((kind for text in texts for kind, words in _KINDS.items() if words.search(text)), _by_times(series))
  if kind == "flair":
    return None if 0 < _time(series, "InversionTime") < _SHORT_INVERSION else "flair"
  if kind != "t1":
    return None
  return "post" if _has_contrast(series, texts) else "pre"


def is_axial(series: Series) -> bool:
  """Whether slices are taken closer to the axial plane than to another; False where nothing is told."""
  orientation = series.frames[0].orientation
  return orientation is not None and int(abs(np.cross(*orientation)).argmax()) == 2


def _usable(found: list[Series]) -> list[Series]:
  """Without pictures of results, localizers, other modalities and single slices, as long as something is left."""
  tests = (
    lambda one: not is_coloured(one.frames[0]),
    lambda one: not _LOCALIZER.search(f"{one.says('SeriesDescription')} {one.says('ImageType')}".lower()),
    lambda one: one.says("Modality") == "MR",
    lambda one: len(one.frames) > 2,
  )
  for fits in tests:
    found = [one for one in found if fits(one)] or found
  return found


def _by_times(series: Series) -> str | None:
  """The kind of a series without a name, by when it was excited, inverted and read out."""
  inversion, echo, repetition = (_time(series, f"{word}Time") for word in ("Inversion", "Echo", "Repetition"))
  if inversion >= _LONG_INVERSION and echo >= 60:
    return "flair"
  return "t1" if 0 < echo <= 30 and 0 < repetition <= 1000 else None


def _time(series: Series, keyword: str) -> float:
  """In ms; 0 where nothing is told."""
  return series.frames[0].numbers[keyword] or 0.0


def _has_contrast(series: Series, texts: list[str]) -> bool:
  for text in texts:
    if _WITHOUT.search(text) or _WITH.search(text):
      return not _WITHOUT.search(text)
  agent = series.says("ContrastBolusAgent").lower()
  return bool(agent) and not _words(r"no|none|n|without").search(agent)


def _listed(found: Sequence[Series]) -> str:
  return "; ".join(f"{series.label} with {len(series.frames)} slices" for series in found)
