"""Data on disk; importing this package registers the TFDS builder `lgg_mri`."""

from bt_jax.datasets.lgg_mri import lgg_mri_dataset_builder as lgg_mri_dataset_builder
