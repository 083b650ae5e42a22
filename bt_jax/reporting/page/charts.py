"""Charts of the report as self-contained images, each with a text alternative.

Lines and markers differ in colour, from the palette of Okabe and Ito (2008), and also in shape.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from bt_jax.datasets.info import DatasetInfo
from bt_jax.errors import needs
from bt_jax.evaluation.calibration import BINS, CALIBRATED, bin_of
from bt_jax.inference import overlays
from bt_jax.reporting import figures
from bt_jax.reporting.page.phrases import MINUS, MISSING, number

with needs("train", "the report of a run"):
  import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#6b7280"
_STYLE = {
  "svg.fonttype": "none", "svg.hashsalt": "bt_jax", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
  "axes.edgecolor": _GREY, "xtick.color": "#374151", "ytick.color": "#374151", "axes.labelcolor": "#374151",
  "font.family": "sans-serif", "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
}  # fmt: skip
_PANELS = 4  # small panels in a line
_SIZE = (4.4, 3.3)  # inches, so that the text stays legible on a phone


class Chart(NamedTuple):
  """An image with a heading and a text alternative.

  Attributes:
    title: the heading.
    source: the image as a `data:` URL.
    alt: the text alternative, with the main values.
    paper: the figure of the paper that it corresponds to; empty if there is none.
    wide: whether it takes the whole width of the page.
  """

  title: str
  source: str
  alt: str
  paper: str = ""
  wide: bool = False


def source(content: bytes, kind: str) -> str:
  """The `data:` URL of an image of kind `png` or `svg+xml`."""
  return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _figure(size: tuple[float | int, float | int] = _SIZE, left: float = 0.7, right: float = 0.12) -> tuple[Any, Any]:
  """One axis, with margins in inches for its name and for long numbers."""
  figure, ((axis,),) = figures.subplots(1, 1, size, left=left, right=right, bottom=0.48, top=0.12)
  return figure, axis


def _svg(figure: Any) -> str:
  content = io.BytesIO()
  figure.savefig(content, format="svg", metadata={"Date": None}, transparent=True)
  plt.close(figure)
  return source(content.getvalue(), "svg+xml")


def slice_reliability(rows: Sequence[dict[str, Any]]) -> Chart:
  """Share of slices with a tumour by predicted probability, before and after temperature scaling."""
  label = np.array([row["label"] for row in rows], float)
  kinds = {"as predicted": "probability", "after scaling": CALIBRATED}
  curves = {}
  for name, column in kinds.items():
    if rows[0].get(column) is not None:
      probability = np.array([row[column] for row in rows], float)
      bins = bin_of(probability)
      curves[name] = tuple(
        np.bincount(bins, weights=weights, minlength=BINS) for weights in (np.ones(len(bins)), probability, label)
      )
  return _reliability("Reliability, slices", "slices", curves)


def pixel_reliability(rows: Sequence[dict[str, Any]]) -> Chart:
  """The same for pixels, from the rows of `reliability.csv`."""
  column = lambda name: np.array([row[name] for row in rows], float)
  bins, curves = column("bin").astype(int), {}
  for name, kind in (("as predicted", 0), ("after scaling", 1)):
    kept = column("calibrated") == kind
    count = lambda weights, kept=kept: np.bincount(bins[kept], weights=column(weights)[kept], minlength=BINS)
    curves[name] = tuple(count(weights) for weights in ("pixels", "probability_sum", "tumor_pixels"))
  return _reliability("Reliability, pixels", "pixels", curves)


def _reliability(title: str, unit: str, curves: dict[str, tuple[np.ndarray, ...]]) -> Chart:
  descriptions = []
  with plt.rc_context(_STYLE):
    figure, axis = _figure((4.4, 4.0))
    axis.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
    for (name, (count, probability, tumor)), look in zip(
      curves.items(), ((_ORANGE, "s--"), (_BLUE, "o-")), strict=False
    ):
      full = count > 0
      x, y = probability[full] / count[full], tumor[full] / count[full]
      axis.plot(x, y, look[1], color=look[0], label=name, markersize=4)
      descriptions.append(
        f"{name}: " + ", ".join(f"{number(of)} at {number(position)}" for position, of in zip(x, y, strict=True))
      )
    axis.set(
      xlabel="mean predicted probability", ylabel=f"share of {unit} with tumour", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
    )
    axis.legend(frameon=False)
    alt = f"Share of {unit} with tumour at each mean predicted probability; the diagonal is best. {'; '.join(descriptions)}."
    return Chart(title, _svg(figure), alt)


def curve(title: str, axes: tuple[str, str], points: dict[str, Any], level: str) -> Chart:
  """A curve of `class_statistics.curves` with its band of intervals; `axes` are the names of both."""
  known = [(x, *pair) for x, pair in zip(points["grid"], points["intervals"], strict=True) if pair]
  with plt.rc_context(_STYLE):
    figure, axis = _figure((4.4, 4.0))
    axis.plot(points["x"], points["y"], color=_BLUE, linewidth=1.6, label="test set")
    if known:
      axis.fill_between(
        *np.array(known).T, color=_BLUE, alpha=0.18, linewidth=0, label=f"{level} intervals over patients"
      )
    axis.set(xlabel=axes[0], ylabel=axes[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.legend(frameon=False, loc="lower right" if points["x"][0] == 0 else "lower left")
    steps = list(zip(points["grid"], points["on_grid"], points["intervals"], strict=True))[4::8]
    values = [
      f"{number(y)} at {number(x)}" + (f" ({number(pair[0])} to {number(pair[1])})" if pair else "")
      for x, y, pair in steps
    ]
    alt = f"{axes[1]} over {axes[0]}: {', '.join(values)}."
    return Chart(title, _svg(figure), alt[0].upper() + alt[1:])


def volume_agreement(rows: Sequence[dict[str, Any]], volume: dict[str, Any]) -> Chart:
  """Difference of predicted and true volume over their mean, by patient (Bland and Altman 1986)."""
  unit = volume["unit"]
  truth = np.array([row["tp"] + row["fn"] for row in rows], float)
  predicted = np.array([row["tp"] + row["fp"] for row in rows], float)
  lines = {
    name: volume.get(key)
    for name, key in (("mean", "error_mean"), ("upper limit", "limits_high"), ("lower limit", "limits_low"))
  }
  known = {name: line for name, line in lines.items() if line is not None}
  with plt.rc_context(_STYLE):
    figure, axis = _figure(left=1.05, right=0.35)
    axis.axhline(0, color=_GREY, linewidth=0.6)
    axis.plot((truth + predicted) / 2, predicted - truth, "o", color=_BLUE, markersize=4, alpha=0.8)
    for name, line in known.items():
      axis.axhline(line, color=_ORANGE, linewidth=1.2, linestyle="-" if name == "mean" else "--")
      axis.annotate(
        f"{name} {number(line, 'pixels')}",
        (1, line),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=8,
        xytext=(0, 2),
        textcoords="offset points",
      )
    for side in (axis.xaxis, axis.yaxis):
      side.set_major_formatter("{x:,.0f}")
      side.get_major_locator().set_params(nbins=6)
    axis.set(xlabel=f"mean of predicted and true volume, {unit}", ylabel=f"predicted {MINUS} true, {unit}")
    axis.margins(x=0.08, y=0.15)
    limits = ", ".join(f"{name} {number(line, 'pixels')}" for name, line in known.items()) or "no limits of agreement"
    alt = f"Bland-Altman plot of tumour volume in {unit}, {len(rows)} patients: predicted minus true volume, {limits}."
    return Chart("Tumour volume: agreement (Bland-Altman)", _svg(figure), alt)


def by_patient(rows: Sequence[dict[str, Any]], name: str, title: str) -> Chart:
  """A statistic of every patient, from the lowest to the highest."""
  values = np.sort(np.array([row[name] for row in rows if row[name] is not None], float))
  mean, median = values.mean(), np.median(values)
  with plt.rc_context(_STYLE):
    figure, axis = _figure()
    axis.plot(np.arange(1, len(values) + 1), values, "o", color=_BLUE, markersize=4)
    axis.axhline(mean, color=_ORANGE, linewidth=1.2, label=f"mean {number(mean)}")
    axis.axhline(median, color=_GREEN, linewidth=1.2, linestyle="--", label=f"median {number(median)}")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="patients, from the lowest", ylabel=title, ylim=(-0.02, 1.02))
    axis.legend(frameon=False, loc="best")
    alt = (
      f"{title} of {len(values)} patients in order: lowest {number(values[0])}, median {number(median)}, mean {number(mean)}, "
      f"highest {number(values[-1])}."
    )
    return Chart(f"{title} by patient", _svg(figure), alt)


def by_size(rows: Sequence[dict[str, Any]], name: str, title: str) -> Chart:
  """A statistic of every patient over the pixels of the true mask, which is not empty."""
  size = np.array([row["tp"] + row["fn"] for row in rows], float)
  values = np.array([row[name] for row in rows], float)
  halves = [values[size <= np.median(size)], values[size > np.median(size)]]
  with plt.rc_context(_STYLE):
    figure, axis = _figure()
    axis.plot(size, values, "o", color=_BLUE, markersize=4, alpha=0.8)
    axis.set(xlabel="pixels of the true mask in the volume", xscale="log", ylabel=title, ylim=(-0.02, 1.02))
    axis.xaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.xaxis.set_minor_locator(plt.NullLocator())
    smaller, larger = (number(half.mean()) if len(half) else MISSING for half in halves)
    alt = (
      f"{title} of {len(rows)} patients over the size of their true masks, {number(size.min(), 'pixels')} to "
      f"{number(size.max(), 'pixels')} pixels: mean {smaller} in the smaller half, {larger} in the larger."
    )
    return Chart(f"{title} by size of the true mask", _svg(figure), alt)


def both_runs(pairs: Sequence[tuple[float, float]], title: str) -> Chart:
  """A statistic of every patient in the second run over that in the first."""
  first, second = np.array(pairs, float).T
  with plt.rc_context(_STYLE):
    figure, axis = _figure((4.4, 4.0))
    edges = [min(first.min(), second.min()), max(first.max(), second.max())]
    axis.plot(edges, edges, color=_GREY, linewidth=0.8, linestyle=":", label="no difference")
    axis.plot(first, second, "o", color=_BLUE, markersize=4, alpha=0.8)
    axis.set(xlabel=f"{title}, first run", ylabel=f"{title}, second run")
    axis.legend(frameon=False)
    change = second - first
    alt = (
      f"{title} of {len(pairs)} patients in both runs: higher in the second for {int((change > 0).sum())}, lower for "
      f"{int((change < 0).sum())}; differences from {number(change.min())} to {number(change.max())}."
    )
    return Chart(f"{title} of every patient", _svg(figure), alt)


def training_curves(history: Sequence[dict[str, Any]], score: str, figure: str) -> list[Chart]:
  """Loss, accuracy and validation score over epochs; `figure` is the paper's figure that shows the first two."""
  *both, (picked, best) = figures.curves_of(history, score).items()
  return [
    *(_over_epochs(name, history, curves, figures.ABOUT_PARTS, figure) for name, curves in both),
    _over_epochs(picked, history, best, "the highest is kept"),
  ]


