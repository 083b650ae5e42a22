"""Networks that are plain arithmetic, so that what they say can be worked out by hand."""

import functools

import jax.numpy as jnp
import numpy as np

from bt_jax.datasets.channels import context_of, parse_channels
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.inference.networks import Network, View
from bt_jax.schema import CHANNELS, Tumor

PROFILE = {"skull": [0.0, 2.0], "span": [0.1, 1.0], "border": [0.0, 1.0], "levels": [1.0, 256.0]}


def flair_logits(variables, batch):
  """Logits that follow FLAIR: 0 at 127.5."""
  return (batch["image"][..., CHANNELS.index("flair")] - 127.5) * variables["slope"]


def next_flair_logits(variables, batch):
  """Logits that follow FLAIR of the slice after, the last of two neighbours that `flair-1,flair+1` keep."""
  return (batch["image"][..., -1] - 127.5) * variables["slope"]


def mean_flair_logits(variables, batch):
  return (batch["image"][..., CHANNELS.index("flair")].mean((1, 2)) - 127.5) * variables["slope"]


def statistics_logits(variables, batch):
  """The same in every pixel: how many deviations the mean of FLAIR lies above 0."""
  ratio = batch["volume_mean"][:, 1] / batch["volume_std"][:, 1] * variables["slope"]
  return jnp.broadcast_to(ratio[:, None, None], batch["image"].shape[:3])


@functools.cache
def as_tumor(logits):
  """The logits of an array, of pixels or of slices, as networks give them."""

  def tumor(variables, batch):
    array = logits(variables, batch)
    return Tumor(None, array) if array.ndim == 1 else Tumor(array[..., None], array.max((1, 2)))

  return tumor


def network(
  logits=flair_logits,
  slope=0.05,
  *,
  contrast="none",
  channels="pre,flair,post",
  drops=True,
  slice_head=False,
  largest=False,
  threshold=0.5,
  temperature=1.0,
  tumors=(0.5,),
  info=INFO,
):
  decision = {"threshold": threshold, "temperature": temperature, "tumor_probabilities": list(tumors)}
  variables = {"slope": jnp.asarray(slope)}
  return Network(
    info,
    variables,
    logits if slice_head else as_tumor(logits),
    View(info.size, contrast, context_of(parse_channels(channels, info), info)),
    drops,
    slice_head,
    decision,
    PROFILE,
    largest,
    {"path": "by hand", "model": "arithmetic", "data": "none", "split": "none"},
  )


def volume(slices=3, height=256, width=256, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (slices, height, width, 3)).astype(np.float32)


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def chance_of(image, slope=0.05):
  return sigmoid((image[..., 1] - 127.5) * slope)
