"""Volume and longest diameter of each segment of a Segmentation as a DICOM Structured Report, TID 1500."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from bt_jax.errors import needs
from bt_jax.files import write_bytes
from bt_jax.scans import findings
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.dicom import derived, source_image
from bt_jax.scans.scan import NOTICE, Scan

FILE = "report.dcm"


class Extent(NamedTuple):
  """How large a segment is: its volume, and its longest diameter within a slice; None where it is empty."""

  volume_ml: float
  diameter_mm: float | None


@needs("dicom", "a DICOM Structured Report")
def write(
  scan: Scan, folder: pathlib.Path, segmentation: pathlib.Path, extents: Sequence[Extent], *, algorithm: Algorithm
) -> list[pathlib.Path]:
  """Writes `report.dcm` to the patient and study of the source: a group of measurements for each segment.

  A volume is in cm3, as its code list (CID 7461) has no ml, which is the same.

  Args:
    scan: a scan from `dicom.read`.
    folder: folder to write to.
    segmentation: the Segmentation of the mask, which the report refers to, as it does to the source images.
    extents: size of each segment, in the order of their numbers.
    algorithm: what made the mask.
  """
  import highdicom
  import pydicom
  from pydicom.sr.codedict import codes

  with findings.kept():
    segments = pydicom.dcmread(segmentation, stop_before_pixels=True)
    images = source_image.references(scan.source.frames)
    groups = [
      _group(segments, segment, images, extent, algorithm)
      for segment, extent in zip(segments.SegmentSequence, extents, strict=True)
    ]
    content = highdicom.sr.MeasurementReport(
      observation_context=highdicom.sr.ObservationContext(observer_device_context=_device(algorithm)),
      procedure_reported=codes.DCM.MagneticResonance,
      imaging_measurements=groups,
      title=codes.DCM.ImagingMeasurementReport,
    )
    content[0].ContentSequence.append(
      highdicom.sr.TextContentItem(
        name=codes.DCM.Comment, value=NOTICE, relationship_type=highdicom.sr.RelationshipTypeValues.CONTAINS
      )
    )
    report = highdicom.sr.Comprehensive3DSR(
      evidence=[segments, *(_evidence(image, segments) for image in images)],
      content=content[0],
      series_instance_uid=highdicom.UID(),
      series_number=derived.REPORTS,
      sop_instance_uid=highdicom.UID(),
      instance_number=1,
      is_complete=True,
      series_description=f"Measurements. {NOTICE}",
      **derived.made_by(algorithm),
    )
  return [write_bytes(pathlib.Path(folder) / FILE, derived.encoded(report))]


def _group(segments: Any, segment: Any, images: Sequence[Any], extent: Extent, algorithm: Algorithm) -> Any:
  """The measurements of a segment."""
  import highdicom
  from highdicom import sr
  from pydicom.sr.codedict import codes

  measurements = [sr.Measurement(codes.SCT.Volume, extent.volume_ml, codes.UCUM.CubicCentimeter)]
  if extent.diameter_mm is not None:
    measurements.append(
      sr.Measurement(codes.SCT.Diameter, extent.diameter_mm, codes.UCUM.Millimeter, derivation=codes.SCT.Maximum)
    )
  return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
    tracking_identifier=sr.TrackingIdentifier(highdicom.UID(), segment.SegmentLabel),
    # Its `from_segmentation` fails where there is one segment, which highdicom's own writer names once for all frames.
    referenced_segment=sr.ReferencedSegment(
      segments.SOPClassUID,
      segments.SOPInstanceUID,
      segment.SegmentNumber,
      source_images=[
        sr.SourceImageForSegmentation(
          image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")
        )
        for image in images
      ],
    ),
    finding_type=codes.SCT.Neoplasm,
    finding_sites=[sr.FindingSite(codes.SCT.Brain)],
    algorithm_id=sr.AlgorithmIdentification(
      f"bt_jax {algorithm.name}".strip(),
      algorithm.origin,
      None if algorithm.threshold is None else [f"threshold={algorithm.threshold:g}"],
    ),
    measurements=measurements,
  )


def _device(algorithm: Algorithm) -> Any:
  import highdicom
  from highdicom import sr
  from pydicom.sr.codedict import codes

  device = sr.DeviceObserverIdentifyingAttributes(
    highdicom.UID(), name="bt_jax", manufacturer_name="bt_jax", model_name=algorithm.software
  )
  return sr.ObserverContext(codes.DCM.Device, device)


def _evidence(reference: Any, segments: Any) -> Any:
  """A source image, as far as a report needs it as evidence."""
  from pydicom import Dataset

  image = Dataset()
  image.StudyInstanceUID = segments.StudyInstanceUID
  image.SeriesInstanceUID = segments.ReferencedSeriesSequence[0].SeriesInstanceUID
  image.SOPClassUID, image.SOPInstanceUID = reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID
  return image
