"""Reads a DICOM study, and writes a mask as a DICOM Segmentation."""

from bt_jax.scans.dicom.opening import is_dicom, study_of
from bt_jax.scans.dicom.seg import write
from bt_jax.scans.dicom.study import read

__all__ = ["is_dicom", "read", "study_of", "write"]
