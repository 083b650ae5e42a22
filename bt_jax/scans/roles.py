"""Which sequence a file or a channel holds: told by the user, guessed from a name, or by the order of channels."""

import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Shaped

from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.schema import CHANNELS

# Words of names in the order in which they decide: `t2_flair` is FLAIR, `t1_gd` is T1 with contrast, `t1_pre_contrast`
# without.
_WORDS = (
  ("mask", ("seg", "segmentation", "mask", "label", "labels", "probability")),
  ("flair", ("flair", "t2flair", "t2f", "tirm", "fluid")),
  ("t2", ("t2", "t2w")),
  ("pre", ("pre", "precontrast", "without", "native", "nativ", "unenhanced")),
  (
    "post",
    (
      "post",
      "postcontrast",
      "contrast",
      "ce",
      "gd",
      "gad",
      "gadolinium",
      "km",
      "t1c",
      "t1ce",
      "t1gd",
      "t1wce",
      "t1wgd",
    ),
  ),
  ("pre", ("t1", "t1w", "t1n")),
)
_PLAIN_T1 = {"t1", "t1w"}  # `t1_c` and `t1+c` are T1 with contrast
# What says nothing more beside it, as `t2` in `t2_flair`.
_SPENT = {"flair": {"flair", "t2"}, "post": {"post", "pre"}, "pre": {"post", "pre"}}


def stem(path: pathlib.Path) -> str:
  """The name of a file without its suffix, be it `.nii.gz`."""
  return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def in_name(stem: str) -> tuple[str | None, str]:
  """The sequence that a file's name speaks of, and the name without the words for it.

  Args:
    stem: e.g. `BraTS-GLI-00001-t2f`.

  Returns:
    A name of `CHANNELS`, `t2`, `mask` for what is no image, or None where the name does not say; and e.g.
    `BraTS-GLI-00001`.
  """
  parts = re.split(r"([^A-Za-z0-9]+)", stem)
  words = {part.lower() for part in parts}
  with_contrast = {"c"} if "c" in words and words & _PLAIN_T1 else set()
  for role, telling in _WORDS:
    if words.intersection(telling) or (role == "post" and with_contrast):
      spent = (
        {word for of, said in _WORDS if of in _SPENT.get(role, {role}) for word in said} | with_contrast | {"dark"}
      )
      separators = ["", *parts[1::2]]
      kept = [
        separator + word
        for separator, word in zip(separators, parts[::2], strict=True)
        if word.lower() not in spent
      ]  # fmt: skip
      return role, "".join(kept).strip("-_. +")
  return None, stem


def by_role(paths: Sequence[pathlib.Path], given: Mapping[str, str]) -> dict[str, pathlib.Path]:
  """The file of each role, in the order of `CHANNELS`.

  Args:
    paths: of FLAIR, where `given` has none.
    given: paths by role.

  Raises:
    UserError: a file is not there, or stands for two roles.
  """
  told = {"flair": paths[0], **{role: pathlib.Path(path) for role, path in given.items()}}
  for role, path in told.items():
    if not path.is_file():
      raise UserError(f"{path} (--{role}) is not a file: name the file of one sequence")
  hashes = {role: files.sha256_of([path]) for role, path in told.items()}
  for one, other in itertools.combinations(told, 2):
    if hashes[one] == hashes[other]:
      raise UserError(
        f"{told[other]} is given twice, --{one} and --{other} hold the same bytes: leave out the sequence that is missing"
      )
  return {role: told[role] for role in CHANNELS if role in told}


def by_place(
  image: Shaped[np.ndarray, "... channels"], path: pathlib.Path
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
  """The channels of one image: one is FLAIR, three are pre-contrast, FLAIR and post-contrast, as in the published slices.

  Returns:
    Arrays by role, what each was read from, in words, and warnings; for `scan.fill_roles`.
  """
  if image.shape[-1] == 1:
    return {"flair": image[..., 0]}, {"flair": path.name}, []
  found = {role: image[..., place] for place, role in enumerate(CHANNELS)}
  told = {role: f"channel {place} of {path.name}" for place, role in enumerate(CHANNELS, 1)}
  same = np.array_equal(found["pre"], found["flair"]) and np.array_equal(found["post"], found["flair"])
  return (
    found,
    told,
    ["the three channels are the same, expected pre-contrast, FLAIR and post-contrast"] if same else [],
  )


def one_each(
  images: Mapping[str, Shaped[np.ndarray, "... channels"]], paths: Mapping[str, pathlib.Path]
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
  """The same of images given by role, of one channel each.

  Raises:
    UserError: one has three.
  """
  for role, image in images.items():
    if image.shape[-1] != 1:
      raise UserError(f"{paths[role]} has {image.shape[-1]} channels, expected one for --{role}: name it with --input")
  return {role: image[..., 0] for role, image in images.items()}, {role: paths[role].name for role in images}, []
