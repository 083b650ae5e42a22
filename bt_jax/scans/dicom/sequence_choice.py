"""Chooses the series of FLAIR, T1 before and T1 after contrast: given by the user, or guessed from headers."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from bt_jax.errors import UserError
from bt_jax.scans.dicom.pixels import is_coloured
from bt_jax.scans.dicom.series import Series
from bt_jax.scans.sequences import contrast_in, kind_in
from bt_jax.schema import CHANNELS


def _words(pattern: str) -> re.Pattern:
  """Matches these words where no letter stands before or after."""
  return re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])")


_LOCALIZER = _words(r"loc|localizer|localiser|scout|pilot|survey|3.?plane|aahead\w*")
_MOST_LISTED = 20
# Inversion times in ms: the range that nulls fat, and the shortest that nulls fluid. Values below the range are seconds.
_SHORT_INVERSION, _LONG_INVERSION = (10.0, 1000.0), 1500.0


def choose(series: Sequence[Series], given: Mapping[str, str], name: str) -> tuple[dict[str, Series], list[str]]:
  """The series of each role, and a warning for each choice that had alternatives.

  Args:
    series: image series of one study.
    given: SeriesInstanceUIDs by role, a name of `CHANNELS`, as the user gave them.
    name: name of the study, for messages.

  Raises:
    UserError: a given UID matches no series or several, a series is given twice, no series is FLAIR, or several series
      fit a role equally well.
  """
  chosen = {role: _given(series, role, uid, name) for role, uid in given.items()}
  if len({id(one) for one in chosen.values()}) < len(given):
    raise UserError(f"one series is given for two roles of {name} ({', '.join(given)}): give each its own")
  left, warnings = _usable([one for one in series if not any(one is other for other in chosen.values())]), []
  for role in CHANNELS:
    fitting = sorted((one for one in left if guess(one) == role), key=_rank)
    if role in given or not fitting:
      continue
    *others, chosen[role] = fitting
    labels = "; ".join(one.label for one in others)
    if others and _rank(others[-1]) == _rank(chosen[role]):
      raise UserError(
        f"{role} of {name} could be {chosen[role].label}; {labels}: choose one by its SeriesInstanceUID, or leave "
        "the others out",
        f"{role}=SeriesInstanceUID",
      )
    if others:
      warnings.append(f"{role} was read from {chosen[role].label}; it could also be {labels}")
  if "flair" not in chosen and len(left) == 1 and not any(map(kind_in, _texts(left[0]))):
    chosen = {role: one for role, one in chosen.items() if role in given} | {"flair": left[0]}
    warnings.append(f"no series is called FLAIR: the only one, {left[0].label}, is taken as FLAIR")
  if "flair" not in chosen:
    raise UserError(
      f"{name} has no series that is called FLAIR, but {_listed(series)}: give its UID as flair", "flair=UID"
    )
  return chosen, warnings


def _given(series: Sequence[Series], role: str, uid: str, name: str) -> Series:
  matches = [one for one in series if uid in one.uids]
  if not matches:
    raise UserError(
      f"{role}={uid} is not a series of {name}, which has {_listed(series)}: give the UID of one of them", role
    )
  if len(matches) > 1:
    raise UserError(
      f"{role}={uid} is the UID of {len(matches)} series of {name}, {_listed(matches)}: leave the others out"
    )
  return matches[0]


def _rank(series: Series) -> tuple[bool, int]:
  """Sort key, best last: axial series rank above others, then series with more slices."""
  return is_axial(series), len(series.frames)


def _texts(series: Series) -> list[str]:
  return [series.says(word) for word in ("SeriesDescription", "ProtocolName", "SequenceName")]


def guess(series: Series) -> str | None:
  """The role of a series by its header, a name of `CHANNELS`; None for any other sequence."""
  texts = _texts(series)
  kind = next((kind for text in texts if (kind := kind_in(text))), None) or _by_times(series)
  if kind == "flair":
    return None if _SHORT_INVERSION[0] < _time(series, "InversionTime") < _SHORT_INVERSION[1] else "flair"
  if kind != "t1":
    return None
  return "post" if _has_contrast(series, texts) else "pre"


def is_axial(series: Series) -> bool:
  """Whether slices are closer to the axial plane than to another; False where it is unknown."""
  orientation = series.frames[0].orientation
  return orientation is not None and int(abs(np.cross(*orientation)).argmax()) == 2


def _usable(left: list[Series]) -> list[Series]:
  """Leaves out coloured images, localizers, other modalities and series of one or two slices, as long as something is left."""
  tests = (
    lambda one: not is_coloured(one.frames[0]),
    lambda one: not _LOCALIZER.search(f"{one.says('SeriesDescription')} {one.says('ImageType')}".lower()),
    lambda one: one.says("Modality") == "MR",
    lambda one: len(one.frames) > 2,
  )
  for fits in tests:
    left = [one for one in left if fits(one)] or left
  return left


def _by_times(series: Series) -> str | None:
  """The kind of a series whose name does not say, by its inversion, echo and repetition times."""
  inversion, echo, repetition = (_time(series, f"{word}Time") for word in ("Inversion", "Echo", "Repetition"))
  if inversion >= _LONG_INVERSION and echo >= 60:
    return "flair"
  return "t1" if 0 < echo <= 30 and 0 < repetition <= 1000 else None


def _time(series: Series, keyword: str) -> float:
  """In ms; 0 where it is unknown."""
  return series.frames[0].numbers[keyword] or 0.0


def _has_contrast(series: Series, texts: list[str]) -> bool:
  contrast = next((contrast for text in texts if (contrast := contrast_in(text)) is not None), None)
  if contrast is not None:
    return contrast
  agent = series.says("ContrastBolusAgent").lower()
  return bool(agent) and not _words(r"no|none|n|without").search(agent)


def _listed(several: Sequence[Series]) -> str:
  shown = [f"{series.label} with {len(series.frames)} slices" for series in several[:_MOST_LISTED]]
  return "; ".join(shown) + (f"; and {len(several) - len(shown)} more" if len(several) > len(shown) else "")
