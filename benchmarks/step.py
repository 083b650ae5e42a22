"""Slices per second in training and inference, and memory, of our networks and the same networks in PyTorch.

  python benchmarks/step.py [--models=lite_unet,lite,unet,resunet,resnet50] [--sizes=128,256] [--width=32] [--batch=8] [--repeats=7]

Both run in one process, in turn; the table has medians and their ratio. Only the network is timed: the forward pass
and, for training, the backward pass and AdamW, with binary cross-entropy plus Dice or with cross-entropy. The input is
on the device already, without augmentation. PyTorch uses channels last. On a GPU both compute in bfloat16 and PyTorch
is compiled; on a CPU both compute in float32. Memory is what a training step needs in addition to its arguments: for
ours, as reported by the compiled program; for PyTorch, by its own count, which exists only on a GPU. Both use huge
pages, as launch.py does.

Limit is a lower bound on the time divided by the measured time. The bound is what the machine needs for the operations
or the bytes of the compiled program, whichever takes longer, at the rates of a matrix product and of a copy measured
here. Bytes in a cache are counted as well, so it may exceed 1 on a CPU. Without torch (`pip install torch`) only ours
is timed. Behind each median are the quartiles of the repeats; see benchmarks/timing.py for what makes a figure final.
"""

import argparse
import itertools
import pathlib
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import timing
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.distributed import allocator

if __name__ == "__main__":
  allocator.use_huge_pages()
  timing.pin_threads()

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax.distributed import sharding
from bt_jax.losses import make_loss
from bt_jax.models import CLASSIFIERS, MODELS, configured_model
from bt_jax.pipeline.preprocess import UNCHANGED
from bt_jax.tasks import TASKS
from bt_jax.training.optimizer import make_optimizer
from bt_jax.training.step import make_train_step
from bt_jax.training.train_state import TrainState, init_state

LOSS = {"smooth": 1.0, "pooled": True, "fp_weight": 0.3, "fn_weight": 0.7, "exponent": 0.75, "label_smoothing": 0.0}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def examples(name: str, size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
  """Random images, with masks or labels."""
  rng = np.random.default_rng(0)
  images = rng.standard_normal((batch, size, size, 3), dtype=np.float32)
  if name in CLASSIFIERS:
    return images, rng.integers(0, 2, batch).astype(np.int32)
  return images, (rng.random((batch, size, size, 1)) < 0.05).astype(np.float32)


def training_step(
  name: str, width: int, images: np.ndarray, targets: np.ndarray, dtype: str
) -> tuple[Callable, TrainState, dict[str, jax.Array]]:
  """Our training step, not yet traced, with its first state and its batch."""
  task = TASKS["classification" if name in CLASSIFIERS else "segmentation"](INFO)
  model = configured_model(MODELS, {"name": name, "width": width, "dtype": DTYPES[dtype]})
  optimizer = make_optimizer(name="adamw", momentum=0.9, epsilon=1e-8, weight_decay=1e-4)
  mesh, batch = sharding.make_mesh(), len(images)
  masks, labels = (targets, np.ones(batch, np.int32)) if targets.ndim > 1 else (images[..., :1], targets)
  arrays = {"image": images, "mask": masks, "label": labels, "weight": np.ones(batch, np.float32)}
  data = sharding.lay_out(mesh, arrays, batch)
  state = jax.device_put(
    jax.jit(lambda: init_state(model, optimizer, size=images.shape[1], channels=3, seed=0, average=False))(),
    sharding.replicated(mesh),
  )
  components = types.SimpleNamespace(
    model=model,
    task=task,
    preprocess=lambda batch, augment=None, key=None: (batch["image"], batch["mask"]),
    augment=UNCHANGED,
    loss=make_loss(name="cross_entropy" if name in CLASSIFIERS else "bce_dice", **LOSS),
    optimizer=optimizer,
    kept_statistics=(),
  )
  options = types.SimpleNamespace(ema_decay=0.0, mixup=0.0, accumulate=1, remat=False, seed=0)
  step = make_train_step(components, options)
  return sharding.compile_step("jit", step, mesh, cut=(False, True, False), train=True), state, data


def ours(name: str, width: int, images: np.ndarray, targets: np.ndarray, *, dtype: str) -> dict[str, Any]:
  """Functions that run one step and wait for it, and the costs of the compiled programs."""
  train, state, data = training_step(name, width, images, targets, dtype)
  model = configured_model(MODELS, {"name": name, "width": width, "dtype": DTYPES[dtype]})
  activation = jax.nn.softmax if name in CLASSIFIERS else jax.nn.sigmoid
  predict_step = lambda variables, images: activation(model.apply(variables, images))
  predict = sharding.compile_step("jit", predict_step, sharding.make_mesh(), cut=(False, True), cut_out=True)
  variables = jax.tree.map(jnp.copy, state.variables)
  train = train.lower(state, data, 1e-3).compile()
  predict = predict.lower(variables, data["image"]).compile()
  holder = [state]

  def training() -> None:
    holder[0], loss = train(holder[0], data, np.float32(1e-3))
    loss.block_until_ready()

  return {
    "training": training,
    "inference": lambda: predict(variables, data["image"]).block_until_ready(),
    "memory": lambda: train.memory_analysis().temp_size_in_bytes * len(jax.devices()),
    "counted": {"training": train.cost_analysis(), "inference": predict.cost_analysis()},
  }


def seconds(function: Callable[[], None]) -> float:
  """Seconds that one call takes."""
  started = time.perf_counter()
  function()
  return time.perf_counter() - started


def rates(dtype: str) -> tuple[float, float]:
  """Floating-point operations and bytes per second of one device, the best of several matrix products and copies."""
  size = 8192 if jax.default_backend() != "cpu" else 2048
  square = jnp.ones((size, size), DTYPES[dtype])
  long = jnp.ones(2**28 if jax.default_backend() != "cpu" else 2**25)
  product, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)
  best = lambda function, x: min(seconds(lambda: function(x).block_until_ready()) for _ in range(8))
  return 2 * size**3 / best(product, square), 2 * long.nbytes / best(copy, long)


