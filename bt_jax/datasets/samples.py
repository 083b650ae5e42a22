"""Writes synthetic scans of four people, as scanners and archives write them, to try prediction on; or a set to train on.

  python -m bt_jax.datasets.samples DIR
  python -m bt_jax.datasets.samples --head DIR
  python -m bt_jax.datasets.samples --layout=nnunet DIR

With --head it writes one scan, of a whole head, as the weights that ship were trained on. With a layout (nnunet, decathlon, brats or pictures) it writes twelve cases with masks, as `data.name=own` reads them.
Without either it writes four scans of brains without masks: TIFF slices of three channels, a NIfTI volume for each sequence, a NIfTI
volume of FLAIR alone, and three DICOM series in a zip. None of them is in the synthetic data set.
"""

import contextlib
import functools
import gzip
import io
import pathlib
import sys
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bt_jax import files
from bt_jax.datasets.lgg_mri import phantom
from bt_jax.datasets.own_data import synthetic
from bt_jax.errors import UserError, check_local, needs
from bt_jax.schema import CHANNELS

_SEED = 2_000_000  # differs from those of the data set
HEAD_SEED, HEAD_SLICES = 2_000_102, 24
_SPACING_MM = (5.0, 0.9, 0.9)  # between slices, rows and columns
_DESCRIPTIONS = {"pre": "AX T1", "flair": "AX T2 FLAIR", "post": "AX T1 +GD"}
Volume = UInt8[np.ndarray, "slices 256 256 3"]


@needs("dicom", "a sample of DICOM")
def write(folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the four studies into a folder, and returns where each is.

  Raises:
    UserError: the folder is not empty, or cannot be written.
  """
  with _empty(folder):
    volumes = [phantom.make_volume(np.random.default_rng(_SEED + index), 10)[0] for index in range(4)]
    files.write_bytes(folder / "dicom.zip", _dicom(volumes[3]))  # first: without pydicom nothing is written
    for number, pixels in enumerate(volumes[0], start=1):
      files.write_bytes(folder / "slices" / f"slice_{number}.tif", _tiff(pixels))
    _write_sequences(folder / "volume", volumes[1], CHANNELS)
    _write_sequences(folder / "flair_alone", volumes[2], ("flair",))
  return [folder / name for name in ("slices", "volume", "flair_alone", "dicom.zip")]


def write_head(folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes a NIfTI volume of a whole head for each sequence into a folder; returns and raises as `write` does."""
  with _empty(folder):
    volume, _ = phantom.make_volume(np.random.default_rng(HEAD_SEED), HEAD_SLICES, has_skull=True)
    return _write_sequences(folder, volume, CHANNELS)


def _write_sequences(folder: pathlib.Path, volume: Volume, roles: Sequence[str]) -> list[pathlib.Path]:
  return [files.write_bytes(folder / f"{role}.nii.gz", _nifti(volume[..., CHANNELS.index(role)])) for role in roles]


def _write_layout(folder: pathlib.Path, layout: str) -> list[pathlib.Path]:
  with _empty(folder):
    return [synthetic.write(folder, layout)]


@contextlib.contextmanager
def _empty(folder: pathlib.Path) -> Iterator[None]:
  """Context for writing into an empty folder; raises UserError where it is not empty, or cannot be written."""
  try:
    if folder.is_dir() and any(folder.iterdir()):
      raise UserError(f"{folder} is not empty: name another folder")
    yield
  except OSError as error:
    raise UserError(f"cannot write to {folder} ({error.strerror}): name another folder") from error


def _tiff(pixels: UInt8[np.ndarray, "256 256 3"]) -> bytes:
  content = io.BytesIO()
  Image.fromarray(pixels).save(content, "TIFF")
  return content.getvalue()


def _nifti(volume: UInt8[np.ndarray, "slices 256 256"]) -> bytes:
  """A NIfTI with sagittal slices, in a scale of its own."""
  with needs("predict", "a synthetic scan"):
    import nibabel

  between, row, column = _SPACING_MM
  # Axes of the file: rows run to the back, slices to the head, columns to the left.
  affine = np.array([[0, 0, -column, 115], [-row, 0, 0, 120], [0, between, 0, -40], [0, 0, 0, 1]])
  content = nibabel.Nifti1Image(np.transpose(volume, (1, 0, 2)).astype(np.float32) * 3.7, affine).to_bytes()
  return gzip.compress(content, mtime=0)


def _dicom(volume: Volume) -> bytes:
  import pydicom

  content = io.BytesIO()
  study, space = (pydicom.uid.generate_uid(entropy_srcs=[name]) for name in ("study", "space"))
  with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
    for index, role in enumerate(CHANNELS):
      for number, pixels in enumerate(volume[..., index], start=1):
        data = _slice(pixels, role, number, study, space)
        file = io.BytesIO()
        pydicom.dcmwrite(file, data, enforce_file_format=True)
        archive.writestr(f"{role}/{number:04d}.dcm", file.getvalue())
  return content.getvalue()


def _slice(pixels: UInt8[np.ndarray, "256 256"], role: str, number: int, study: str, space: str) -> Any:
  import pydicom

  between, row, column = _SPACING_MM
  data = pydicom.Dataset()
  data.file_meta = pydicom.dataset.FileMetaDataset()
  data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
  data.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[role, str(number)])
  data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
  data.StudyInstanceUID, data.FrameOfReferenceUID = study, space
  data.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[role])
  data.PatientID = data.PatientName = "PHANTOM"
  data.Modality, data.SeriesDescription, data.BodyPartExamined = "MR", _DESCRIPTIONS[role], "HEAD"
  data.SeriesNumber, data.InstanceNumber = CHANNELS.index(role) + 1, number
  data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
  data.ImagePositionPatient = [-115, -120, -40 + between * (number - 1)]
  data.PixelSpacing, data.SliceThickness = [row, column], between
  data.Rows, data.Columns = pixels.shape
  data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
  data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
  data.RescaleSlope, data.RescaleIntercept = 2, 0
  data.PixelData = (pixels.astype(np.uint16) * 5).tobytes()
  return data


def _main(arguments: list[str]) -> None:
  writers = {f"--layout={name}": functools.partial(_write_layout, layout=name) for name in synthetic.LAYOUTS}
  writers["--head"] = write_head
  chosen = [argument for argument in arguments if argument.startswith("--")]
  folders = [pathlib.Path(argument).expanduser() for argument in arguments if argument not in chosen]
  if len(folders) != 1 or len(chosen) > 1 or not {*chosen} <= writers.keys():
    sys.exit(__doc__)
  try:
    check_local(folders[0], "DIR")
    written = (writers[chosen[0]] if chosen else write)(folders[0])
  except UserError as error:
    sys.exit(f"error: {error}")
  print("written:", *(f"  {path}" for path in written), sep="\n")


if __name__ == "__main__":
  _main(sys.argv[1:])