def fold_curves(history_of: dict[str, Sequence[dict[str, Any]]]) -> list[Chart]:
  """Loss and validation score over epochs of every fold, a small panel for each, all with the same axes."""
  charts_of = {
    "Loss of every fold": {words: f"{subset}_loss" for words, subset in figures.SUBSETS.items()},
    "Validation score of every fold": {"validation": "validation_score"},
  }
  return [_small_multiples(title, history_of, columns) for title, columns in charts_of.items()]


def _small_multiples(title: str, history_of: dict[str, Sequence[dict[str, Any]]], columns: dict[str, str]) -> Chart:
  lines = -(-len(history_of) // _PANELS)
  with plt.rc_context(_STYLE):
    figure, axes = figures.subplots(
      lines,
      _PANELS,
      (9.2, 1.7 * lines + 0.6),
      left=0.45,
      right=0.1,
      bottom=0.5,
      top=0.45,
      between=(0.08, 0.22),
      sharex=True,
      sharey=True,
    )
    for axis in axes.flat[len(history_of) :]:
      axis.axis("off")
    for axis, (fold, history) in zip(axes.flat, history_of.items(), strict=False):
      epochs = [row["epoch"] for row in history]
      for (name, column), (color, style) in zip(columns.items(), ((_BLUE, "-"), (_ORANGE, "--")), strict=False):
        axis.plot(epochs, [row[column] for row in history], style, color=color, label=name)
      axis.set_title(f"fold {fold}", fontsize=8)
      axis.xaxis.get_major_locator().set_params(integer=True)
    if len(columns) > 1:
      figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="upper right", ncols=2, frameon=False, fontsize=8)
    figure.supxlabel("epoch", fontsize=9)
    last = "; ".join(
      f"fold {fold}: {', '.join(f'{name} {number(history[-1][column])}' for name, column in columns.items())}"
      for fold, history in history_of.items()
    )
    return Chart(title, _svg(figure), f"{title} over epochs; after the last, {last}.", wide=True)


