"""Brain-tumour detection and segmentation in MRI, in JAX and Flax. For research only, never clinical use."""

import importlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from bt_jax.errors import UserError, check_local
from bt_jax.version import __version__

__all__ = [
  "UserError", "__version__", "datasets", "load", "losses", "metrics", "models", "read", "save", "weights",
]  # fmt: skip

# What follows imports JAX only where it is used: the flags are read without.


def __getattr__(name: str) -> Any:
  if name in ("datasets", "losses", "metrics", "models", "weights"):
    return importlib.import_module(f"bt_jax.{name}")
  raise AttributeError(f"module 'bt_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return __all__


def load(checkpoint: str | os.PathLike | Sequence[str | os.PathLike], **options: Any) -> Any:
  """The `inference.predictor.Predictor` of a run, of several, or of an exported file.

  Args:
    checkpoint: one, or several whose probabilities are averaged; see `inference.loading.load`.
    options: `classifier`, `tta`, `threshold` and `sensitivity`, see there.

  Raises:
    UserError: there is no such network.
  """
  from bt_jax.inference import loading

  several = [checkpoint] if isinstance(checkpoint, str | os.PathLike) else checkpoint
  return loading.load(several, **options)


def read(path: str | os.PathLike | None = None, **roles: str | os.PathLike) -> Any:
  """The `scans.scan.Scan` in a file, a zip or a folder, for `Predictor.predict`.

  Args:
    path: of one study.
    roles: `flair`, `pre` and `post`: files instead of `path`, or SeriesInstanceUIDs of the DICOM study in `path`.

  Raises:
    UserError: it cannot be read, or holds several studies.
  """
  from bt_jax.scans import reader
  from bt_jax.schema import CHANNELS

  if unknown := [role for role in roles if role not in CHANNELS]:
    raise UserError(f"there is no sequence {unknown[0]!r}, expected {', '.join(CHANNELS)}")
  for name, value in {"input": path or "", **roles}.items():
    check_local(value, name)
  source = None if path is None else pathlib.Path(path).expanduser()
  studies = reader.find(source, {role: os.path.expanduser(value) for role, value in roles.items()})
  if len(studies) > 1:
    raise UserError(
      f"{path} holds {len(studies)} studies ({studies[0].name}, {studies[1].name}, ...): name one of them"
    )
  return reader.read(studies[0])


def save(prediction: Any, folder: str | os.PathLike, *, probabilities: bool = False) -> list[pathlib.Path]:
  """Writes what the mode `predict` writes of the prediction of a scan that was read; see `inference.writer.save`."""
  from bt_jax.inference import writer

  return writer.save(prediction, folder, probabilities=probabilities)
