"""The names, shapes and units of the data that the stages hand to one another."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

SLICE_SIZE = 256  # pixels; every published slice is 256 x 256
CHANNELS = ("pre", "flair", "post")  # pre-contrast, FLAIR, post-contrast
SLICE_BYTES = SLICE_SIZE**2 * (len(CHANNELS) + 1)  # of image and mask in memory

# The genomic clusters and clinical fields of `data.csv`, in its order; -1 stands for an empty field.
CLINICAL_FIELDS = (
    "RNASeqCluster", "MethylationCluster", "miRNACluster", "CNCluster", "RPPACluster", "OncosignCluster", "COCCluster",
    "histological_type", "neoplasm_histologic_grade", "tumor_tissue_site", "laterality", "tumor_location", "gender",
    "age_at_initial_pathologic", "race", "ethnicity", "death01",
)  # fmt: skip

GENOMIC_CLUSTERS = CLINICAL_FIELDS[:7]  # COC is the cluster of clusters
UNKNOWN = -1  # an empty field


class Tumor(NamedTuple):
  """Logits, or probabilities, of tumour.

  Attributes:
    pixels: of every pixel; None of a classifier.
    slices: of any tumour in the slice: a classifier's, a segmenter's head for slices, or else its highest pixel.
  """

  pixels: Float[Array, "batch height width"] | None
  slices: Float[Array, "batch"]


@dataclasses.dataclass(frozen=True)
class Slices:
  """Slices of one part of a split, in the order of their ids.

  Attributes:
    case: the examination each slice is from, e.g. `TCGA_CS_4941_19960909`.
    patient: the patient, e.g. `TCGA_CS_4941`.
    number: the slice's number in its volume, from 1.
    image: uint8 [slices, 256, 256, 3], pre-contrast, FLAIR, post-contrast.
    mask: uint8 [slices, 256, 256, 1], 1 where the radiologist marked FLAIR abnormality.
    volume_mean: float32 [slices, 3], mean intensity of the slice's whole volume by channel, in 0..255.
    volume_std: float32 [slices, 3], its standard deviation.
    context: uint8 [slices, 256, 256, n], channels of neighbouring slices; None where none are asked for.
  """

  case: np.ndarray
  patient: np.ndarray
  number: np.ndarray
  image: np.ndarray
  mask: np.ndarray
  volume_mean: np.ndarray
  volume_std: np.ndarray
  context: np.ndarray | None = None

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


def slice_id(case: str, number: int) -> str:
  """The id of one slice in `split.json` and in tables, e.g. `TCGA_CS_4941_19960909/12`."""
  return f"{case}/{number}"
