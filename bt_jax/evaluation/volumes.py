"""Measurements on whole volumes: surface distances and shape features, by patient and class."""

import itertools
from collections.abc import Mapping, Sequence

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
  spacing_mm: Mapping[str, tuple[float, float, float]],
  classes: Sequence[str],
) -> dict[tuple[str, str | None], Record]:
  """Columns of `patients.csv` for each patient and class.

  Args:
    slices: whole volumes with ground truth.
    masks: predicted masks; None if there are none, as for a classifier.
    spacing_mm: spacing between slices, rows and columns, by case. If it is empty, the spacing is not known, and
      distances are in pixels, with a step to the next slice counted as one.
    classes: names of the classes.

  Returns:
    The columns by patient and class name (None if there is one class): `truth_voxels`, and the features of
    `shape.shape_features` as `truth_<feature>`. With masks also `predicted_<feature>`, of the largest 3-D component
    alone, as a stray pixel at the other end of the head would enlarge its ellipsoid; and `hd95` and `assd`, of all
    components, with their `unit`. For a patient with several volumes, voxels are summed, distances averaged, and shape
    features taken from the volume with the largest true mask.
  """
  columns_of: dict[tuple[str, str | None], Record] = {}
  patients = list(dict.fromkeys(slices.patient.tolist()))
  for patient, (number, name) in itertools.product(patients, enumerate(classes)):
    cases = list(dict.fromkeys(slices.case[slices.patient == patient].tolist()))
    volumes = [_volume(slices, masks, case, number) for case in cases]
    truth, predicted = max(volumes, key=lambda volume: volume[0].sum())
    columns = {"truth_voxels": sum(int(truth.sum()) for truth, _ in volumes)}
    columns |= {f"truth_{feature}": value for feature, value in shape.shape_features(truth).items()}
    if masks is not None:
      of_shape = shape.shape_features(largest_part(predicted))
      columns |= {f"predicted_{feature}": value for feature, value in of_shape.items()}
      distances = [
        surface.surface_distances(predicted, truth, spacing_mm.get(case, (1.0, 1.0, 1.0)))
        for case, (truth, predicted) in zip(cases, volumes, strict=True)
      ]
      columns |= {
        "unit": "mm" if spacing_mm else "pixels",
        **surface.SurfaceDistances(*np.mean(distances, 0).tolist())._asdict(),
      }
    columns_of[patient, class_column(name, classes).get("class")] = columns
  return columns_of


def _volume(
  slices: Slices, masks: Bool[np.ndarray, "n height width classes"] | None, case: str, number: int
) -> tuple[Bool[np.ndarray, "some height width"], Bool[np.ndarray, "some height width"] | None]:
  """The true and the predicted mask of one class in a case, in the order of the slices."""
  indices = np.flatnonzero(slices.case == case)
  indices = indices[np.argsort(slices.number[indices])]
  return slices.mask[indices, ..., number] == 1, None if masks is None else masks[indices, ..., number]
