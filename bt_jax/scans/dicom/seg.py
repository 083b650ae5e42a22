"""A mask and its probability as DICOM Segmentations on the frames of their source series."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from bt_jax.errors import needs
from bt_jax.files import write_bytes
from bt_jax.scans import findings
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.dicom.geometry import Stack
from bt_jax.scans.dicom.series import Frame
from bt_jax.scans.scan import NOTICE, Mask, Scan, from_axial

_SEGMENT = "Tumor (FLAIR abnormality)"
_LONGEST = 64  # characters of a text in DICOM
_SERIES_NUMBER = 9001  # higher than scanners use
_DESCRIPTIONS = {False: f"FLAIR abnormality. {NOTICE}", True: f"Segmentation. {NOTICE}"}  # DICOM allows 64 characters
_COPIED = ("PatientID", "PatientName", "StudyID", "AccessionNumber", "ReferringPhysicianName")
_FORMATTED = {
  "PatientBirthDate": r"\d{8}",
  "StudyDate": r"\d{8}",
  "StudyTime": r"\d{6}(\.\d{1,6})?",
  "PatientSex": "[MFO]",
}


@needs("dicom", "a DICOM Segmentation")
def write(
  scan: Scan,
  folder: pathlib.Path,
  mask: Mask,
  probability: Float[np.ndarray, "slices height width"] | None,
  *,
  algorithm: Algorithm,
  classes: Mapping[int, str] | None = None,
) -> list[pathlib.Path]:
  """Writes `mask.dcm`, and `probability.dcm` if a probability is given, to the patient and study of the source.

  Args:
    scan: a scan from `dicom.read`.
    folder: folder to write to.
    mask: mask on the grid of `scan.image`.
    probability: probabilities in 0..1; stored in steps of 1/255.
    algorithm: what made the mask; DICOM allows 64 characters for its software and its name.
    classes: the name of each label in `mask`, each of which is a segment, in this order; None for a FLAIR abnormality.
  """
  import highdicom

  segments = mask  # numbered from 1, whatever the labels are
  if classes:
    segments = sum(((mask == label) * np.uint8(number) for number, label in enumerate(classes, start=1)), np.uint8(0))
  names = [*(classes or {1: _SEGMENT}).values()]
  parts = [("mask.dcm", "BINARY", segments, names)]
  if probability is not None:
    parts.append(
      (
        "probability.dcm",
        "FRACTIONAL",
        probability.clip(0, 1),
        ["any class" if classes and len(classes) > 1 else names[0]],
      )
    )
  with findings.kept():
    source, series_uid = _enhanced(scan.source), highdicom.UID()
    contents = {
      name: encode(
        scan.source,
        source,
        kind,
        array,
        names,
        algorithm=algorithm,
        description=_DESCRIPTIONS[bool(classes)],
        series_uid=series_uid,
        number=number,
      )
      for number, (name, kind, array, names) in enumerate(parts, start=1)
    }
  return [write_bytes(pathlib.Path(folder) / name, content) for name, content in contents.items()]


def encode(
  stack: Stack,
  source: Any,
  kind: str,
  array: Shaped[np.ndarray, "_ _ _"],
  names: Sequence[str],
  *,
  algorithm: Algorithm,
  description: str,
  series_uid: str,
  number: int,
) -> bytes:
  """A BINARY or FRACTIONAL Segmentation with named segments on the frames of a stack; `number` is its InstanceNumber."""
  import highdicom

  segmentation = highdicom.seg.Segmentation(
    source_images=[source],
    pixel_array=np.ascontiguousarray(array if stack.affine is None else from_axial(array, stack.affine)),
    segmentation_type=kind,
    segment_descriptions=[_segment(number, name, algorithm) for number, name in enumerate(names, start=1)],
    series_instance_uid=series_uid,
    series_number=_SERIES_NUMBER,
    sop_instance_uid=highdicom.UID(),
    instance_number=number,
    manufacturer="bt_jax",
    manufacturer_model_name="bt_jax",
    software_versions=algorithm.software[:_LONGEST],
    device_serial_number="0",
    content_label="TUMOR",
    content_description=description,
    series_description=description,
    content_qualification="RESEARCH",
    omit_empty_frames=False,  # an empty mask says that there is no tumour
    specific_character_set="ISO_IR 192",
  )
  _refer(segmentation, stack.frames)
  content = io.BytesIO()
  segmentation.save_as(content)
  return content.getvalue()


def _segment(number: int, name: str, algorithm: Algorithm) -> Any:
  import highdicom
  from pydicom.sr.codedict import codes

  return highdicom.seg.SegmentDescription(
    segment_number=number,
    segment_label=name[:_LONGEST],
    segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
    segmented_property_type=codes.SCT.Neoplasm,
    algorithm_type="AUTOMATIC",
    algorithm_identification=highdicom.AlgorithmIdentificationSequence(
      name=f"bt_jax {algorithm.name}".strip()[:_LONGEST],
      family=codes.DCM.ArtificialIntelligence,
      version=algorithm.software[:_LONGEST],
      parameters=None if algorithm.threshold is None else {"threshold": f"{algorithm.threshold:g}"},
    ),
    anatomic_regions=[codes.SCT.Brain],
  )


def _enhanced(stack: Stack) -> Any:
  """The source as one multi-frame image, however many files it has, with every attribute that highdicom needs.

  Attributes that anonymised files lack are left empty; missing positions are made up, in a frame of reference of their own.
  """
  import re

  import highdicom
  from pydicom import Dataset
  from pydicom.uid import EnhancedMRImageStorage

  frames = stack.frames
  about = frames[0].about
  dataset = Dataset()
  for keyword in _COPIED:
    setattr(dataset, keyword, about[keyword])
  for keyword, pattern in _FORMATTED.items():
    setattr(dataset, keyword, about[keyword] if re.fullmatch(pattern, about[keyword]) else "")
  dataset.SOPClassUID, dataset.SOPInstanceUID = EnhancedMRImageStorage, highdicom.UID()
  dataset.StudyInstanceUID = about["StudyInstanceUID"] or highdicom.UID()
  dataset.SeriesInstanceUID = about["SeriesInstanceUID"] or highdicom.UID()
  placed = stack.affine is not None
  dataset.FrameOfReferenceUID = (placed and about["FrameOfReferenceUID"]) or highdicom.UID()
  dataset.Modality = about["Modality"] or "OT"
  dataset.Rows, dataset.Columns = frames[0].shape
  dataset.NumberOfFrames = len(frames)
  positions = [one.position if placed else (0, 0, index) for index, one in enumerate(frames)]
  patient = highdicom.enum.CoordinateSystemNames.PATIENT
  shared = Dataset()
  shared.PlaneOrientationSequence = highdicom.PlaneOrientationSequence(
    patient, frames[0].orientation.ravel() if placed else (1, 0, 0, 0, 1, 0)
  )
  shared.PixelMeasuresSequence = highdicom.PixelMeasuresSequence(
    frames[0].spacing if placed else (1, 1), slice_thickness=stack.distance, spacing_between_slices=stack.distance
  )
  dataset.SharedFunctionalGroupsSequence = [shared]
  dataset.PerFrameFunctionalGroupsSequence = [Dataset() for _ in frames]
  for group, position in zip(dataset.PerFrameFunctionalGroupsSequence, positions, strict=True):
    group.PlanePositionSequence = highdicom.PlanePositionSequence(patient, position)
  return dataset


def _refer(segmentation: Any, frames: Sequence[Frame]) -> None:
  """Makes a segmentation refer to the source files instead of the enhanced image that stands for them."""
  derivations = (
    derivation
    for group in segmentation.PerFrameFunctionalGroupsSequence
    for derivation in group.DerivationImageSequence
  )
  # Frames of several segments share their references.
  for item in {id(item): item for derivation in derivations for item in derivation.SourceImageSequence}.values():
    frame = frames[item.ReferencedFrameNumber - 1]
    _name(item, frame)
    if frame.number:
      item.ReferencedFrameNumber = frame.number
    else:
      del item.ReferencedFrameNumber
  instances = [_name(type(item)(), one) for one in {frame.path: frame for frame in frames}.values()]
  segmentation.SourceImageSequence = instances
  segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = instances


def _name(item: Any, frame: Frame) -> Any:
  item.ReferencedSOPClassUID = frame.about["SOPClassUID"]
  item.ReferencedSOPInstanceUID = frame.about["SOPInstanceUID"]
  return item
