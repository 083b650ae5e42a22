"""The TFDS builder `lgg_mri`; see README.md beside this file."""
