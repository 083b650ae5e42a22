"""Rows: one per slice and one per patient volume. Every table, figure and interval is made from them."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bt_jax import metrics
from bt_jax.schema import Slices

Record = dict[str, Any]


def slice_records(
  slices: Slices,
  probabilities: Float[np.ndarray, "n"],
  masks: Bool[np.ndarray, "n height width"],
  *,
  data: str,
  split: str,
) -> list[Record]:
  """One row per slice, in the order of the split.

  Args:
    slices: with the truth.
    probabilities: of any tumour in the slice.
    masks: the prediction after post-processing.
    data: what the data is called.
    split: what the split is called.

  Returns:
    Rows of data, split, case, patient, slice, pixels tp, fp, fn, tn, label (1: the truth has a tumour) and probability.
  """
  truth = slices.mask[..., 0] == 1
  counts = metrics.count(masks, truth)
  return [
    {
      **identity(slices, at, data=data, split=split),
      **{name: int(value[at]) for name, value in counts._asdict().items()},
      "label": int(truth[at].any()),
      "probability": float(probabilities[at]),
    }
    for at in range(len(slices))
  ]


def identity(slices: Slices, at: int, *, data: str, split: str) -> Record:
  """The columns that every row of a slice begins with: data, split, case, patient, slice."""
  return {
    "data": data,
    "split": split,
    "case": str(slices.case[at]),
    "patient": str(slices.patient[at]),
    "slice": int(slices.number[at]),
  }


def patient_records(rows: list[Record]) -> list[Record]:
  """One row per patient: the counts of its slices added up, and the overlap metrics of the volume."""
  volumes: dict[str, list[Record]] = {}
  for row in rows:
    volumes.setdefault(row["patient"], []).append(row)
  patients = []
  for patient, members in volumes.items():
    counts = metrics.pool(counts_of(members))
    patients.append(
      {
        "data": members[0]["data"],
        "split": members[0]["split"],
        "patient": patient,
        "slices": len(members),
        "tumor_slices": sum(row["label"] for row in members),
        **{name: value.item() for name, value in counts._asdict().items()},
        **{name: metric(counts, empty=1.0).item() for name, metric in metrics.METRICS.items()},
      }
    )
  return patients


def counts_of(rows: list[Record]) -> metrics.Counts:
  """The counts of rows as arrays."""
  return metrics.Counts(*(np.array([row[name] for row in rows]) for name in metrics.Counts._fields))
