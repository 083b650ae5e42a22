"""Records: one per slice and one per patient volume. All tables, figures and intervals are derived from them.

If masks have several classes, there is one record for each class, which the column `class` names.

A record is a dictionary, and not a class of its own, because its columns depend on the task, on the table of metrics and
on what a data set knows of its patients, and most statistics are given the name of a column. `record_tables.kind_of` has
the type of every column, and `files.read_csv` is the one function that reads tables, by these types.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bt_jax import metrics
from bt_jax.evaluation import outline
from bt_jax.schema import Slices

Record = dict[str, Any]
DISTANCES = ("hd95", "assd")


def slice_records(
  slices: Slices,
  probabilities: Float[np.ndarray, " n"],
  masks: Bool[np.ndarray, "n height width classes"],
  *,
  data: str,
  split: str,
  classes: Sequence[str],
) -> list[Record]:
  """One record per slice and class, in the order of the split.

  Args:
    slices: slices with ground truth.
    probabilities: probability of any tumour in each slice.
    masks: predicted masks after post-processing.
    data: name of the data set.
    split: name of the split.
    classes: names of the classes.

  Returns:
    Records with data, split, case, patient, slice, class (if there are several), pixel counts tp, fp, fn, tn, those of
    `outline.COLUMNS`, label (1 if the ground truth has the class) and probability.
  """
  truth = slices.mask == 1
  counts = metrics.count(masks, truth)
  columns = counts._asdict() | outline.count_near(masks, truth)
  return [
    {
      **identity(slices, index, data=data, split=split),
      **class_column(name, classes),
      **{cell: int(value[index, number]) for cell, value in columns.items()},
      "label": int(counts.tp[index, number] + counts.fn[index, number] > 0),
      "probability": float(probabilities[index]),
    }
    for index in range(len(slices))
    for number, name in enumerate(classes)
  ]


def identity(slices: Slices, index: int, *, data: str, split: str) -> Record:
  """The first columns of every slice record: data, split, case, patient, slice."""
  return {
    "data": data,
    "split": split,
    "case": str(slices.case[index]),
    "patient": str(slices.patient[index]),
    "slice": int(slices.number[index]),
  }


def class_column(name: str, classes: Sequence[str]) -> Record:
  """The column `class`, which records have only if there are several classes."""
  return {"class": name} if len(classes) > 1 else {}


def by_class(rows: list[Record]) -> dict[str | None, list[Record]]:
  """The records of each class, by its name; if there is one class, all records under None."""
  return {
    name: [row for row in rows if row.get("class") == name] for name in dict.fromkeys(row.get("class") for row in rows)
  }


def of_any_class(rows: list[Record]) -> list[Record]:
  """Merges the records of the classes into one per slice or patient; records of a single class are unchanged.

  Pixel counts are summed. Metrics and distances are averaged over the classes that have a value. The label is 1 if the
  ground truth has any class.
  """
  if all("class" not in row for row in rows):
    return rows
  return [_merged(members) for members in zip(*by_class(rows).values(), strict=True)]


def _merged(members: Sequence[Record]) -> Record:
  merged = {name: value for name, value in members[0].items() if name != "class"}
  for name in merged.keys() & {*metrics.Counts._fields, *outline.COLUMNS, "truth_voxels"}:
    merged[name] = _sum(members, name)
  for name in merged.keys() & {"label", "tumor_slices"}:
    merged[name] = max(row[name] for row in members)
  for name in merged.keys() & {*metrics.METRICS, *DISTANCES}:
    known = [row[name] for row in members if row[name] is not None]
    merged[name] = float(np.mean(known)) if known else None
  return merged


def _sum(rows: Sequence[Record], name: str) -> int | None:
  """The sum of a column; None if it has no value in one of the records."""
  values = [row[name] for row in rows]
  return None if None in values else sum(values)


def patient_records(rows: list[Record]) -> list[Record]:
  """One record per patient and class: the summed counts of its slices, and the overlap metrics of the volume."""
  volumes: dict[tuple[str, str | None], list[Record]] = {}
  for row in rows:
    volumes.setdefault((row["patient"], row.get("class")), []).append(row)
  patients = []
  for (patient, name), members in volumes.items():
    counts = metrics.pool(counts_of(members))
    patients.append(
      {
        "data": members[0]["data"],
        "split": members[0]["split"],
        "patient": patient,
        **({} if name is None else {"class": name}),
        "slices": len(members),
        "tumor_slices": sum(row["label"] for row in members),
        **{name: value.item() for name, value in counts._asdict().items()},
        **{name: _sum(members, name) for name in outline.COLUMNS if name in members[0]},
        **{name: metric(counts, empty=1.0).item() for name, metric in metrics.METRICS.items()},
      }
    )
  return patients


def counts_of(rows: list[Record]) -> metrics.Counts:
  """The counts of the records, as arrays."""
  return metrics.Counts(*(np.array([row[name] for row in rows]) for name in metrics.Counts._fields))
