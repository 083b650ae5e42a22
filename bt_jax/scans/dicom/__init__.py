"""A DICOM study in, a mask as DICOM Segmentation out."""

from bt_jax.scans.dicom.files import is_dicom, study_of
from bt_jax.scans.dicom.reading import read
from bt_jax.scans.dicom.segmentation import write

__all__ = ["is_dicom", "read", "study_of", "write"]
