"""A map of numbers, such as entropy, as a DICOM Parametric Map on the frames of its source series."""

from typing import Any

import numpy as np
from jaxtyping import Float

from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.dicom import derived, source_image
from bt_jax.scans.dicom.geometry import Stack
from bt_jax.scans.scan import NOTICE, from_axial


def encode(
  stack: Stack,
  source: Any,
  name: str,
  values: Float[np.ndarray, "slices height width"],
  *,
  algorithm: Algorithm,
  number: int,
) -> bytes:
  """The bytes of a Parametric Map of float32.

  Args:
    stack: the source series.
    source: the image that stands for it, see `source_image.enhanced`.
    name: what the values are, e.g. `entropy`.
    values: values in 0..1 on the grid of the scan.
    algorithm: what made them.
    number: its InstanceNumber.
  """
  import highdicom
  from pydicom.sr.codedict import codes

  description = f"{name.capitalize()}. {NOTICE}"[: derived.LONGEST]
  own = values if stack.affine is None else from_axial(values, stack.affine)
  image = highdicom.pm.ParametricMap(
    source_images=[source],
    pixel_array=np.ascontiguousarray(own, np.float32),
    series_instance_uid=highdicom.UID(),
    series_number=derived.PARAMETRIC_MAPS,
    sop_instance_uid=highdicom.UID(),
    instance_number=number,
    contains_recognizable_visual_features=False,
    real_world_value_mappings=[
      highdicom.pm.RealWorldValueMapping(
        lut_label=name.upper()[:16],
        lut_explanation=description,
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, 1.0),
        slope=1.0,
        intercept=0.0,
      )
    ],
    window_center=0.5,
    window_width=1.0,
    content_label=name.upper()[:16],
    content_description=description,
    series_description=description,
    content_qualification="RESEARCH",
    **derived.made_by(algorithm),
  )
  image.BodyPartExamined = derived.BODY_PART
  source_image.refer(image, stack.frames)
  return derived.encoded(image)
