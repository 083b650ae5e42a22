"""The schema of the `summary.json` of a run and of a cascade."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from bt_jax.datasets.info import Info
from bt_jax.files import Amount, Count, Positive, Real, Share

CI = "_ci95"
FORMAT = 1  # of the files of a run
_OPEN = with_config(ConfigDict(extra="allow"))  # keeps further keys, so that they are checked as well
# Keys whose values are text, or null, among statistics.
_TEXTS = ("why", "unit", "empty", "group", "fold", "run", "commit", "arrays_sha256")


def _check_numbers(group: dict[str, Any], path: str = "") -> dict[str, Any]:
  """Checks a nested group of statistics and their intervals; raises ValueError for anything else."""
  for name, value in group.items():
    where = f"{path}{name}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _TEXTS:
      right, expected = value is None or number or isinstance(value, str), "text"
    elif name.endswith(CI):
      right, expected = value is None or _is_interval(value), "[low, high] or null"
    else:
      right, expected = value is None or number or isinstance(value, dict), "a number or null"
    if not right:
      raise ValueError(f"{where} is {value!r:.60}, expected {expected}")
    if isinstance(value, dict):
      _check_numbers(value, f"{where}.")
  return group


def _is_interval(value: Any) -> bool:
  numbers = isinstance(value, list) and all(isinstance(edge, int | float) for edge in value)
  return numbers and len(value) == 2 and value[0] <= value[1]


Numbers = Annotated[dict[str, Any], AfterValidator(_check_numbers)]
Interval = Annotated[list[Real], Field(min_length=2, max_length=2)]


@_OPEN
class Member(TypedDict):
  """A group of patients; its statistics are further keys."""

  group: str
  patients: Count
  slices: Count


class Group(TypedDict):
  """The number of slices and patients behind some statistics."""

  slices: Count
  patients: Count


class Calibration(TypedDict):
  """Calibration of pixels or of slices."""

  temperature: Positive | None
  why: str | None
  ece: Share | None
  ece_calibrated: Share | None
  ece_ci95: Interval | None
  ece_calibrated_ci95: Interval | None


class Association(TypedDict):
  """One test of a shape feature against molecular clusters."""

  feature: str
  grouping: str
  patients: Count
  clusters: list[int]
  above: list[Count]
  not_above: list[Count]
  p: Share | None
  p_holm: Share | None
  why: str | None


class Associations(TypedDict):
  """All tests, or the reason why there are none."""

  truth: NotRequired[list[Association]]
  predicted: NotRequired[list[Association]]
  why: NotRequired[str]


def _check_test(test: dict[str, Any]) -> dict[str, Any]:
  """Checks the statistics in the groups whose names depend on the task, and in the members of subgroups."""
  own = ("calibration", "subgroups", "associations")
  _check_numbers({name: group for name, group in test.items() if name not in own}, "test.")
  for name, members in test["subgroups"].items():
    for number, member in enumerate(members):
      _check_numbers(member, f"test.subgroups.{name}.{number}.")
  if not test["associations"]:
    raise ValueError("test.associations is empty")
  return test


@_OPEN
class Test(TypedDict):
  """Statistics of the test set."""

  slices: Count
  tumor_slices: Count
  patients: Count
  calibration: dict[str, Calibration]
  subgroups: dict[str, list[Member]]
  associations: Associations


class Intervals(TypedDict):
  """How intervals were made."""

  level: Share
  method: str
  exact: NotRequired[str]
  resamples: Count
  patients: Count
  why: str | None


class Baseline(TypedDict):
  """A baseline method."""

  name: str
  title: str
  parameters: dict[str, Any] | None
  test: Numbers


class Checkpoint(TypedDict):
  """The checkpoint that was evaluated."""

  step: Count
  arrays_sha256: str


@_OPEN
class Fold(TypedDict):
  """One of the runs that are pooled."""

  fold: int | str
  run: str
  checkpoint: NotRequired[Checkpoint | None]


class Epochs(TypedDict):
  """Number of epochs trained and planned."""

  trained: Count
  planned: Count


class Common(TypedDict):
  """The fields of every summary."""

  data: str
  split: str
  leaky: bool
  synthetic: bool
  split_hash: NotRequired[str]
  format: NotRequired[Annotated[int, Field(ge=1, le=FORMAT)]]
  versions: dict[str, str]
  commit: NotRequired[str | None]
  machine: NotRequired[str]
  finished: NotRequired[str]
  intervals: Intervals
  files: NotRequired[dict[str, str]]


class Summary(Common):
  """The summary of a run, or of pooled folds."""

  split_hash: str
  info: NotRequired[Info]  # older runs lack it: they are of LGG
  task: Literal["segmentation", "classification"]
  model: str
  normalize: str
  threshold: Share | None
  threshold_from: str
  slice_gate: NotRequired[Share | None]
  largest_component: bool
  mirror: NotRequired[bool | None]
  temperatures: dict[str, Positive | None]
  checkpoint: NotRequired[Checkpoint | None]
  epochs: Epochs
  seconds: Amount
  devices: str
  machine: str
  commit: str | None
  commits: NotRequired[list[str]]
  parts: NotRequired[dict[str, Count]]
  folds: NotRequired[list[Annotated[Fold, AfterValidator(_check_numbers)]]]
  baselines: list[Baseline]
  test: Annotated[Test, AfterValidator(_check_test)]


class Role(TypedDict):
  """One of the two runs of a cascade."""

  run: str
  model: str
  checkpoint: NotRequired[Checkpoint | None]


@_OPEN
class Dice(TypedDict):
  """Dice over all pixels."""

  dice: Share | None


@_OPEN
class DiceMean(TypedDict):
  """Mean Dice over patient volumes."""

  dice_mean: Share | None


class Segmented(Group):
  """The statistics of masks in a cascade's report, with the gate or without."""

  pooled: Annotated[Dice, AfterValidator(_check_numbers)]
  patient: Annotated[DiceMean, AfterValidator(_check_numbers)]


class GateEffect(TypedDict):
  """The effect of the gate on slices."""

  healthy_slices: Count
  false_positives: Count
  false_positives_gated: Count
  false_positive_rate: Share | None
  false_positive_rate_gated: Share | None
  false_positive_rate_ci95: NotRequired[Interval | None]  # older cascades have no intervals of these
  false_positive_rate_gated_ci95: NotRequired[Interval | None]
  sensitivity_ci95: NotRequired[Interval | None]
  tumor_slices: Count
  tumor_slices_missed_by_gate: Count
  sensitivity: Share | None


class Gate(TypedDict):
  """The threshold below which slices stay empty."""

  threshold: Share
  threshold_from: str


class Masks(TypedDict):
  """Statistics of masks without the gate and with it."""

  alone: Segmented
  gated: Segmented


class CascadeTest(TypedDict):
  """The test results in a cascade's report."""

  gate: GateEffect
  segmentation: Masks


class Cascade(Common):
  """The summary of a classifier and a segmenter as one system."""

  classifier: Role
  segmenter: Role
  gate: Gate
  test: CascadeTest
