"""Serves a page that shows predictions."""

import functools
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from bt_jax import zoo
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.own_data import folds
from bt_jax.datasets.registry import PUBLISHED
from bt_jax.distributed import setup
from bt_jax.inference import loading, networks, published
from bt_jax.runs import transfer


def serve(
  *, bind: str, port: int, limit_mb: int, keep: pathlib.Path | None, checkpoint: list[str], **options: Any
) -> None:
  """Opens the viewer's page; see `server.serve`, and `loading.load` for the options. Without a checkpoint, `lgg`."""
  from bt_jax.serving import server

  setup.prepare()
  checkpoint = checkpoint or ["lgg"]
  server.serve(
    functools.partial(loading.load, checkpoint, **options),
    host=bind,
    port=port,
    limit_mb=limit_mb,
    keep=keep,
    fine_tuning=functools.partial(fine_tuning, checkpoint),
  )


def fine_tuning(checkpoint: Sequence[str], root: pathlib.Path, patients: int, info: DatasetInfo) -> str | None:
  """The command that fine-tunes the first of some networks on a folder of corrections; None for an exported file.

  Args:
    checkpoint: the networks, see `loading.load`.
    root: the folder.
    patients: how many patients it has.
    info: the data set of the networks.
  """
  from configs import seg

  path, config = networks.find(checkpoint, "checkpoint")[0], seg.get_config("own")
  if transfer.find(str(path)) is not None:
    trained = transfer.load(path)
    model, size = trained.model, trained.size
  elif published.is_weights(path):
    model, size = published.MODEL, PUBLISHED.size
  else:
    return None
  name = next((name for name in zoo.names() if zoo.path_of(name) == path), str(path.absolute()))
  fields = {"data.root": root.absolute(), "model.pretrained": name}
  if patients < config.data.folds:
    fields["data.folds"] = max(patients, folds.FEWEST)
  if size != config.data.size:
    fields["data.size"] = size
  if info.window:
    fields["data.window"] = ",".join(map("{:g}".format, info.window))
  fields |= {
    f"model.{field}": value
    for field, value in model.items()
    if field not in ("pretrained", "dtype") and config.model.get(field, value) != value
  }
  settings = [shlex.quote(f"--config.{field}={value}") for field, value in fields.items()]
  installed = pathlib.Path(sys.argv[0]).name == "bt-jax"
  program = "bt-jax --config=seg.py:own" if installed else "python launch.py --config=configs/seg.py:own"
  return " ".join([program, *settings])
