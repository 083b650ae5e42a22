"""Which volumes the report shows, and the captions of their slices."""

import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bt_jax.reporting.page import sprites
from bt_jax.reporting.page.charts import Chart, samples, source
from bt_jax.reporting.page.phrases import number
from bt_jax.reporting.page.run_files import RunFiles
from bt_jax.tasks import TASKS

Row = dict[str, Any]
_WHITE = 0.999  # quantile of a volume's intensities that is shown as white
_SAMPLES = 4  # number of sample slices, each from another volume


class Shown(NamedTuple):
  """A volume in the report.

  Attributes:
    case: name of the case.
    heading: the case with its rank and score.
    flair: the sprite as a `data:` URL.
    brightness: factor that makes its brightest pixels white.
    lines: number of lines of the sprite.
    size: size of a slice in pixels.
    outlines: the data of the SVG paths of each layer, one for each class.
    captions: caption of each slice.
    bars: for each slice, the heights of its bars for truth and prediction, 0..1.
    start: index of the slice to show first and in print, the one with the largest tumour.
  """

  case: str
  heading: str
  flair: str
  brightness: float
  lines: int
  size: int
  outlines: dict[str, list[str]]
  captions: list[str]
  bars: list[tuple[float, float]]
  start: int


def score(record: RunFiles) -> str:
  """The column of `patients.csv` that ranks patients."""
  return TASKS[record.summary.get("task", "segmentation")].by_patient[0]  # masks of a cascade are its segmenter's


