"""Lists the files below a folder in natural order, without system files; for training data and scans alike."""

import os
import pathlib
import re
from collections.abc import Callable, Iterator

from bt_jax.errors import UserError

_LEFT_BY_ARCHIVES = "__MACOSX"  # holds a `._x.tif` for every `x.tif`


def is_hidden(name: str) -> bool:
  """Whether a file or folder of this name belongs to the system, not to the user: `._x.tif`, `.DS_Store`, `__MACOSX`."""
  return name.startswith(".") or name == _LEFT_BY_ARCHIVES


def natural(text: str) -> tuple:
  """A key that sorts `a2` before `a10`."""
  parts = re.split(r"(\d+)", text)
  return tuple((part.casefold(), 0) if index % 2 == 0 else ("", int(part)) for index, part in enumerate(parts)), text


def walk(
  root: pathlib.Path, *, depth: int | None = None, enter: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[pathlib.Path, list[pathlib.Path]]]:
  """Folders and their files, both in natural order, without hidden ones; links are followed, and loops of links end.

  Args:
    root: the folder to begin with.
    depth: how many levels of folders below it are searched; None for all.
    enter: whether to look into a folder of this name.

  Raises:
    UserError: a folder cannot be listed.
  """
  seen = set()

  def refuse(error: OSError) -> None:
    raise UserError(
      f"{error.filename} cannot be listed ({error.strerror}): make it readable, or name another folder"
    ) from error

  for text, folders, files in os.walk(root, followlinks=True, onerror=refuse):
    folder, real = pathlib.Path(text), os.path.realpath(text)
    deepest = depth is not None and len(folder.relative_to(root).parts) >= depth
    keep = [name for name in folders if not is_hidden(name) and enter(name)]
    folders[:] = [] if real in seen or deepest else sorted(keep, key=natural)
    if real not in seen:
      paths = [folder / name for name in sorted(files, key=natural) if not is_hidden(name)]
      yield folder, [path for path in paths if path.is_file()]
    seen.add(real)
