"""Calibration of probabilities before and after temperature scaling, computed from records.

A row of `reliability.csv` counts the pixels of one patient whose probability is in one bin. Slices are counted from
their own records, which have `probability` and `probability_calibrated`.
"""

import functools

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from bt_jax.evaluation.bootstrap import Numbers, by_patient, share
from bt_jax.evaluation.records import Record, of_any_class
from bt_jax.schema import Slices

BINS = 10  # of equal width
CALIBRATED = "probability_calibrated"
_LIMITS = (0.05, 20.0)  # of the temperature
_FINE = 2**16  # bins of log-odds
_EDGE = 1e-6  # probabilities are kept this far from 0 and 1, where log-odds are infinite


def fit_temperature(
  probability: Float[np.ndarray, " n"], label: np.ndarray, count: Int[np.ndarray, " n"] | None = None
) -> float:
  """The temperature in `_LIMITS` with the highest likelihood of these labels (Guo et al. 2017, arXiv:1706.04599).

  Above 1 the probabilities were overconfident, below 1 underconfident.

  Args:
    probability: probabilities of the validation set, 0..1.
    label: their labels, 0 or 1.
    count: how often each probability occurs; None: once.
  """
  log_odds, sign = logit(_inside(probability)), np.where(label == 1, -1.0, 1.0)

  def cost(log_temperature: float) -> float:
    return float(np.average(np.logaddexp(0, sign * log_odds / np.exp(log_temperature)), weights=count))

  low, high = np.log(_LIMITS)
  return float(np.exp(minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-3}).x))


class PixelCounts:
  """Pixels counted by log-odds and label, to fit a temperature in memory that does not grow with the number of slices.

  Log-odds are counted in `_FINE` bins of equal width, each of which stands at the mean of its pixels: the temperature is
  that of all pixels to about six digits.
  """

  def __init__(self):
    self._count, self._sum = np.zeros((2, _FINE), int), np.zeros((2, _FINE))

  def add(self, slices: Slices, probability: Float[np.ndarray, "n height width classes"]) -> None:
    """Counts the pixels of all classes in these slices."""
    low, high = logit(_inside(np.array([0.0, 1.0])))
    for values, mask in zip(probability, slices.mask, strict=True):  # one slice at a time, as 64 bits are large
      log_odds = logit(_inside(values)).ravel()
      bins = np.minimum(((log_odds - low) / (high - low) * _FINE).astype(int), _FINE - 1)
      for label, members in enumerate((mask.ravel() != 1, mask.ravel() == 1)):
        self._count[label] += np.bincount(bins[members], minlength=_FINE)
        self._sum[label] += np.bincount(bins[members], weights=log_odds[members], minlength=_FINE)

  def temperature(self) -> float:
    """The temperature of these pixels, see `fit_temperature`."""
    label, bins = np.nonzero(self._count)
    count = self._count[label, bins]
    return fit_temperature(expit(self._sum[label, bins] / count), label, count)


def warning_of(temperature: float | None) -> str | None:
  """A warning if a temperature is at one of its limits, where no temperature fits; None otherwise."""
  if temperature is None or all(abs(np.log(temperature / limit)) > 0.05 for limit in _LIMITS):
    return None
  return f"the temperature is held at its limit of {temperature:.2g}: the validation set has one class, or does not determine it"


def calibrate(probability: Float[np.ndarray, "*shape"], temperature: float) -> Float[np.ndarray, "*shape"]:
  """The probability whose log-odds are those of this one divided by the temperature.

  >>> calibrate(np.array([0.5, 0.9]), 2.0).round(4).tolist()  # odds of 9 become 3
  [0.5, 0.75]
  """
  return expit(logit(_inside(probability)) / temperature)


def _inside(probability: np.ndarray) -> np.ndarray:
  return np.clip(probability.astype(np.float64), _EDGE, 1 - _EDGE)


