"""Converts published weights to our names and our file format."""

import pathlib

from ml_collections import ConfigDict

from bt_jax.errors import UserError
from bt_jax.pretrained.conversion import save_converted
from bt_jax.pretrained.sources import READERS, suffix_of
from bt_jax.runs import transfer, warm_start


def convert(config: ConfigDict, workdir: pathlib.Path | None) -> None:
  """Writes the weights that `model.pretrained` names under our own names, with a description beside them.

  Args:
    config: the configuration; only its `model.pretrained` is read.
    workdir: where to write; None: `runs/weights_<source>`.

  Raises:
    UserError: no weights are named, they are not of a network that we have, or the folder holds other weights.
  """
  name = config.model.pretrained
  weights = warm_start.load(name) if name and transfer.find(name) is None else None
  if weights is None:
    raise UserError(
      "nothing to convert: name a weight file or a hub name with --config.model.pretrained; a run's folder can be named there "
      "as it is"
    )
  workdir = workdir or pathlib.Path("runs") / f"weights_{_stem(name)}"
  written = save_converted(weights, workdir)
  print(f"{weights.origin}: {weights.title}, inputs normalised as {weights.normalize}")
  print("written:\n" + "\n".join(f"  {path}" for path in written))
  print(f"start from it with --config.model.pretrained={workdir} --config.{weights.fields}")


def _stem(name: str) -> str:
  """The name of a weight file, or a hub name, as part of a folder's name."""
  path = pathlib.Path(name)
  return path.stem if suffix_of(path) in READERS else name.replace("/", "--")
