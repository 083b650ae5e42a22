"""The content of `prediction.json`: the statistics of one prediction."""

from typing import Any

import numpy as np

from bt_jax.inference import measurements
from bt_jax.inference.predictor import Prediction
from bt_jax.scans import directions
from bt_jax.scans.scan import NOTICE
from bt_jax.version import __version__


def describe(prediction: Prediction) -> dict[str, Any]:
  """The content of `prediction.json`, ready to be written.

  Positions are indices: they count slices, rows and columns from 0, in the order of `scan.image`. What is called a number
  counts from 1, as pages and consoles do. Sizes in mm are None where the spacing is
  unknown, and positions of the tumour where there is none. `probability` is the highest of all slices, 0..1.
  """
  scan, mask, spacing = prediction.scan, prediction.mask, prediction.scan.spacing_mm
  location = measurements.location(mask)
  box = location["bounding_box"]
  return {
    "research_use": NOTICE,
    "study": scan.name,
    "tumor": bool(mask.any()),
    "probability": float(prediction.slice_probability.max()),
    **measurements.size(mask, spacing),
    **measurements.largest_diameter(mask, spacing),
    **_of_classes(prediction),
    "slice_range": box and box["slices"],
    "slice_number_range": box and [index + 1 for index in box["slices"]],
    **location,
    "components": measurements.components(mask, box),
    "disagreement": measurements.disagreement(prediction.members, spacing),
    "uncertainty": prediction.uncertainty,
    "threshold": float(prediction.threshold),
    "looks_wrong": bool(prediction.looks_wrong),
    "warnings": list(prediction.warnings),
    "shape": list(mask.shape),
    "spacing_mm": [float(length) for length in spacing] if spacing else None,
    "orientation": directions.letters(scan.affine),
    "roles": dict(scan.roles),
    "input": {"format": scan.format, "sha256": scan.sha256},
    "software": f"bt_jax {__version__}",
    "model": prediction.about,
    "slices": _slices(prediction),
  }


def _of_classes(prediction: Prediction) -> dict[str, Any]:
  """`classes`: id, size and diameter of each, where there are several."""
  classes, spacing = prediction.info.classes, prediction.scan.spacing_mm
  if len(classes) == 1:
    return {}
  masks = np.moveaxis(prediction.masks, -1, 0)
  return {
    "classes": {
      name: {"id": label, **measurements.size(mask, spacing), **measurements.largest_diameter(mask, spacing)}
      for name, label, mask in zip(classes, prediction.info.ids, masks, strict=True)
    }
  }


def _slices(prediction: Prediction) -> list[dict[str, Any]]:
  scan = prediction.scan
  areas = prediction.mask.sum((1, 2))
  square_mm = scan.spacing_mm[1] * scan.spacing_mm[2] if scan.spacing_mm else None
  return [
    {
      "index": index,
      "number": index + 1,
      "name": name,
      "tumor": bool(area),
      "probability": float(probability),
      "area_pixels": int(area),
      "area_mm2": float(area * square_mm) if scan.spacing_mm else None,
      "gated": bool(gated),
    }
    for index, (name, area, probability, gated) in enumerate(
      zip(scan.slice_names, areas, prediction.slice_probability, prediction.gated, strict=True)
    )
  ]
