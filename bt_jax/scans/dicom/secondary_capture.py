"""Images of slices, with what is drawn on them, as a series of DICOM Secondary Captures, which any viewer shows."""

import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int, UInt8

from bt_jax.errors import needs
from bt_jax.scans import directions, findings
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.dicom import derived, source_image
from bt_jax.scans.dicom.geometry import Stack
from bt_jax.scans.scan import NOTICE, Scan, to_axial

FOLDER = "secondary_capture"
_LETTERS = str.maketrans("SI", "HF")  # DICOM calls the ends of the body head and feet


@needs("dicom", "a DICOM Secondary Capture")
def write(
  scan: Scan, folder: pathlib.Path, images: Iterable[UInt8[np.ndarray, "height width 3"]], *, algorithm: Algorithm
) -> list[pathlib.Path]:
  """Writes `secondary_capture/0001.dcm` and so on to the patient and study of the source.

  Each says that it is derived, that annotations are burnt in, how it lies and which source images its slice was read from.
  No size in mm is given, as text is part of the image.

  Args:
    scan: a scan from `dicom.read`.
    folder: folder to write to.
    images: RGB of each slice of the scan.
    algorithm: what made the masks on them.
  """
  import highdicom
  from pydicom.uid import ExplicitVRLittleEndian

  with findings.kept():
    source, series_uid = source_image.enhanced(scan.source), highdicom.UID()
    towards = directions.letters(scan.affine)
    sides = towards and [towards[axis].translate(_LETTERS) for axis in ("columns", "rows")]  # empty: not known
    paths = []
    for number, (image, frames) in enumerate(zip(images, _frames(scan.source), strict=True), start=1):
      capture = highdicom.sc.SCImage.from_ref_dataset(
        source,
        image,
        "RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=series_uid,
        series_number=derived.SECONDARY_CAPTURES,
        sop_instance_uid=highdicom.UID(),
        instance_number=number,
        patient_orientation=("L", "P"),  # replaced below, as highdicom takes no oblique one
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=f"Outline. {NOTICE}",
        **derived.made_by(algorithm),
      )
      capture.PatientOrientation = sides
      capture.BodyPartExamined = derived.BODY_PART
      capture.BurnedInAnnotation = "YES"
      capture.ImageComments = NOTICE
      capture.SourceImageSequence = source_image.references([scan.source.frames[index] for index in frames])
      paths.append(pathlib.Path(folder) / FOLDER / f"{number:04d}.dcm")
      paths[-1].parent.mkdir(parents=True, exist_ok=True)
      paths[-1].write_bytes(derived.encoded(capture))  # not `files.write_bytes`: the folder is moved as a whole
  return paths


def _frames(stack: Stack) -> list[Int[np.ndarray, " frames"]]:
  """For each axial slice, the indices of the frames that hold it: one where frames are axial, else all."""
  shape = (len(stack.frames), *stack.frames[0].shape)
  numbers = np.broadcast_to(np.arange(shape[0])[:, None, None], shape)
  return [np.unique(part) for part in (numbers if stack.affine is None else to_axial(numbers, stack.affine))]
