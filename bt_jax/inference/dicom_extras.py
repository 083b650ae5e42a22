"""What is written of a DICOM scan beside its Segmentation, on request."""

import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bt_jax.errors import UserError, nearest
from bt_jax.inference import measurements, overlays
from bt_jax.inference.segmented import Segmented
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.dicom import secondary_capture, structured_report


def check(names: Iterable[str]) -> list[str]:
  """The names in the order of `EXTRAS`, each once; raises UserError for one that is not among them."""
  names = list(names)
  if wrong := [name for name in names if name not in EXTRAS]:
    raise UserError(f"also is {wrong[0]!r}: {nearest(wrong[0], EXTRAS)}", "also")
  return [name for name in EXTRAS if name in names]


def lacking(names: Sequence[str], segmented: Segmented) -> list[str]:
  """Why some of these cannot be written of a scan, a sentence each; empty where all can."""
  scan, info = segmented.scan, segmented.info
  if names and scan.format != "dicom":
    return [
      f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} of DICOM alone, and this scan is {scan.format}"
    ]
  if "sr" not in names:
    return []
  if scan.spacing_mm is None:
    return ["no sr: the files give no spacing, and so no volume"]
  if info.overlapping and len(info.classes) > 1:
    return ["no sr: classes overlap, and where they do, a Segmentation holds the last of them alone"]
  return []


def write(names: Sequence[str], folder: pathlib.Path, segmented: Segmented, algorithm: Algorithm) -> list[pathlib.Path]:
  """Writes those that can be, see `lacking`, into a folder that has the Segmentation.

  Args:
    names: names of `EXTRAS`.
    folder: folder of the mask.
    segmented: a scan with its masks.
    algorithm: what made them.
  """
  return [
    path for name in names if not lacking([name], segmented) for path in EXTRAS[name](folder, segmented, algorithm)
  ]


def _captures(folder: pathlib.Path, segmented: Segmented, algorithm: Algorithm) -> list[pathlib.Path]:
  """A secondary capture series: each slice with the outline and the volume."""
  images = overlays.captures(segmented, algorithm)
  return secondary_capture.write(segmented.scan, folder, images, algorithm=algorithm)


def _report(folder: pathlib.Path, segmented: Segmented, algorithm: Algorithm) -> list[pathlib.Path]:
  """A structured report: the volume and the longest diameter of each class."""
  spacing = segmented.scan.spacing_mm
  extents = [
    structured_report.Extent(
      measurements.size(mask, spacing)["volume_ml"],
      measurements.largest_diameter(mask, spacing)["largest_diameter_mm"],
    )
    for mask in np.moveaxis(segmented.masks, -1, 0)
  ]
  return structured_report.write(segmented.scan, folder, folder / "mask.dcm", extents, algorithm=algorithm)


EXTRAS: dict[str, Callable[[pathlib.Path, Segmented, Algorithm], list[pathlib.Path]]] = {
  "sc": _captures,
  "sr": _report,
}
