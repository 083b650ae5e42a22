"""A scanner to try: DICOM series of known geometry and intensities, in one file a slice or all in one."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

STUDY, SPACE = "2.25.1", "2.25.2"  # UIDs of the study, and of the frame of reference
FLAIR, PRE, POST = "2.25.3", "2.25.4", "2.25.5"  # of series
BUNDLED = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"  # of other scanners


class Grid(NamedTuple):
  """How a series lies, in mm to the left, back and head, as its header says it."""

  right: np.ndarray  # the way columns grow
  down: np.ndarray  # the way rows grow
  spacing: tuple[float, float, float] = (4.0, 1.3, 0.9)  # between slices, rows and columns
  shape: tuple[int, int, int] = (5, 7, 9)
  origin: tuple[float, float, float] = (-31.5, 12.25, 7.75)
  tilt: float = 0.0  # degrees, of the gantry

  @property
  def step(self) -> np.ndarray:
    """From slice to slice: along their normal, and by the tangent of the tilt the way rows grow."""
    return self.spacing[0] * (np.cross(self.right, self.down) + np.tan(np.deg2rad(self.tilt)) * self.down)

  def position(self, index: int) -> np.ndarray:
    return np.array(self.origin) + index * self.step

  def world(self) -> np.ndarray:
    """The place of every voxel, [slices, rows, columns, 3], by equation C.7.6.2.1-1 of PS3.3."""
    index, row, column = np.indices(self.shape)[..., None]
    steps = index * self.step + row * self.spacing[1] * self.down + column * self.spacing[2] * self.right
    return np.array(self.origin) + steps


def _turned(right: Sequence[float], down: Sequence[float]) -> Grid:
  """By 20 degrees about an axis that is none of the patient's."""
  x, y, z = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
  cross, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.deg2rad(20)
  rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
  return Grid(rotation @ right, rotation @ down)


PLANES = {
  "axial": Grid(np.array([1.0, 0, 0]), np.array([0, 1.0, 0])),
  "feet first": Grid(np.array([-1.0, 0, 0]), np.array([0, 1.0, 0])),
  "sagittal": Grid(np.array([0, 1.0, 0]), np.array([0, 0, -1.0])),
  "coronal": Grid(np.array([1.0, 0, 0]), np.array([0, 0, -1.0])),
  "oblique": _turned([1.0, 0, 0], [0, 1.0, 0]),
  "oblique sagittal": _turned([0, 1.0, 0], [0, 0, -1.0]),
  "tilted": Grid(np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), tilt=20.0),
  "oblique and tilted back": _turned([1.0, 0, 0], [0, 1.0, 0])._replace(tilt=-15.0),
}
AXIAL = PLANES["axial"]


def distinct(shape: Sequence[int], seed: int = 0) -> np.ndarray:
  """Stored values, uint16, no two alike."""
  return np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape).astype(np.uint16)


def _header(values: np.ndarray, series: str, description: str) -> Dataset:
  """All that places it and is no pixel."""
  data = Dataset()
  data.PatientID, data.PatientName, data.StudyInstanceUID, data.Modality = "patient 7", "Doe^Jane", STUDY, "MR"
  data.SeriesInstanceUID, data.SeriesDescription, data.SeriesNumber = series, description, 3
  data.FrameOfReferenceUID, data.BodyPartExamined = SPACE, "BRAIN"
  data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
  data.Rows, data.Columns = values.shape[1:]
  data.BitsAllocated = data.BitsStored = 16
  data.HighBit, data.PixelRepresentation = 15, int(values.dtype.kind == "i")
  return data


def _save(path: pathlib.Path, data: Dataset) -> pathlib.Path:
  data.file_meta = FileMetaDataset()
  data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
  data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (
    data.SOPClassUID,
    data.SOPInstanceUID,
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  pydicom.dcmwrite(path, data, enforce_file_format=True)
  return path


def write_series(
  folder: pathlib.Path,
  values: np.ndarray,
  grid: Grid = AXIAL,
  *,
  series: str = FLAIR,
  description: str = "AX FLAIR",
  edit: Callable[[Dataset, int], None] = lambda data, index: None,
) -> list[pathlib.Path]:
  """One file a slice, their names and numbers in disorder; in the order of slices. `edit` changes the header of each."""
  names = np.random.default_rng(len(values)).permutation(len(values))
  paths = []
  for index, (plane, name) in enumerate(zip(values, names, strict=True)):
    data = _header(values, series, description)
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, f"{series}.{index + 1}"
    data.InstanceNumber = int(name) + 1
    data.ImageOrientationPatient = [*grid.right, *grid.down]
    data.ImagePositionPatient = [*grid.position(index)]
    data.PixelSpacing, data.SliceThickness = [*grid.spacing[1:]], grid.spacing[0]
    data.PixelData = plane.tobytes()
    edit(data, index)
    paths.append(_save(folder / f"{series}-{name}.dcm", data))
  return paths


def write_enhanced(
  folder: pathlib.Path,
  values: np.ndarray,
  grid: Grid = AXIAL,
  *,
  series: str = FLAIR,
  description: str = "AX FLAIR",
  edit: Callable[[Dataset, int], None] = lambda data, index: None,
) -> list[pathlib.Path]:
  """One file of many frames in disorder; `edit` changes the pixel values of each frame, and the file itself as the -1st."""
  data = _header(values, series, description)
  data.SOPClassUID, data.SOPInstanceUID, data.NumberOfFrames = EnhancedMRImageStorage, f"{series}.1", len(values)
  shared, measures, orientation = Dataset(), Dataset(), Dataset()
  measures.PixelSpacing, measures.SliceThickness = [*grid.spacing[1:]], grid.spacing[0]
  orientation.ImageOrientationPatient = [*grid.right, *grid.down]
  shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
  data.SharedFunctionalGroupsSequence, groups = [shared], []
  order = np.random.default_rng(len(values)).permutation(len(values))
  for index in order:
    group, place, scaling = Dataset(), Dataset(), Dataset()
    place.ImagePositionPatient = [*grid.position(index)]
    scaling.RescaleSlope, scaling.RescaleIntercept = 1, 0
    edit(scaling, int(index))
    group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [scaling]
    groups.append(group)
  data.PerFrameFunctionalGroupsSequence = groups
  data.PixelData = values[order].tobytes()
  edit(data, -1)
  return [_save(folder / f"{series}.dcm", data)]


WRITERS = {"one file a slice": write_series, "one file": write_enhanced}


def body_start(name):
  """Where the data set begins in a bundled file, behind its preamble and file meta information."""
  return 144 + pydicom.dcmread(BUNDLED / name).file_meta.FileMetaInformationGroupLength
