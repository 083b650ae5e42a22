"""What a network is trained for: segmentation or classification."""

from bt_jax.tasks.classification import CLASSIFICATION
from bt_jax.tasks.segmentation import SEGMENTATION

TASKS = {"segmentation": SEGMENTATION, "classification": CLASSIFICATION}
