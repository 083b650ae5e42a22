"""From rows to a summary: pooled pixels, patient volumes and slices, each under its rule for empty masks."""

import functools
from typing import Any

import numpy as np

from bt_jax import metrics
from bt_jax.evaluation.rows import Row, counts_of, patient_rows

# The rule for slices whose truth and prediction are both empty, by the ending of the key.
EMPTY_RULES = {
  "empty_is_one": "a slice empty in truth and prediction counts 1",
  "nonempty_truth": "slices with a tumour only",
}


def summarize(rows: list[Row]) -> dict[str, Any]:
  """The numbers of one part of a split.

  Returns:
    `slices`, `tumor_slices`, `patients`, and for every metric of `METRICS` (all in 0..1): `pooled.<metric>` over all
    pixels; `patient.<metric>_mean` and `_median` over patient volumes; `slice.<metric>_<rule>`, the mean over slices by
    the rules of `EMPTY_RULES`. In `pooled` and `patient` a pair that is all empty counts 1.
  """
  counts = counts_of(rows)
  volumes = counts_of(patient_rows(rows))
  tumor = np.array([row["label"] for row in rows]) == 1
  pooled, patient, by_slice = {}, {}, {}
  for name, metric in metrics.METRICS.items():
    pooled[name] = metric(metrics.pool(counts), empty=1.0).item()
    values = metric(volumes, empty=1.0)
    patient |= {f"{name}_mean": float(np.mean(values)), f"{name}_median": float(np.median(values))}
    values = metric(counts, empty=1.0)
    by_slice |= {
      f"{name}_empty_is_one": float(np.mean(values)),
      f"{name}_nonempty_truth": float(np.mean(values[tumor])) if tumor.any() else None,
    }
  return {
    "slices": len(rows),
    "tumor_slices": int(tumor.sum()),
    "patients": len(volumes.tp),
    "pooled": pooled,
    "patient": patient,
    "slice": by_slice,
  }


# The numbers of a summary that can pick the best checkpoint: those that always have a value.
SCORES = tuple(
  f"{group}.{name}{ending}"
  for group, endings in (("pooled", ("",)), ("patient", ("_mean", "_median")), ("slice", ("_empty_is_one",)))
  for ending in endings
  for name in metrics.METRICS
)


def score_of(summary: dict[str, Any], name: str) -> float | None:
  """One number of a summary by its dotted name, e.g. `pooled.dice`; None where it has no value."""
  return functools.reduce(lambda group, key: group[key], name.split("."), summary)
