"""Checks a user's own folder before anything is trained: prints what was understood and everything that is wrong, and draws an image."""

import pathlib

from ml_collections import ConfigDict

from bt_jax import files
from bt_jax.datasets.own_data import layouts
from bt_jax.datasets.own_data.inspection import inspect
from bt_jax.datasets.own_data.problem_kinds import by_kind
from bt_jax.errors import UserError

_PICTURE = pathlib.Path("check.png")


def check(config: ConfigDict, output: pathlib.Path | None) -> None:
  """Prints what a folder holds and every problem with it, and draws its cases.

  A problem that many files share is printed once, and all of them are written to a text file beside the image.

  Args:
    config: a configuration with `data.name=own` and `data.root`.
    output: the image of cases, a name that ends in `.png`; None for `check.png` in the current folder.

  Raises:
    UserError: the configuration is not for a user's own data, there is no such folder, the output is no name of an image,
      or there are problems, which were printed.
  """
  if config.data.name != "own":
    raise UserError(
      f"data.name is {config.data.name!r}, and only your own data can be checked: set data.name=own", "data.name=own"
    )
  picture = output or _PICTURE
  if picture.suffix.lower() != _PICTURE.suffix:  # a text of the same name goes beside it
    raise UserError(
      f"the output is {picture}, expected the name of an image: name a file that ends in {_PICTURE.suffix}", "output"
    )
  inspection = inspect(layouts.find(config.data.root), config.data.window, config.data.folds)
  print("\n".join(inspection.lines))
  if inspection.picture is not None:
    path = files.write_bytes(picture, files.png(inspection.picture))
    print(f"the first cases, each with its classes: {path}")
  problems, kinds = inspection.collection.problems, by_kind(inspection.collection)
  for number, kind in enumerate(kinds, 1):
    print(f"problem {number}: {kind}")
  if problems:
    listed = "listed above"
    if len(kinds) < len(problems):
      text = "".join(f"{problem}\n" for problem in problems)
      path = files.write_bytes(picture.with_suffix(".txt"), text.encode(errors="backslashreplace"))
      listed += f", and one by one in {path}"
    raise UserError(
      f"{len(problems)} problem{'s' * (len(problems) > 1)} in {config.data.root}, {listed}: correct them, and check again"
    )
  print("nothing is wrong: train on it")
