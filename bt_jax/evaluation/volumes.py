"""What is measured on whole volumes: distances of surfaces and shapes, by patient and class."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from bt_jax.evaluation import shape, surface
from bt_jax.evaluation.postprocess import largest_part
from bt_jax.evaluation.records import Record, class_column
from bt_jax.schema import Slices


def volume_columns(
  slices: Slices,
  masks: Bool[np.ndarray, "n height width classes"] | None,
  *,
  spacing_mm: tuple[float, float, float] | None,
  classes: Sequence[str],
) -> dict[tuple[str, str | None], Record]:
  """Columns of `patients.csv` for each patient and class.

  Args:
    slices: whole volumes, with the truth.
    masks: predicted; None where nothing is, as by a classifier.
    spacing_mm: between slices, rows and columns; None where it is not known: distances are then in pixels, a step to the
      next slice counted as one.
    classes: the names of the classes.

  Returns:
    By patient and name of the class, None where there is one: `truth_voxels` and the features of `shape.shape_features` as `truth_<feature>`; with masks also
    `predicted_<feature>`, of the largest 3-D part, as a stray pixel at the other end of the head would make its ellipsoid,
    and `hd95` and `assd`, of all parts, with their `unit`.
  """
  columns_of: dict[tuple[str, str | None], Record] = {}
  patients = list(dict.fromkeys(slices.patient.tolist()))
  for patient, (number, name) in itertools.product(patients, enumerate(classes)):
    indices = np.flatnonzero(slices.patient == patient)
    indices = indices[np.argsort(slices.number[indices])]
    truth = slices.mask[indices, ..., number] == 1
    columns = {"truth_voxels": int(truth.sum())}
    columns |= {f"truth_{feature}": value for feature, value in shape.shape_features(truth).items()}
    if masks is not None:
      predicted = masks[indices, ..., number]
      distances = surface.surface_distances(predicted, truth, spacing_mm or (1.0, 1.0, 1.0))
      of_shape = shape.shape_features(largest_part(predicted))
      columns |= {f"predicted_{feature}": value for feature, value in of_shape.items()}
      columns |= {"unit": "mm" if spacing_mm else "pixels", **distances._asdict()}
    columns_of[patient, class_column(name, classes).get("class")] = columns
  return columns_of
