"""Converts a weight file to the variables of our networks, array by array, and stores the converted weights."""

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Iterable
from typing import Any, Literal

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from typing_extensions import TypedDict

from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.models.efficientnet_lite import ENCODERS, LiteClassifier
from bt_jax.models.resnet import ResNet50Classifier
from bt_jax.models.unet import UNET, UNET_FIELDS, UNet
from bt_jax.pretrained import sources
from bt_jax.pretrained.names import NAMINGS, Naming, Path

PyTree = Any
ENCODER, HEAD = "encoder", "head"  # the parts of a network that weights are for
TITLES = {naming.variant: naming.network for naming in NAMINGS}
# PyTorch's counters beside each batch norm and in an average of networks, which our networks do not need.
_COUNTERS = ("num_batches_tracked", "n_averaged")
_ARRAYS, _ABOUT, _SEAL = "weights.safetensors", "weights.json", "record_sha256"


@dataclasses.dataclass(frozen=True)
class Weights:
  """The variables of a published network, with their description.

  Attributes:
    variables: `params` and `batch_stats`, float32, each with `encoder` and, if the source has a classifier, `head`; or
      those of a whole U-Net.
    variant: variant of the network, a name of `resnet.VARIANTS` or `efficientnet_lite.ENCODERS`, or `unet.UNET`.
    normalize: how inputs are normalised, a name of `SCHEMES`.
    origin: the source of the weights, as named by the user.
    sha256: SHA-256 of the source file.
  """

  variables: PyTree
  variant: str
  normalize: str
  origin: str
  sha256: str

  @property
  def about(self) -> dict[str, str]:
    """All fields except the arrays."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "variables"}

  @property
  def title(self) -> str:
    """The name of the network, e.g. `ResNet-50 (keras)`."""
    return f"{TITLES[self.variant]} ({self.variant})"

  @property
  def is_whole(self) -> bool:
    """Whether they are of a whole network rather than of an encoder."""
    return self.variant == UNET

  @property
  def patients(self) -> dict[str, list[str]]:
    """The patients that they learned from and were chosen on: those of the LGG slices, for the published U-Net."""
    from bt_jax.datasets.registry import published_patients  # TFDS takes seconds to import

    return {"train": published_patients() if self.is_whole else [], "validation": []}

  @property
  def field(self) -> str:
    """The configuration field that gives a network this encoder, or is this network."""
    if self.is_whole:
      return f"model.name={UNET}"
    return f"model.{'encoder' if self.variant in ENCODERS else 'variant'}={self.variant}"

  @property
  def fields(self) -> str:
    """The same field, with the networks that have this encoder."""
    if self.is_whole:
      return self.field
    names = "lite or lite_unet" if self.variant in ENCODERS else "resnet50 or resunet"
    return f"{self.field} (and model.name={names})"


class _About(TypedDict):
  """The content of `weights.json`."""

  variant: Literal["torchvision", "keras", "lite0", "lite1", "lite2", "unet"]
  normalize: str
  origin: str
  sha256: str
  arrays_sha256: str


def load_weights(name: str) -> Weights:
  """Loads weights from a file, an installed package, a hub name or a folder of converted weights.

  Raises:
    UserError: there is no such file, it cannot be read, or it is for a network that we do not have.
  """
  path = sources.find_file(name)
  if path.is_dir():
    return _load_converted(path)
  arrays = sources.read_arrays(path)
  # Networks of one family share names: the file belongs to the network from which it differs least.
  candidates = [(naming, bare) for naming in NAMINGS if (bare := _without_prefix(arrays, naming.first))]
  if not candidates:
    kinds = ", ".join(dict.fromkeys(f"{naming.network} ({naming.title})" for naming in NAMINGS))
    raise UserError(
      f"{path} holds none of {kinds}: its arrays are {some(sorted(arrays))}; name a file that does",
      "model.pretrained",
    )
  naming, bare = min(candidates, key=lambda candidate: len(_misfits(candidate[1], candidate[0])))
  return Weights(convert(bare, naming, path), naming.variant, naming.normalize, name, sources.sha256(path))


def _without_prefix(arrays: sources.Arrays, first: str) -> sources.Arrays | None:
  """The arrays without the prefix that `first` and all other names share; None if there is no such prefix.

  A network inside another one has a prefix before all its names (`module.`, `_orig_mod.`, `model.backbone.`).
  """
  arrays = {name: array for name, array in arrays.items() if not name.endswith(_COUNTERS)}
  for name in arrays:
    prefix = name.removesuffix(first)
    if name == prefix + first and prefix[-1:] in ("", ".", "/") and all(other.startswith(prefix) for other in arrays):
      return {other.removeprefix(prefix): array for other, array in arrays.items()}
  return None


def _misfits(arrays: sources.Arrays, naming: Naming) -> set[str]:
  """The names of arrays that are missing, unknown, or of another size."""
  table, shapes = naming.targets(), expected_shapes(naming.variant, 1000)
  wanted = {name for name in table if table[name].path in shapes}
  shared = wanted & arrays.keys()
  return (wanted ^ arrays.keys()) | {
    name for name in shared if arrays[name].size != math.prod(shapes[table[name].path])
  }


def convert(arrays: sources.Arrays, naming: Naming, path: pathlib.Path) -> PyTree:
  """Converts arrays to variables by our names; every source array is used and every target is filled.

  Args:
    arrays: arrays of the file.
    naming: the naming scheme of the file.
    path: path of the file, for errors.

  Raises:
    UserError: an array is missing, unknown, of the wrong shape or not finite; only the head may be missing, as a whole.
  """
  table = naming.targets()
  given = {name for name in arrays if not name.endswith(_COUNTERS)}
  wanted = set(table)
  if given.isdisjoint(naming.head):
    wanted -= naming.head
  if given != wanted:
    hint = ": it is a larger one" if naming.beyond in given else ""
    raise UserError(
      f"{path} is not {naming.network} with the names of {naming.title}{hint}: missing are {some(sorted(wanted - given))}; "
      f"unknown are {some(sorted(given - wanted))}; name another file",
      "model.pretrained",
    )
  classes = arrays[naming.bias].size if naming.bias in wanted else None
  shapes = expected_shapes(naming.variant, classes)
  flat, wrong = {}, []
  for name in sorted(wanted):
    target = table[name]
    array = target.turn(arrays[name]) if arrays[name].ndim == len(shapes[target.path]) else arrays[name]
    if array.shape != shapes[target.path]:
      wrong.append(f"{name} ({'/'.join(target.path[1:])}) has the shape {array.shape}, expected {shapes[target.path]}")
    with np.errstate(over="ignore"):  # values that overflow float32 become infinite, which is refused
      flat[target.path] = np.ascontiguousarray(array, np.float32)
  if wrong:
    raise UserError(f"{path} is not {naming.network}: {some(wrong)}; name another", "model.pretrained")
  variables = flax.traverse_util.unflatten_dict(flat)
  check_finite(variables, str(path))
  return variables


def check_finite(variables: PyTree, origin: str) -> None:
  """Raises UserError if an array of weights holds a number that is not finite: the network's outputs would be NaN."""
  flat = flax.traverse_util.flatten_dict(variables)
  if wrong := ["/".join(path[1:]) for path, array in flat.items() if not np.isfinite(array).all()]:
    raise UserError(f"{origin} holds numbers that are not finite, in {some(wrong)}: name weights that are whole")


