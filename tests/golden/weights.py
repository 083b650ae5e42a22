"""Random ResNet-50 weights and batch statistics that both sides of a comparison can make for themselves."""

import functools

import numpy as np

from bt_jax.pretrained import conversion, names

SIZE = 64
STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")
KERAS_STAGES = ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")


def naming(title):
  """The table of names that starts with this title."""
  (found,) = (naming for naming in names.NAMINGS if naming.title.startswith(title))
  return found


def random_arrays(naming, seed=0):
  """Arrays by the source's own names: He-scaled kernels, statistics and scales away from 0 and 1."""
  return dict(_random_arrays(naming.title, seed))


@functools.lru_cache(maxsize=2)  # 100 MB each; neighbouring tests ask for the same
def _random_arrays(title, seed):
  (naming,) = (naming for naming in names.NAMINGS if naming.title == title)
  shapes = conversion.expected_shapes(naming.variant, 1000)
  rng = np.random.default_rng(seed)
  arrays = {}
  for name, target in sorted(naming.targets().items()):
    if target.path not in shapes:  # a bias that this variant has not
      continue
    shape = shapes[target.path]
    uniform = rng.random(shape, np.float32)
    leaf = target.path[-1]
    if leaf == "kernel":
      array = (2 * uniform - 1) * np.sqrt(6 / np.prod(shape[:-1]), dtype=np.float32)
    elif leaf == "var":
      array = 0.5 + uniform
    elif leaf == "scale":  # such that activations stay near 1 through all the stages
      array = 0.2 + 0.4 * uniform
    else:
      array = 0.4 * uniform - 0.2
    arrays[name] = to_source(naming, array, up=target.path[1].startswith("up"))
    arrays[name].setflags(write=False)  # they are shared
  return arrays


def to_source(naming, array, up=False):
  """The array in the axes that the source keeps it in; `up`: of a transposed convolution."""
  if up and array.ndim == 4:
    return array.transpose(0, 3, 1, 2).copy()
  if naming.variant == "keras":
    return array
  return {4: lambda: array.transpose(3, 2, 0, 1), 2: lambda: array.T}.get(array.ndim, lambda: array)().copy()


def images(size=SIZE, count=2, seed=1):
  """float32 [count, size, size, 3] in -1..1."""
  return 2 * np.random.default_rng(seed).random((count, size, size, 3), np.float32) - 1


def sample(array):
  """A few hundred values spread over an array, to keep golden files small."""
  flat = np.asarray(array).ravel()
  return flat[:: max(1, flat.size // 300)].astype(np.float32)
