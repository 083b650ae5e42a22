"""A mask and its probability as DICOM Segmentations on the frames of their source series."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from bt_jax.errors import needs
from bt_jax.files import write_bytes
from bt_jax.scans import findings
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.dicom import derived, parametric_map, source_image
from bt_jax.scans.dicom.geometry import Stack
from bt_jax.scans.scan import NOTICE, Maps, Mask, Scan, from_axial

_SEGMENT = "Tumor (FLAIR abnormality)"
_DESCRIPTIONS = {False: f"FLAIR abnormality. {NOTICE}", True: f"Segmentation. {NOTICE}"}  # DICOM allows 64 characters


@needs("dicom", "a DICOM Segmentation")
def write(
  scan: Scan,
  folder: pathlib.Path,
  mask: Mask,
  maps: Maps,
  *,
  algorithm: Algorithm,
  classes: Mapping[int, str] | None = None,
) -> list[pathlib.Path]:
  """Writes `mask.dcm`, and each map, such as `probability.dcm`, to the patient and study of the source.

  A probability becomes a fractional Segmentation, any other map a Parametric Map.

  Args:
    scan: a scan from `dicom.read`.
    folder: folder to write to.
    mask: mask on the grid of `scan.image`.
    maps: further values by name; `probability` is stored in steps of 1/255, others as float32.
    algorithm: what made the mask; DICOM allows 64 characters for its software and its name.
    classes: the name of each label in `mask`, each of which is a segment, in this order; None for a FLAIR abnormality.
  """
  import highdicom

  segments = mask  # numbered from 1, whatever the labels are
  if classes:
    segments = sum(((mask == label) * np.uint8(number) for number, label in enumerate(classes, start=1)), np.uint8(0))
  names = [*(classes or {1: _SEGMENT}).values()]
  parts = [("mask.dcm", "BINARY", segments, names)]
  if (probability := maps.get("probability")) is not None:
    parts.append(
      (
        "probability.dcm",
        "FRACTIONAL",
        probability.clip(0, 1),
        ["any class" if classes and len(classes) > 1 else names[0]],
      )
    )
  with findings.kept():
    source, series_uid = source_image.enhanced(scan.source), highdicom.UID()
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
    contents |= {
      f"{name}.dcm": parametric_map.encode(scan.source, source, name, values, algorithm=algorithm, number=number)
      for number, (name, values) in enumerate(maps.items(), start=1)
      if name != "probability"
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
    series_number=derived.SEGMENTATIONS,
    sop_instance_uid=highdicom.UID(),
    instance_number=number,
    content_label="TUMOR",
    content_description=description,
    series_description=description,
    content_qualification="RESEARCH",
    omit_empty_frames=False,  # an empty mask says that there is no tumour
    **derived.made_by(algorithm),
  )
  source_image.refer(segmentation, stack.frames)
  return derived.encoded(segmentation)


def _segment(number: int, name: str, algorithm: Algorithm) -> Any:
  import highdicom
  from pydicom.sr.codedict import codes

  return highdicom.seg.SegmentDescription(
    segment_number=number,
    segment_label=name[: derived.LONGEST],
    segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
    segmented_property_type=codes.SCT.Neoplasm,
    algorithm_type="SEMIAUTOMATIC" if algorithm.corrected else "AUTOMATIC",
    algorithm_identification=highdicom.AlgorithmIdentificationSequence(
      name=f"bt_jax {algorithm.name}".strip()[: derived.LONGEST],
      family=codes.DCM.ArtificialIntelligence,
      version=algorithm.software[: derived.LONGEST],
      parameters=None if algorithm.threshold is None else {"threshold": f"{algorithm.threshold:g}"},
    ),
    anatomic_regions=[codes.SCT.Brain],
  )
