"""The names, shapes and units of the data that the stages pass to one another."""

import dataclasses
from typing import NamedTuple, NotRequired, TypedDict

import jax.export
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

CHANNELS = ("pre", "flair", "post")  # the sequences that a scan is searched for: pre-contrast, FLAIR, post-contrast


class Tumor(NamedTuple):
  """Logits or probabilities of tumour.

  Attributes:
    pixels: value for each class at every pixel; None for a classifier.
    slices: value for any tumour in the slice: from a classifier, from a segmenter's slice head, or else the maximum
      over its pixels.
  """

  pixels: Float[Array, "batch height width classes"] | None
  slices: Float[Array, " batch"]


jax.export.register_namedtuple_serialization(Tumor, serialized_name="bt_jax.Tumor")


@dataclasses.dataclass(frozen=True)
class Slices:
  """Slices of one subset of a split, in the order of their ids.

  Attributes:
    case: the examination that each slice is from, e.g. `TCGA_CS_4941_19960909`.
    patient: the patient, e.g. `TCGA_CS_4941`.
    number: the slice's number in its volume, from 1.
    image: uint8 or uint16 [slices, height, width, channels], as the data set's `DatasetInfo` names them.
    mask: uint8 [slices, height, width, classes], 1 where the truth has the class.
    volume_mean: float32 [slices, channels], mean intensity of the slice's whole volume by channel, in 0..255.
    volume_std: float32 [slices, channels], its standard deviation.
    context: uint8 or uint16 [slices, height, width, n], channels of neighbouring slices; None if none are requested.
    volume_percentiles: float32 [slices, channels, 4], see `pipeline.percentiles.statistics`; None if they are not needed.
  """

  case: np.ndarray
  patient: np.ndarray
  number: np.ndarray
  image: np.ndarray
  mask: np.ndarray
  volume_mean: np.ndarray
  volume_std: np.ndarray
  context: np.ndarray | None = None
  volume_percentiles: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.case)

  @property
  def label(self) -> np.ndarray:
    """int32 [slices], 1 where any pixel of the mask is set."""
    return self.mask.any((1, 2, 3)).astype(np.int32)

  @property
  def ids(self) -> list[str]:
    """One id per slice: `case/number`."""
    return [slice_id(str(case), int(number)) for case, number in zip(self.case, self.number, strict=True)]


class Batch(TypedDict):
  """The arrays of some slices that a step takes, of NumPy or JAX; the first axis of each is the batch.

  Attributes:
    image: uint8 or uint16, the slice's own channels and those of its neighbours; of a scan float32 in 0..255.
    volume_mean: float32, mean intensity of the slice's whole volume by channel, in 0..255.
    volume_std: float32, its standard deviation.
    volume_percentiles: float32, see `pipeline.percentiles.statistics`; only where the normalisation needs them.
    mask: uint8, 1 where the truth has the class; a scan without ground truth has none.
    label: int32, 1 where any pixel of the mask is set.
    weight: float32, weight of the slice in the objective.
  """

  image: Shaped[Array | np.ndarray, "batch height width channels"]
  volume_mean: Float[Array | np.ndarray, "batch sequences"]
  volume_std: Float[Array | np.ndarray, "batch sequences"]
  volume_percentiles: NotRequired[Float[Array | np.ndarray, "batch sequences 4"]]
  mask: NotRequired[UInt8[Array | np.ndarray, "batch height width classes"]]
  label: NotRequired[Int[Array | np.ndarray, " batch"]]
  weight: NotRequired[Float[Array | np.ndarray, " batch"]]


class Predicted(NamedTuple):
  """Slices with what is predicted of them.

  Attributes:
    slices: the slices, with ground truth.
    tumor: logits or probabilities, with a row for each slice.
  """

  slices: Slices
  tumor: Tumor


def slice_id(case: str, number: int) -> str:
  """The id of one slice in `split.json` and in tables, e.g. `TCGA_CS_4941_19960909/12`."""
  return f"{case}/{number}"


def to_8_bits(image: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
  """Stored intensities as 8 bits for display: the upper 8 of 16 bits."""
  return (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
