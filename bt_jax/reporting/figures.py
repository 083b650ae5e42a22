"""Figures as PNG: training curves, confusion matrices, and outlines of truth and prediction over slices."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bt_jax import files, metrics
from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import needs
from bt_jax.evaluation.class_statistics import summarize_classes
from bt_jax.evaluation.records import Record, by_class, counts_of, of_any_class
from bt_jax.inference import overlays
from bt_jax.reporting.page import sprites

with needs("train", "the report of a run"):
  import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

# Colours of Okabe and Ito, which the colour-blind can tell apart, and line styles that differ without colour.
_TRUTH = {"colors": "#56b4e9", "linestyles": "solid"}
_PREDICTION = {"colors": "#e69f00", "linestyles": "dashed"}
_COLUMNS = 3


SUBSETS = {"training": "train", "validation": "validation"}  # from label to prefix of columns in metrics.csv
ABOUT_PARTS = "training: augmented, mean over batches; validation: as one batch"
_LINES = (("#0072b2", "-"), ("#d55e00", "--"))


class Evaluated(NamedTuple):
  """What figures of a test set are drawn from.

  Attributes:
    volumes: folder with the volumes that `sprites.save_volumes` wrote; None if slices may not be shown.
    rows: records of slices.
    info: the data set.
  """

  volumes: pathlib.Path | None
  rows: Sequence[Record]
  info: DatasetInfo


def curves_of(history: Sequence[dict[str, Any]], score: str) -> dict[str, dict[str, np.ndarray]]:
  """The curves of loss, accuracy and the score that selects the checkpoint over epochs, by name."""
  column = lambda name: np.array([row[name] for row in history], float)
  pair = lambda name: {words: column(f"{subset}_{name}") for words, subset in SUBSETS.items()}
  words = "minus validation loss" if score == "loss" else f"validation {score.replace('.', ' ').replace('_', ' ')}"
  return {
    "loss": pair("loss"),
    "accuracy at 0.5": pair("accuracy"),
    "score that picks the checkpoint": {words: column("validation_score")},
  }


def draw_epochs(axis: Any, epochs: Sequence[int], curves: dict[str, np.ndarray], title: str) -> None:
  """Draws curves over epochs; a single curve is named by the axis, and its best point is drawn."""
  for (name, values), (color, style) in zip(curves.items(), _LINES, strict=False):
    axis.plot(epochs, values, style, color=color, label=name, marker="o" if len(epochs) == 1 else None)
  if len(curves) == 1:
    axis.plot(epochs[int(np.argmax(values))], values.max(), "o", color=color, label=f"best {values.max():.3f}")
  axis.xaxis.get_major_locator().set_params(integer=True)
  axis.set(xlabel="epoch", ylabel=title if len(curves) > 1 else name)
  axis.legend(frameon=False)


def subplots(
  rows: int,
  columns: int,
  size: tuple[float | int, float | int],
  *,
  left: float,
  right: float,
  bottom: float,
  top: float,
  between: tuple[float | int, float | int] = (0, 0),
  **options: Any,
) -> tuple[Any, Any]:
  """A figure with fixed margins: to find them, Matplotlib's constrained layout takes longer than it takes to draw.

  Args:
    rows: number of axes above one another.
    columns: number of axes in a row.
    size: width and height of the figure, inches.
    left: width of this margin, inches; `right`, `bottom` and `top` likewise.
    right: see `left`.
    bottom: see `left`.
    top: see `left`.
    between: width and height of the space between two axes, as shares of an axis.
    options: of `pyplot.subplots`.

  Returns:
    The figure and its axes, [rows, columns].
  """
  width, height = size
  margins = {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}
  spaces = dict(zip(("wspace", "hspace"), between, strict=True))
  return plt.subplots(rows, columns, figsize=size, squeeze=False, gridspec_kw=margins | spaces, **options)


def save_curves(path: pathlib.Path, history: Sequence[dict[str, Any]], *, title: str, score: str) -> pathlib.Path:
  """Loss, accuracy and validation score over epochs."""
  figure, axes = subplots(1, 3, (14, 4), left=0.6, right=0.1, bottom=0.7, top=0.4, between=(0.25, 0))
  for axis, (name, curves) in zip(axes.flat, curves_of(history, score).items(), strict=True):
    draw_epochs(axis, [row["epoch"] for row in history], curves, name)
  figure.suptitle(title, y=0.99)
  figure.supxlabel(ABOUT_PARTS, fontsize=9)
  return _save(path, figure)


def save_confusion(path: pathlib.Path, counts: dict[str, int], *, title: str) -> pathlib.Path:
  """Slices by truth and prediction, shaded by their share of the true class."""
  table = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]])
  share = table / np.maximum(table.sum(1, keepdims=True), 1)
  names = ["no tumour", "tumour"]
  figure, ((axis,),) = subplots(1, 1, (5.6, 5.2), left=0.6, right=0.3, bottom=0.5, top=0.6)
  axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
  for row, column in np.ndindex(2, 2):
    color = "white" if share[row, column] > 0.5 else "black"
    text = f"{table[row, column]}\n{share[row, column]:.1%}"
    axis.text(column, row, text, ha="center", va="center", color=color, fontsize=15)
  axis.set_xticks([0, 1], names)
  axis.set_yticks([0, 1], names, rotation=90, va="center")
  axis.set(xlabel="predicted", ylabel="truth")
  axis.set_title(f"{title}\nslices of the test set, and their share of the true class", fontsize=9)
  return _save(path, figure)


def save_gate(
  path: pathlib.Path, rows: Sequence[Record], probability: Float[np.ndarray, " n"], threshold: float, *, title: str
) -> pathlib.Path:
  """The effect of the gate on the test set at every threshold, and the chosen one."""
  steps = np.unique(np.concatenate([[0.0], probability, [1.0]]))
  label = np.array([row["label"] for row in rows])
  counts = counts_of(list(rows))
  segmented = counts.tp + counts.fp > 0
  kept, wrong, dice = [], [], []
  for step in steps:
    passes = probability >= step
    kept.append(np.mean(passes[label == 1]) if (label == 1).any() else np.nan)
    wrong.append(np.mean((segmented & passes)[label == 0]) if (label == 0).any() else np.nan)
    lost = np.where(passes, 0, counts.tp)
    gated = metrics.Counts(counts.tp - lost, np.where(passes, counts.fp, 0), counts.fn + lost, counts.tn)
    dice.append(metrics.dice(metrics.pool(gated), empty=1.0).item())
  figure, ((axis,),) = subplots(1, 1, (7.5, 4.5), left=0.65, right=2.6, bottom=0.55, top=0.5)
  axis.step(steps, kept, where="pre", label="slices with a tumour let through")
  axis.step(steps, wrong, where="pre", label="healthy slices with a false positive")
  axis.step(steps, dice, where="pre", label="Dice, pixels pooled")
  axis.axvline(threshold, color="black", linestyle=":", label=f"chosen on validation: {threshold:.3f}")
  axis.set(xlabel="threshold of the gate on the classifier's probability", ylabel="share", ylim=(0, 1.02), xlim=(0, 1))
  axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
  axis.set_title(f"{title}\ntest set", fontsize=9)
  return _save(path, figure)


def save_overlays(
  folder: pathlib.Path, volumes: pathlib.Path, rows: Sequence[Record], *, title: str, info: DatasetInfo
) -> list[pathlib.Path]:
  """Outlines of truth and prediction on the reference channel: best, median and worst slices, with or without tumour.

  Slices with a tumour are ranked by Dice, the mean over several classes.

  Args:
    folder: where to write.
    volumes: folder with the volumes that `sprites.save_volumes` wrote.
    rows: records of slices, of all slices of these volumes.
    title: first line of each figure.
    info: the data set.
  """
  dice = np.mean([metrics.dice(counts_of(members), empty=1.0) for members in by_class(list(rows)).values()], axis=0)
  # Without a tumour Dice is 1 or 0, so the number of wrong pixels decides there.
  slices = of_any_class(list(rows))
  wrong = np.array([row["fp"] for row in slices])
  tumor = np.array([row["label"] for row in slices]) == 1
  paths = []
  for name, indices, order, caption in (
    ("tumor", np.flatnonzero(tumor), -dice, lambda index: f"Dice {dice[index]:.3f}"),
    ("no_tumor", np.flatnonzero(~tumor), wrong, lambda index: f"{wrong[index]} pixels wrong"),
  ):
    if not len(indices):
      continue
    ranked = indices[np.argsort(order[indices], kind="stable")]
    middle = max(0, len(ranked) // 2 - _COLUMNS // 2)
    chosen = {
      "best": ranked[:_COLUMNS],
      "median": ranked[middle : middle + _COLUMNS],
      "worst": ranked[-_COLUMNS:][::-1],
    }
    # A column of the legend holds truth and prediction of a class, so that three fit in the width of the figure.
    columns = 2 if len(info.classes) == 1 else min(len(info.classes), 3)
    legend = 0.15 + 0.22 * -(-2 * len(info.classes) // columns)
    figure, axes = subplots(
      len(chosen), _COLUMNS, (9, 9.6 + legend), left=0.1, right=0.1, bottom=legend, top=0.9, between=(0.06, 0.14)
    )
    for axis in axes.flat:
      axis.axis("off")
    for line, (rank, members) in zip(axes, chosen.items(), strict=True):
      for axis, index in zip(line, members, strict=False):
        case, number = slices[index]["case"], slices[index]["slice"]
        _draw(axis, volumes, case, _numbers_of(slices, case), number, info)
        axis.set_title(f"{rank}: {case}\nslice {number}, {caption(index)}", fontsize=8)
    handles = {
      f"{name}{kind}": plt.Line2D([], [], color=style["colors"], linestyle=style["linestyles"])
      for name, styles in _styles(info)
      for kind, style in zip(("truth", "prediction"), styles, strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=columns)
    kind = "with" if name == "tumor" else "without"
    figure.suptitle(f"{title}\ntest slices {kind} a tumour, {info.reference_title}", y=0.997)
    paths.append(_save(folder / f"overlays_{name}.png", figure))
  return paths


def _numbers_of(rows: Sequence[Record], case: str) -> list[int]:
  """The numbers of the slices of a case, in the order in which a volume has them."""
  return sorted(row["slice"] for row in rows if row["case"] == case)


def _draw(axis: Any, volumes: pathlib.Path, case: str, numbers: Sequence[int], number: int, info: DatasetInfo) -> None:
  volume, index = sprites.read_volume(volumes, case, len(numbers), info), numbers.index(number)
  shown = sprites.flair_slices(volume)[index]
  axis.imshow(shown, cmap="gray", vmin=0, vmax=max(np.quantile(shown, 0.999), 1))
  for kind, of_classes in enumerate((volume.truth[index], volume.prediction[index])):
    for mask, (_, styles) in zip(np.moveaxis(of_classes, -1, 0), _styles(info), strict=True):
      if mask.any():
        axis.contour(mask, levels=[0.5], linewidths=0.9, **styles[kind])


def _styles(info: DatasetInfo) -> list[tuple[str, tuple[dict[str, str], dict[str, str]]]]:
  """For each class, its prefix in the legend and its styles of truth and prediction; classes differ in colour."""
  if len(info.classes) == 1:
    return [("", (_TRUTH, _PREDICTION))]
  return [
    (f"{name}, ", (_TRUTH | {"colors": colour}, _PREDICTION | {"colors": colour}))
    for name, colour in zip(info.classes, overlays.colours(info), strict=True)
  ]


def _save(path: pathlib.Path, figure: Any) -> pathlib.Path:
  return files.write_bytes(path, to_png(figure))


def to_png(figure: Any) -> bytes:
  """Encodes a Matplotlib figure as PNG, and closes it."""
  content = io.BytesIO()
  figure.savefig(content, format="png", dpi=110)
  plt.close(figure)
  return content.getvalue()


def draw_masks(folder: pathlib.Path, evaluated: Evaluated, *, title: str) -> list[pathlib.Path]:
  """The figures of a segmenter, if slices may be shown; returns their paths."""
  volumes, rows, info = evaluated
  return [] if volumes is None else save_overlays(folder, volumes, rows, title=title, info=info)


def draw_labels(folder: pathlib.Path, evaluated: Evaluated, *, title: str) -> list[pathlib.Path]:
  """The figure of a classifier, which shows no slices; returns its path."""
  counts = summarize_classes(list(evaluated.rows))["confusion"]
  return [save_confusion(folder / "confusion.png", counts, title=title)]


OF_TASK = {"segmentation": draw_masks, "classification": draw_labels}
