"""Problems of a user's folder by kind, so that a fault that thousands of files share is one line."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from bt_jax.datasets.own_data.collection import Collection

ALONE = 3  # so many problems of a kind are listed one by one
_SUFFIXES = r"\.(?:nii\.gz|nii|png|tiff?|jpe?g|json|csv|bmp|[A-Za-z0-9]{1,5})"
_NUMBERS = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?:, -?\d+(?:\.\d+)?(?:e[+-]?\d+)?)*(?: and N? more)?")


class Kind(NamedTuple):
  """Problems that differ only in files, cases and numbers.

  Attributes:
    example: the first of them.
    count: how many there are.
  """

  example: str
  count: int

  def __str__(self) -> str:
    return self.example + (f" (and {self.count - 1} more like this)" if self.count > 1 else "")


def by_kind(collection: Collection) -> list[Kind]:
  """The problems of a collection: by kind where more than `ALONE` are of one, else one by one; in the order of the first."""
  of_kind: dict[str, list[str]] = {}
  names, root = collection.names, re.escape(str(collection.root))
  files = re.compile(
    rf"{root}/[^:;()]*?{_SUFFIXES}(?=[\s:,;)]|$)|{root}(?:/[^\s:,;)]*)?|[^\s/]+{_SUFFIXES}(?=[\s:,;)]|$)"
  )
  for message in map(str, collection.problems):
    of_kind.setdefault(_without_names(files.sub("FILE", message), names), []).append(message)
  return [kind for members in of_kind.values() for kind in _kinds(members)]


def _kinds(messages: Sequence[str]) -> list[Kind]:
  if len(messages) > ALONE:
    return [Kind(messages[0], len(messages))]
  return [Kind(message, 1) for message in messages]


def _without_names(message: str, names: set[str]) -> str:
  """A message without names of cases and numbers."""
  words = ["CASE" if word.strip(",:;()'") in names else word for word in message.split(" ")]
  return _NUMBERS.sub("N", re.sub(r" and \d+ more", " and N more", " ".join(words)))
