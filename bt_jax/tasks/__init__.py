"""The tasks that a network is trained for: segmentation or classification."""

from bt_jax.tasks.classification import Classification
from bt_jax.tasks.segmentation import Segmentation
from bt_jax.tasks.task import Task

TASKS: dict[str, type[Task]] = {"segmentation": Segmentation, "classification": Classification}
