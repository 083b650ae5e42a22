"""The schema of a checkpoint's record, which is checked before the record is used."""

import pathlib
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from bt_jax import files
from bt_jax.datasets.info import Info
from bt_jax.files import Count, Positive, Real, Share
from configs import saved

REMEDY = "name another checkpoint, or train the run again"
Size = Annotated[int, Field(gt=0, le=2**15)]


def _ordered(bounds: list[float]) -> list[float]:
  if bounds[0] > bounds[1]:
    raise ValueError(f"the bounds {bounds} of a profile are not in order")
  return bounds


Bounds = Annotated[list[Real], Field(min_length=2, max_length=2), AfterValidator(_ordered)]


class Profile(TypedDict):
  """The lowest and highest value of each feature of `ood.features` over training volumes."""

  skull: Bounds
  span: Bounds
  border: Bounds
  levels: Bounds


class Decision(TypedDict):
  """The values chosen on the validation set; without `chosen` where there was none, and they are placeholders."""

  threshold: Share
  temperature: Positive
  tumor_probabilities: list[Share]
  chosen: NotRequired[bool]


class Model(TypedDict):
  """The section `model` of a configuration."""

  name: str
  width: Size
  depth: Size
  pool: Literal["max", "average", "min"]
  variant: Literal["torchvision", "keras"]
  encoder: Literal["lite0", "lite1", "lite2"]
  head: Literal["linear", "paper"]
  slice_head: bool
  dtype: Literal["float32", "bfloat16"]


class _Data(TypedDict):
  size: Size
  channels: str
  contrast: str


class _Augment(TypedDict):
  drop_sequence: Share


class _Eval(TypedDict):
  largest_component: bool


class Config(TypedDict):
  """The sections of a configuration that shape a network's function."""

  task: Literal["segmentation", "classification"]
  model: Model
  data: _Data
  augment: _Augment
  eval: _Eval


class Record(TypedDict):
  """The record of a best checkpoint: everything that prediction needs beside the arrays."""

  config: Config
  decision: Decision
  profile: Profile
  normalize: str
  info: NotRequired[Info]  # older runs lack it: they are of LGG
  patients: NotRequired[dict[Literal["train", "validation"], list[str]]]
  data: str
  split: str
  step: Count
  arrays_sha256: str
  bt_jax: str


def check(record: dict[str, Any], folder: pathlib.Path) -> Record:
  """Checks the record of a checkpoint in this folder, and fills in today's defaults for missing configuration fields.

  Raises:
    UserError: it is not the record of a best checkpoint.
  """
  path = f"the checkpoint's record in {folder}"
  config = saved.over_defaults(record.get("config"), path, REMEDY)
  return files.check(Record, {**record, "config": config}, path, REMEDY)