def tversky_index(history: Sequence[dict[str, Any]], exponent: float) -> Chart:
  """The Tversky index over epochs, 1 - loss ** (1 / exponent) of an epoch's mean focal Tversky loss."""
  losses = {
    words: np.array([row[f"{subset}_loss"] for row in history], float) for words, subset in figures.SUBSETS.items()
  }
  index = {words: 1 - loss ** (1 / exponent) for words, loss in losses.items()}
  how = f"derived from the mean loss of an epoch as 1 {MINUS} loss^(1/{exponent:g})"
  return _over_epochs("Tversky index", history, index, how, "Fig. 9")


def _over_epochs(
  title: str, history: Sequence[dict[str, Any]], curves: dict[str, np.ndarray], how: str, figure: str = ""
) -> Chart:
  epochs = [row["epoch"] for row in history]
  with plt.rc_context(_STYLE):
    picture, axis = _figure()
    figures.draw_epochs(axis, epochs, curves, title)
    values = "; ".join(
      f"{name} {number(values[0])} after the first and {number(values[-1])} after the last, between {number(values.min())} and "
      f"{number(values.max())}"
      for name, values in curves.items()
    )
    title = f"{title[0].upper()}{title[1:]}"
    return Chart(title, _svg(picture), f"{title} over {len(epochs)} epochs ({how}): {values}.", figure)