def measure(peers: dict[str, Callable], name: str, size: int, args: argparse.Namespace, machine: tuple) -> None:
  """Prints the rows of one network at one size."""
  images, targets = examples(name, size, args.batch)
  functions = {peer: make(name, args.width, images, targets, dtype=args.dtype) for peer, make in peers.items()}
  if args.profile:
    with jax.profiler.trace(f"{args.profile}/{name}_{size}"):
      for _ in range(3):
        functions["bt_jax"]["training"]()
  for work in ("training", "inference"):
    times: dict[str, list[float]] = {peer: [] for peer in peers}
    for repeat, peer in itertools.product(range(args.repeats + 2), peers):
      taken = seconds(functions[peer][work])
      if repeat >= 2:  # the first two compile and warm up
        times[peer].append(taken)
    medians = [statistics.median(values) for values in times.values()]
    counted, devices = functions["bt_jax"]["counted"][work], len(jax.devices())
    flops, moved = (
      counted[key] * (devices if jax.default_backend() == "cpu" else 1) for key in ("flops", "bytes accessed")
    )
    limit = max(flops / machine[0], moved / machine[1]) / medians[0]
    ratio = f"{medians[1] / medians[0]:8.2f}" if len(medians) > 1 else f"{'-':>8}"
    line = f"{name:16}{work:10}{size:4}" + ratio
    line += "".join(timing.shown([args.batch / each for each in values], 1) for values in times.values())
    if work == "training":
      line += "".join(f"{of['memory']() / 1e6:10.0f}" if of["memory"] else f"{'-':>10}" for of in functions.values())
    else:
      line += " " * 10 * len(medians)
    print(f"{line}{limit:8.2f}", flush=True)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--models", default="lite_unet,lite,unet,resunet,resnet50")
  parser.add_argument("--sizes", default="128,256", help="pixels")
  parser.add_argument("--width", type=int, default=32, help="width of the U-Net")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, bfloat16 elsewhere")
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument(
    "--profile", help="folder for a trace of three of our training steps, for TensorBoard or Perfetto"
  )
  args = parser.parse_args()
  divide = [n for n in range(1, timing.cores() + 1) if args.batch % n == 0]
  jax.config.update("jax_num_cpu_devices", max(divide))
  args.dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
  peers, version = {"bt_jax": ours}, "not installed"
  try:
    import torch

    from benchmarks.peers import steps

    peers["PyTorch"], version = steps, torch.__version__
  except ImportError:
    pass
  with timing.measuring(f"jax {jax.__version__}", f"torch {version}"):
    device = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    print(f"devices: {device}; {args.dtype}, batch {args.batch}, U-Net of width {args.width}")
    print(f"slices per second, median of {args.repeats} and quartiles; then memory of a training step, ours first")
    widths = {"ratio": 8, "limit": 8, "quartiles": 14}
    heads = ["ratio", *(head for peer in peers for head in (peer, "quartiles")), *("MB" for _ in peers), "limit"]
    print(" " * 30 + "".join(f"{head:>{widths.get(head, 10)}}" for head in heads))
    machine = rates(args.dtype)
    for name, size in itertools.product(args.models.split(","), map(int, args.sizes.split(","))):
      measure(peers, name, size, args, machine)


if __name__ == "__main__":
  main()
