"""Networks, by name."""

from collections.abc import Callable

from flax import linen as nn

from bt_jax.models.unet import UNet

MODELS: dict[str, Callable[..., nn.Module]] = {"unet": UNet}
