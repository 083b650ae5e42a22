"""Brain-tumour detection and segmentation in MRI, in JAX and Flax. For research only, never clinical use."""

__version__ = "0.1.0"
