"""Figures as PNG: curves of training, and truth and prediction drawn over slices."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool

from bt_jax import files, metrics
from bt_jax.evaluation.rows import Row, counts_of
from bt_jax.schema import CHANNELS, Slices

matplotlib.use("agg")
from matplotlib import pyplot as plt

_TRUTH, _PREDICTION = "#00d26a", "#ff3864"
_COLUMNS = 3


def save_curves(path: pathlib.Path, history: Sequence[dict[str, float]], *, title: str, score: str) -> pathlib.Path:
  """Loss and validation score over epochs."""
  epochs = [row["epoch"] for row in history]
  figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
  left.plot(epochs, [row["train_loss"] for row in history], label="training (augmented, mean over batches)")
  left.plot(epochs, [row["validation_loss"] for row in history], label="validation (as one batch)")
  left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
  left.legend()
  scores = [row["validation_score"] for row in history]
  right.plot(epochs, scores, color="tab:orange")
  right.plot(epochs[int(np.argmax(scores))], max(scores), "o", color="tab:orange", label=f"best: {max(scores):.3f}")
  right.set(xlabel="epoch", ylabel=f"validation {score}", ylim=(0, 1))
  right.legend(loc="lower right")
  figure.suptitle(title)
  return _save(path, figure)


def save_overlays(
  folder: pathlib.Path, slices: Slices, masks: Bool[np.ndarray, "n height width"], rows: Sequence[Row], *, title: str
) -> list[pathlib.Path]:
  """Outlines of truth and prediction on FLAIR: best, median and worst slices, with a tumour and without."""
  dice = metrics.dice(counts_of(list(rows)), empty=1.0)
  # Without a tumour Dice is 1 or 0, so the number of wrong pixels decides there.
  wrong = np.array([row["fp"] for row in rows])
  tumor = np.array([row["label"] for row in rows]) == 1
  paths = []
  for name, places, order, caption in (
    ("tumor", np.flatnonzero(tumor), -dice, lambda at: f"Dice {dice[at]:.3f}"),
    ("no_tumor", np.flatnonzero(~tumor), wrong, lambda at: f"{wrong[at]} pixels wrong"),
  ):
    if not len(places):
      continue
    ranked = places[np.argsort(order[places], kind="stable")]
    middle = max(0, len(ranked) // 2 - _COLUMNS // 2)
    chosen = {
      "best": ranked[:_COLUMNS],
      "median": ranked[middle : middle + _COLUMNS],
      "worst": ranked[-_COLUMNS:][::-1],
    }
    figure, axes = plt.subplots(len(chosen), _COLUMNS, figsize=(9, 9.9), layout="constrained", squeeze=False)
    for axis in axes.flat:
      axis.axis("off")
    for line, (rank, members) in zip(axes, chosen.items(), strict=True):
      for axis, at in zip(line, members, strict=False):
        _draw(axis, slices, masks, at)
        axis.set_title(f"{rank}: {slices.case[at]}\nslice {slices.number[at]}, {caption(at)}", fontsize=8)
    handles = [plt.Line2D([], [], color=color) for color in (_TRUTH, _PREDICTION)]
    figure.legend(handles, ["truth", "prediction"], loc="outside lower center", ncols=2)
    figure.suptitle(f"{title}\ntest slices {'with' if name == 'tumor' else 'without'} a tumour, FLAIR")
    paths.append(_save(folder / f"overlays_{name}.png", figure))
  return paths


def _draw(axis: Any, slices: Slices, masks: np.ndarray, at: int) -> None:
  axis.imshow(slices.image[at][..., CHANNELS.index("flair")], cmap="gray", vmin=0, vmax=255)
  for mask, color in ((slices.mask[at][..., 0] == 1, _TRUTH), (masks[at], _PREDICTION)):
    if mask.any():
      axis.contour(mask, levels=[0.5], colors=color, linewidths=0.9)


def _save(path: pathlib.Path, figure: Any) -> pathlib.Path:
  content = io.BytesIO()
  figure.savefig(content, format="png", dpi=110)
  plt.close(figure)
  return files.write_bytes(path, content.getvalue())