def samples(
  pictures: Sequence[tuple[str, UInt8[np.ndarray, "size size"], Bool[np.ndarray, "size size classes"]]],
  info: DatasetInfo,
  title: str = "Sample slices with their masks",
  paper: str = "Fig. 1",
) -> Chart:
  """Slices of the reference channel above their true masks, as in the paper's Fig. 1, each with a name."""
  with plt.rc_context(_STYLE):
    several = len(info.classes) > 1
    figure, axes = figures.subplots(
      2,
      len(pictures),
      (2.2 * len(pictures), 4.8),
      left=0.04,
      right=0.04,
      bottom=0.35 if several else 0.04,
      top=0.36,
      between=(0.03, 0.03),
    )
    for (name, flair, mask), (above, below) in zip(pictures, axes.T, strict=True):
      above.imshow(flair, cmap="gray", vmin=0, vmax=255)
      if len(info.classes) == 1:
        below.imshow(mask.any(-1), cmap="gray", vmin=0, vmax=1)
      else:
        below.imshow(overlays.colour_map(mask))
      above.set_title(name, fontsize=8)
    for axis in axes.flat:
      axis.axis("off")
    if several:
      handles = [figures.plt.Rectangle((0, 0), 1, 1, color=colour) for colour in overlays.colours(info)]
      figure.legend(handles, info.classes, loc="lower center", ncols=len(handles), fontsize=8)
    content = figures.to_png(figure)
    areas = "; ".join(
      f"{' '.join(name.split())}: {int(mask.any(-1).sum()):,} pixels of tumour" for name, _, mask in pictures
    )
    alt = f"{info.reference_title} slices above, {info.masks} below. {areas}."
    return Chart(title, source(content, "png"), alt, paper)
