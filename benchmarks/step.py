"""Training and inference slices per second of the U-Net, beside the same network in PyTorch.

  python benchmarks/step.py [--width=8] [--sizes=128,256] [--batch=8] [--repeats=7]

Both in float32, in one process, in turn; medians and their ratio. What is timed is the network: forward, and for
training backward and AdamW with the sum of binary cross-entropy and Dice. Input is on the device already, without
augmentation. Without torch (`pip install torch`) only ours is timed.
"""

import argparse
import functools
import itertools
import os
import pathlib
import platform
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax.losses import make_loss
from bt_jax.models.unet import UNet
from bt_jax.training.optimizer import make_optimizer
from bt_jax.training.state import init_state
from bt_jax.training.step import make_train_step
from bt_jax.training.task import TASKS

LOSS = {
  "name": "bce_dice",
  "smooth": 1.0,
  "pooled": True,
  "fp_weight": 0.3,
  "fn_weight": 0.7,
  "exponent": 0.75,
  "label_smoothing": 0.0,
}


def ours(width: int, images: np.ndarray, masks: np.ndarray) -> dict:
  """Functions that take one step and wait for it."""
  model = UNet(width=width)
  optimizer = make_optimizer(lambda step: 1e-3, name="adamw", momentum=0.9, epsilon=1e-8, weight_decay=1e-4)
  state = init_state(model, optimizer, size=images.shape[1], channels=3, seed=0, average=False)
  ones = np.ones(len(images))
  arrays = {"image": images, "mask": masks, "label": ones.astype(np.int32), "weight": ones.astype(np.float32)}
  data = {name: jnp.asarray(array) for name, array in arrays.items()}
  preprocess = lambda batch, augment=None, key=None: (batch["image"], batch["mask"])
  step = jax.jit(
    make_train_step(
      model=model,
      task=TASKS["segmentation"],
      preprocess=preprocess,
      augment=lambda key, image, mask: (image, mask),
      loss=make_loss(**LOSS),
      optimizer=optimizer,
      ema_decay=0.0,
      mixup=0.0,
      kept_statistics=(),
      seed=0,
    ),
    donate_argnums=0,
  )
  predict = jax.jit(lambda variables, x: jax.nn.sigmoid(model.apply(variables, x)))
  indices = jnp.arange(len(images), dtype=jnp.int32)
  variables = jax.tree.map(jnp.copy, state.variables)
  holder = [state]

  def train() -> None:
    holder[0], loss = step(holder[0], data, indices)
    loss.block_until_ready()

  return {"training": train, "inference": lambda: predict(variables, data["image"]).block_until_ready()}


def pytorch(width: int, images: np.ndarray, masks: np.ndarray) -> dict:
  """The same in PyTorch, channels last."""
  import torch
  from torch import nn

  def block(inputs: int, outputs: int) -> nn.Sequential:
    layers = []
    for channels in (inputs, outputs):
      layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)

  class Net(nn.Module):
    def __init__(self, depth: int = 4):
      super().__init__()
      widths = [width * 2**level for level in range(depth + 1)]
      self.down = nn.ModuleList(itertools.starmap(block, itertools.pairwise([3, *widths])))
      self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in itertools.pairwise(widths))
      self.join = nn.ModuleList(block(2 * a, a) for a in widths[:-1])
      self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
      skips = []
      for level, layer in enumerate(self.down):
        x = layer(x if level == 0 else nn.functional.max_pool2d(x, 2))
        skips.append(x)
      for level in reversed(range(len(self.up))):
        x = self.join[level](torch.cat([skips[level], self.up[level](x)], 1))
      return self.head(x)

  device = "cuda" if torch.cuda.is_available() else "cpu"
  wait = torch.cuda.synchronize if device == "cuda" else lambda: None
  layout = functools.partial(torch.Tensor.contiguous, memory_format=torch.channels_last)
  net = Net().to(device, memory_format=torch.channels_last)
  x, y = (layout(torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).to(device)) for array in (images, masks))
  optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-4)

  def train() -> None:
    net.train()
    logits = net(x)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, y) + dice
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    wait()

  @torch.inference_mode()
  def predict() -> None:
    net.eval()
    net(x).sigmoid()
    wait()

  return {"training": train, "inference": predict}


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--width", type=int, default=8)
  parser.add_argument("--sizes", default="128,256")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=7)
  args = parser.parse_args()
  peers = {"bt_jax": ours}
  try:
    import torch

    peers["PyTorch"] = pytorch
    version = torch.__version__
  except ImportError:
    version = "not installed"
  print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; devices: {jax.devices()}")
  print(
    f"jax {jax.__version__}, torch {version}; U-Net of width {args.width}, batch {args.batch}, median of {args.repeats}"
  )
  print("slices per second:" + "".join(f"{name:>12}" for name in peers) + "       ratio")
  for size in map(int, args.sizes.split(",")):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((args.batch, size, size, 3), dtype=np.float32)
    masks = (rng.random((args.batch, size, size, 1)) < 0.05).astype(np.float32)
    functions = {name: make(args.width, images, masks) for name, make in peers.items()}
    for work in ("training", "inference"):
      times: dict[str, list[float]] = {name: [] for name in peers}
      for repeat, name in itertools.product(range(args.repeats + 2), peers):
        started = time.perf_counter()
        functions[name][work]()
        if repeat >= 2:  # the first compile and warm up
          times[name].append(time.perf_counter() - started)
      speeds = [args.batch / statistics.median(values) for values in times.values()]
      ratio = f"{speeds[0] / speeds[1]:12.2f}" if len(speeds) > 1 else f"{'-':>12}"
      print(f"{work:10}{size:4}x{size:<3}" + "".join(f"{speed:12.1f}" for speed in speeds) + ratio)


if __name__ == "__main__":
  main()