def pixel_rows(
  slices: Slices, probability: Float[np.ndarray, "n height width classes"], temperature: float, *, data: str, split: str
) -> list[Record]:
  """The rows of `reliability.csv`: pixels, sum of probabilities and tumour pixels by patient and bin.

  `calibrated` is 0 for probabilities as predicted and 1 after temperature scaling. Bin b starts at probability b /
  `BINS`. With several classes, each pixel counts once for each class.
  """
  rows = []
  as_predicted = lambda values: values
  scalings = (as_predicted, functools.partial(calibrate, temperature=temperature))
  for patient in dict.fromkeys(slices.patient.tolist()):
    indices = np.flatnonzero(slices.patient == patient)
    for calibrated, scaled in enumerate(scalings):
      # One slice at a time, as calibrated probabilities are large.
      counts = [_count(scaled(probability[index]).ravel(), slices.mask[index].ravel()) for index in indices]
      counted = {name: sum(of_slice[name] for of_slice in counts) for name in counts[0]}
      rows += [
        {"data": data, "split": split, "patient": patient, "calibrated": calibrated, "bin": number}
        | {name: column[number].item() for name, column in counted.items()}
        for number in range(BINS)
      ]
  return rows


def _count(probability: Float[np.ndarray, " n"], label: UInt8[np.ndarray, " n"]) -> dict[str, np.ndarray]:
  bins = bin_of(probability)
  return {
    "pixels": np.bincount(bins, minlength=BINS),
    "probability_sum": np.bincount(bins, weights=probability, minlength=BINS),
    "tumor_pixels": np.bincount(bins, weights=label, minlength=BINS).astype(int),
  }


def bin_of(probability: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
  """The bin of each probability; a probability of 1 is in the last bin."""
  return np.minimum((probability * BINS).astype(int), BINS - 1)


def slice_errors(rows: list[Record], columns: dict[str, str]) -> Numbers:
  """Expected calibration error of slices for each column of probabilities, see `errors`.

  Args:
    rows: records with `label` and the columns; with several classes, the label is that of any class.
    columns: maps the name of an error to the name of its column.
  """
  rows = of_any_class(rows)
  label = np.array([row["label"] for row in rows])
  distances = {"all": np.ones(len(rows))}
  for name, column in columns.items():
    probability = np.array([row[column] for row in rows], float)
    distances |= _by_bin(name, bin_of(probability), probability - label)
  return errors(by_patient(rows, distances), tuple(columns))


def pixel_errors(rows: list[Record]) -> Numbers:
  """The same for pixels, from the rows of `reliability.csv`: `ece` as predicted, `ece_calibrated` after scaling."""
  column = lambda name: np.array([row[name] for row in rows], float)
  distance, calibrated = column("probability_sum") - column("tumor_pixels"), column("calibrated") == 1
  distances = {"all": np.where(calibrated, 0, column("pixels"))}
  for name, kind in (("ece", ~calibrated), ("ece_calibrated", calibrated)):
    distances |= _by_bin(name, column("bin"), np.where(kind, distance, 0))
  return errors(by_patient(rows, distances), ("ece", "ece_calibrated"))


def _by_bin(name: str, bins: np.ndarray, distance: np.ndarray) -> dict[str, np.ndarray]:
  return {f"{name} {number}": np.where(bins == number, distance, 0) for number in range(BINS)}


def errors(sums: dict[str, np.ndarray], names: tuple[str, ...]) -> Numbers:
  """Expected calibration error of the probability of tumour, 0..1; Guo et al. 2017 use that of the most likely class.

  It is the mean over `BINS` bins of equal width of the absolute difference between mean probability and share of
  tumours, weighted by the number of examples in the bin.
  """

  def numbers(index: np.ndarray) -> dict[str, np.ndarray]:
    far = lambda name: sum(np.abs(sums[f"{name} {number}"][index].sum(-1)) for number in range(BINS))
    return {name: share(far(name), sums["all"][index].sum(-1)) for name in names}

  return numbers