@functools.cache  # tracing the network takes seconds
def expected_shapes(variant: str, classes: int | None) -> dict[Path, tuple[int, ...]]:
  """The shapes of all arrays of the published network, for three channels; without the head if `classes` is None."""
  if variant == UNET:
    model = UNet(**UNET_FIELDS, classes=classes or 1)
  elif variant in ENCODERS:
    model = LiteClassifier(variant, classes=classes or 1)
  else:
    model = ResNet50Classifier(variant, classes=classes or 1)
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
  flat = flax.traverse_util.flatten_dict(variables)
  return {path: leaf.shape for path, leaf in flat.items() if classes or path[1] != HEAD}


def save_converted(weights: Weights, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the arrays with a JSON description beside them; writing the same weights again changes nothing.

  Raises:
    UserError: the folder holds other weights, or a run.
  """
  about = folder / _ABOUT
  if (folder / "config.json").exists():
    raise UserError(f"{folder} holds a run: choose another workdir", "workdir")
  if about.is_file():
    if _read_about(folder)["sha256"] != weights.sha256:
      raise UserError(f"{folder} holds weights converted from another file: choose another workdir", "workdir")
    _load_converted(folder)
    return [folder / _ARRAYS, about]
  flat = {"/".join(path): array for path, array in flax.traverse_util.flatten_dict(weights.variables).items()}
  content = safetensors.numpy.save(flat)
  digest = hashlib.sha256(content).hexdigest()
  return [
    files.write_bytes(folder / _ARRAYS, content),
    files.write_json(about, files.sealed({**weights.about, "arrays_sha256": digest}, _SEAL)),
  ]


def is_converted(folder: pathlib.Path) -> bool:
  """Whether a folder holds weights that `save_converted` wrote."""
  return (folder / _ABOUT).is_file()


def _load_converted(folder: pathlib.Path) -> Weights:
  about = folder / _ABOUT
  if not about.is_file():
    raise UserError(
      f"model.pretrained: {folder} holds neither a run nor converted weights: convert some",
      "mode=convert",
    )
  known = _read_about(folder)
  if not (folder / _ARRAYS).is_file() or known["arrays_sha256"] != sources.sha256(folder / _ARRAYS):
    raise UserError(f"{folder} is damaged: {_ARRAYS} is not what {_ABOUT} says; remove the folder and convert again")
  arrays = sources.read_arrays(folder / _ARRAYS)
  variables = flax.traverse_util.unflatten_dict({tuple(name.split("/")): array for name, array in arrays.items()})
  check_finite(variables, str(folder))
  return Weights(variables, **{name: known[name] for name in ("variant", "normalize", "origin", "sha256")})


def _read_about(folder: pathlib.Path) -> _About:
  remedy = "remove the folder and convert again"
  return files.check_seal(files.read_json(folder / _ABOUT, _About, remedy), folder / _ABOUT, remedy, _SEAL)


def some(names: Iterable[str]) -> str:
  """The first three names, and how many more there are."""
  names = list(names)
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return (", ".join(names[:3]) + more) or "none"
