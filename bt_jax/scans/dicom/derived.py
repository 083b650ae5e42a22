"""What all that is derived from a series says of its maker, and its bytes."""

import io
from typing import Any

from bt_jax.scans.algorithm import Algorithm

LONGEST = 64  # characters of a text in DICOM
BODY_PART = "BRAIN"  # of images, which must name their laterality where they do not say of what they are
# Of series, higher than scanners use.
SEGMENTATIONS, PARAMETRIC_MAPS, SECONDARY_CAPTURES, REPORTS = range(9001, 9005)


def made_by(algorithm: Algorithm) -> dict[str, str]:
  """The software, and the character set that it writes, as arguments of highdicom's objects."""
  return {
    "manufacturer": "bt_jax",
    "manufacturer_model_name": "bt_jax",
    "software_versions": algorithm.software[:LONGEST],
    "device_serial_number": "0",
    "specific_character_set": "ISO_IR 192",
  }


def encoded(dataset: Any) -> bytes:
  """A data set as the bytes of its file."""
  content = io.BytesIO()
  dataset.save_as(content)
  return content.getvalue()