def ranks(record: RunFiles) -> dict[str, str]:
  """Maps the best, the median and the worst patient to their rank."""
  known = [row for row in record.patients if row.get(score(record)) is not None]
  if not known:
    return {}
  ordered = sorted(known, key=lambda row: row[score(record)])
  ranks_of: dict[str, list[str]] = {}
  for rank, position in (("best", -1), ("median", (len(ordered) - 1) // 2), ("worst", 0)):
    ranks_of.setdefault(ordered[position]["patient"], []).append(rank)
  return {patient: " and ".join(names) for patient, names in ranks_of.items()}


def choose(record: RunFiles, *, room: int, enough: int) -> list[Shown]:
  """Chooses volumes: those of the best, median and worst patients first, then others.

  Args:
    record: files of the run.
    room: largest total size in bytes.
    enough: total size in bytes above which no volumes of other patients are added.
  """
  ranked = ranks(record)
  scores = {row["patient"]: row.get(score(record)) for row in record.patients}
  cases: dict[str, list[Row]] = {}
  for row in record.rows:
    cases.setdefault(row["case"], []).append(row)
  order = [*ranked, *(patient for patient in scores if patient not in ranked)]
  rank_of = {patient: rank for rank, patient in enumerate(order)}
  shown, used = [], 0
  for case, rows in sorted(cases.items(), key=lambda item: (rank_of.get(item[1][0]["patient"], len(rank_of)), item[0])):
    rows = sorted(rows, key=lambda row: row["slice"])
    patient, folder = rows[0]["patient"], _folder(record, case)
    limit = room if patient in ranked else min(room, enough)
    if folder is None or used + (folder / case / "flair.png").stat().st_size * 4 / 3 > limit:
      continue
    volume = sprites.read_volume(folder, case, len(rows), record.info)
    if volume is None:
      continue
    heading = _heading(case, ranked.get(patient, ""), scores.get(patient), score(record))
    entry = _show(volume, [record.of_classes(row) for row in rows], heading)
    size = len(entry.flair) + sum(len(path) for paths in entry.outlines.values() for path in paths)
    if used + size <= limit:
      shown.append(entry)
      used += size
  return shown


def note(record: RunFiles, shown: list[Shown]) -> str:
  """The number of volumes shown, and which of the best, median and worst are not among them."""
  cases = {row["case"]: row["patient"] for row in record.rows}
  seen = {cases[volume.case] for volume in shown}
  missing = [f"the {rank} one ({patient})" for patient, rank in ranks(record).items() if patient not in seen]
  part = ", only slices of the test set" if record.summary["leaky"] else ""
  count = f"{len(shown)} of {len(cases)} volumes{part}"
  sides = "Left and right are not labelled: a data set does not keep how the head lay."
  if len(shown) == len(cases):
    return f"{count}. {sides}"
  first = f"without {' and '.join(missing)}" if missing else "the best, median and worst first"
  return f"{count}, {first}; the others are left out to keep this file small. {sides}"


def _folder(record: RunFiles, case: str) -> pathlib.Path | None:
  """The folder with the volume of a case: in the run's folder, or in that of one of the runs that it consists of."""
  for run in (record.folder, *record.runs.values()):
    if (run / "volumes" / case / "flair.png").is_file():
      return run / "volumes"
  return None


def _heading(case: str, rank: str, value: float | None, name: str) -> str:
  labels = [rank] if rank else []
  if value is not None:
    labels.append(f"{'Dice' if name == 'dice' else name} {number(value)}")
  return f"{case}: {', '.join(labels)}" if labels else case


def _show(volume: sprites.Volume, rows: list[Row], heading: str) -> Shown:
  area = volume.truth.any(-1).sum((1, 2))
  layers = {"truth": volume.truth, "prediction": volume.prediction}
  if volume.prediction is None:
    bars = [(float(row["label"]), row["probability"] or 0.0) for row in rows]
  else:
    predicted = volume.prediction.any(-1).sum((1, 2))
    most = max(area.max(), predicted.max(), 1)
    bars = [(float(of / most), float(part / most)) for of, part in zip(area, predicted, strict=True)]
  return Shown(
    case=volume.case,
    heading=heading,
    flair=source(volume.flair, "png"),
    brightness=255 / max(float(np.quantile(sprites.flair_slices(volume), _WHITE)), 1),
    lines=-(-len(rows) // sprites.COLUMNS),
    size=volume.truth.shape[1],
    outlines={
      name: [sprites.outlines(of_class) for of_class in np.moveaxis(masks, -1, 0)]
      for name, masks in layers.items()
      if masks is not None
    },
    captions=[
      f"Slice {row['slice']} ({position} of {len(rows)}): {_caption(row)}" for position, row in enumerate(rows, start=1)
    ],
    bars=bars,
    start=int(area.argmax()) if area.any() else len(rows) // 2,
  )


def _caption(row: Row) -> str:
  truth = "tumour" if row["label"] else "no tumour"
  if "tp" not in row:
    prediction = "tumour" if row["prediction"] else "no tumour"
    return f"{truth}; predicted {prediction}, probability of tumour {number(row['probability'])}"
  if "classes" in row:
    outcome = "; ".join(f"{name}: {_outcome(of_class)}" for name, of_class in row["classes"].items())
  else:
    outcome = _outcome(row)
  return f"{truth}; {outcome}; highest probability {number(row['probability'])}{_gate(row)}"


def _gate(row: Row) -> str:
  """What the gate of a cascade does with a slice, as text; the outlines and scores of slices are those without it."""
  if "gate_passes" not in row:
    return ""
  decision = "lets it through" if row["gate_passes"] else "stops it, so that the mask is empty"
  return f"; the gate {decision}, at the classifier's probability of {number(row['classifier_probability'])}"


def _outcome(row: Row) -> str:
  """The outcome for one class in a slice, as text."""
  segmented, missed = row["tp"] + row["fp"], row["fn"]
  if row["tp"] + missed:
    dice = 2 * row["tp"] / (2 * row["tp"] + row["fp"] + missed)
    return f"Dice {number(dice)}" if segmented else "nothing segmented (Dice 0)"
  return f"{segmented:,} false-positive pixels (Dice 0)" if segmented else "nothing segmented, correct"


def error_charts(record: RunFiles, errors: Sequence[Row]) -> list[Chart]:
  """The slices of these records above their true masks, where the run's folder has their images."""
  pictures = []
  for row in errors:
    members = sorted(other["slice"] for other in record.rows if other["case"] == row["case"])
    folder = _folder(record, row["case"])
    volume = sprites.read_volume(folder, row["case"], len(members), record.info) if folder else None
    if volume is not None:
      index = members.index(row["slice"])
      name = f"{row['case']}\nslice {row['slice']}, probability {number(row['probability'])}"
      pictures.append((name, sprites.flair_slices(volume)[index], volume.truth[index]))
  return [samples(pictures, record.info, "The most confident errors and their masks", "")] if pictures else []


def sample_charts(record: RunFiles) -> list[Chart]:
  """Sample slices with their masks, if there are any: of each volume the slice with the largest tumour."""
  pictures = list(itertools.islice(_samples(record), _SAMPLES))
  return [samples(pictures, record.info)] if pictures else []


def _samples(record: RunFiles) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  rows: dict[str, list[Row]] = {}
  for row in record.rows:
    rows.setdefault(row["case"], []).append(row)
  for case, members in rows.items():
    folder = _folder(record, case)
    volume = sprites.read_volume(folder, case, len(members), record.info) if folder else None
    if volume is not None and volume.truth.any():
      index = int(volume.truth.any(-1).sum((1, 2)).argmax())
      number = sorted(row["slice"] for row in members)[index]
      yield f"{case}\nslice {number}", sprites.flair_slices(volume)[index], volume.truth[index]
