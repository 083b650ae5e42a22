"""Brain-tumour detection and segmentation in MRI, in JAX and Flax. For research only, never clinical use."""

import importlib
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bt_jax.errors import UserError, check_local, needs
from bt_jax.evaluation import SENSITIVITY
from bt_jax.version import __version__

if TYPE_CHECKING:
  from bt_jax import datasets, losses, metrics, models, weights
  from bt_jax.inference.predictor import Prediction, Predictor
  from bt_jax.scans.scan import Scan

__all__ = [
  "Prediction", "Predictor", "Scan", "UserError", "__version__", "datasets", "load", "losses", "metrics", "models", "read",
  "save", "weights",
]  # fmt: skip

# These are imported on first use: they import JAX, and the command line reads its flags without it.
_MODULES = ("datasets", "losses", "metrics", "models", "weights")
_CLASSES = {
  "Prediction": "bt_jax.inference.predictor",
  "Predictor": "bt_jax.inference.predictor",
  "Scan": "bt_jax.scans.scan",
}


def __getattr__(name: str) -> object:
  if name in _MODULES:
    return importlib.import_module(f"bt_jax.{name}")
  if name in _CLASSES:
    return getattr(importlib.import_module(_CLASSES[name]), name)
  raise AttributeError(f"module 'bt_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return __all__


@needs("predict", "bt_jax.load")
def load(
  checkpoint: str | os.PathLike | Sequence[str | os.PathLike],
  *,
  classifier: str | os.PathLike | None = None,
  tta: bool = False,
  threshold: float | None = None,
  sensitivity: float = SENSITIVITY,
) -> "Predictor":
  """Loads the network of a run, the networks of several runs, or an exported file, ready to predict.

  >>> bt_jax.load("runs/none")
  Traceback (most recent call last):
  bt_jax.errors.UserError: there is no runs/none: name lgg, the folder of a run, or an exported file

  Args:
    checkpoint: the folder of a run, several folders whose probabilities are averaged, a glob pattern, the weights of a
      published U-Net (`unet.pt`), or an exported file.
    classifier: the folder of a classifier's run; slices that it takes for healthy stay empty.
    tta: test-time augmentation: whether to average predictions over mirrored and slightly rotated copies of each slice.
    threshold: threshold on a pixel's probability, 0..1; None: the one chosen on the validation set.
    sensitivity: share of the validation slices with a tumour that the classifier lets through, 0..1.

  Returns:
    A predictor: `predict(scan)` gives a `Prediction`; `module` and `variables` are the network of a single run.

  Raises:
    UserError: there is no such network.
  """
  from bt_jax.inference import loading

  several = [checkpoint] if isinstance(checkpoint, str | os.PathLike) else checkpoint
  return loading.load(several, classifier=classifier, tta=tta, threshold=threshold, sensitivity=sensitivity)


@needs("predict", "bt_jax.read")
def read(path: str | os.PathLike | None = None, **roles: str | os.PathLike) -> "Scan":
  """The scan in a file, a zip or a folder, for `Predictor.predict`.

  Three slices of 8 x 9 pixels, pre-contrast, FLAIR and post-contrast in each:

  >>> import numpy, tifffile
  >>> volume = numpy.arange(3 * 8 * 9, dtype="uint8").reshape(3, 8, 9)
  >>> for number, picture in enumerate(volume):
  ...   tifffile.imwrite(f"slice_{number}.tif", numpy.stack([picture] * 3, axis=-1))
  >>> scan = bt_jax.read(".")
  >>> scan.image.shape, scan.image[:, 0, 0, 1].tolist(), scan.spacing_mm
  ((3, 8, 9, 3), [0.0, 72.0, 144.0], None)

  Args:
    path: file or folder of one study.
    **roles: `flair`, `pre` and `post`: files instead of `path`, or SeriesInstanceUIDs of the DICOM study in `path`.

  Raises:
    UserError: the scan cannot be read, or `path` holds several studies.
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


@needs("predict", "bt_jax.save")
def save(
  prediction: "Prediction",
  folder: str | os.PathLike,
  *,
  probabilities: bool = False,
  uncertainty: bool = False,
  also: Sequence[str] = (),
) -> list[pathlib.Path]:
  """Writes the mask, the overlays and `prediction.json`, as the mode `predict` does.

      bt_jax.save(bt_jax.load("runs/unet").predict(bt_jax.read("scan.nii.gz")), "out")

  Args:
    prediction: the prediction for a scan from `read`.
    folder: the output folder.
    probabilities: whether to write the probabilities as well.
    uncertainty: whether to write the entropy as well, and, of several passes, their disagreement.
    also: what else to write of a DICOM scan: `sc`, a secondary capture series with outline and volume; `sr`, a structured
      report of volume and longest diameter.

  Returns:
    The paths of the files written.

  Raises:
    UserError: the scan was an array, which has no format to write a mask in, `also` has another name, or the folder holds another prediction.
  """
  from bt_jax.inference import writer

  return writer.save(prediction, folder, probabilities=probabilities, uncertainty=uncertainty, also=also)
