"""One epoch of training, input included, compared with a PyTorch loop like that of the public implementation.

  python benchmarks/epoch.py --root=DIR        DIR holds kaggle_3m/; without it, the synthetic data set

Ours is the feed and step of configs/seg.py. The peer is modelled on mateuszbuda/brain-segmentation-pytorch: DataLoader
processes scale, rotate and mirror slices that are z-scored by volume; it has a U-Net, Dice and Adam, and fetches the
loss at every step. As in that repository, all slices are in memory (`memory`, compared with our `resident`); `files`
reads the TIFF files (compared with our `stream`).

Same in both: slices, full batches only, sizes, network, number of reading processes (none for `resident`), and float32,
unless --dtype=bfloat16 sets ours to the type of configs/seg.py. Validation and one-time work are left out. Different:
ours also shifts, changes gamma and adds noise, inside the step. The peer warps once with SciPy, the repository twice
with scikit-image. Our loss is BCE and Dice, with AdamW. The peer neither crops to the brain nor samples slices by
tumour. It starts its processes every epoch, as a DataLoader does by default; ours persist and prefetch a few batches.
PyTorch runs with its defaults, neither compiled nor channels last. Epochs alternate. Its threads stall on a busy CPU:
see --threads.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import multiprocessing
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from PIL import Image
from scipy import ndimage

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import timing

BESIDE = {"bt_jax, resident": "PyTorch, memory", "bt_jax, stream": "PyTorch, files"}
Epoch = Callable[[], tuple[float, float]]  # returns its seconds, and how many of them it waited for input


def ours(config, data, kind: str) -> Epoch:
  """Makes a function that trains an epoch, as bt_jax.training.loop does."""
  from bt_jax.pipeline import feed
  from bt_jax.runs import input_pipeline, restoring
  from bt_jax.runs.components import make_components

  config.feed = kind
  parts = make_components(config, "volume")
  groups = feed.sampling_groups(config.train.sampling, data.labels("train"))
  length = len(data.split.train) // config.train.batch_size
  rates = np.full(config.train.epochs * length, config.train.learning_rate, np.float32)
  pipeline = input_pipeline.make_input_pipeline(
    config, parts, data, groups=groups, rates=rates, start=0, stack=contextlib.ExitStack()
  )
  state, done = restoring.first_state(config, parts, abstract=False), 0

  def epoch() -> tuple[float, float]:
    nonlocal state, done
    started, waited, end = time.perf_counter(), 0.0, done + length
    while done < end:
      asking = time.perf_counter()
      steps, arguments = pipeline.take(done, end - done)
      waited += time.perf_counter() - asking
      state, loss = pipeline.step(state, *arguments)
      done += steps
      if done // 10 > (done - steps) // 10 or done == end:
        float(loss)
    return time.perf_counter() - started, waited

  return epoch


class Items:
  """The data set of the peer: augmented images and masks, float32 [3, size, size] and [1, size, size]."""

  def __init__(self, files: tuple, size: int, in_memory: bool):
    self.files, self.size = files, size
    self.held = [self.read(at) for at in range(len(files))] if in_memory else None

  def __len__(self) -> int:
    return len(self.files)

  def read(self, at: int) -> tuple[np.ndarray, np.ndarray]:
    *paths, mean, std = self.files[at]
    image, mask = (np.asarray(Image.open(path).resize((self.size, self.size), Image.BILINEAR)) for path in paths)
    image = (image - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(image.transpose(2, 0, 1)), (mask >= 128).astype(np.float32)

  def __getitem__(self, at: int) -> tuple[np.ndarray, np.ndarray]:
    image, mask = self.held[at] if self.held else self.read(at)
    (angle, scale), mirror = np.random.uniform((-np.pi / 12, 0.95), (np.pi / 12, 1.05)), np.random.choice((-1, 1))
    matrix = np.array([[np.cos(angle), -mirror * np.sin(angle)], [np.sin(angle), mirror * np.cos(angle)]]) / scale
    centre = np.full(2, (self.size - 1) / 2)
    warp = lambda channel, order: ndimage.affine_transform(channel, matrix, centre - matrix @ centre, order=order)
    return np.stack([warp(channel, 1) for channel in image]), warp(mask, 0)[None]


@functools.cache
def make_peer(files: tuple, size: int, width: int, batch: int, workers: int, threads: int, in_memory: bool) -> Epoch:
  """Makes the peer, and reads its data."""
  import torch
  from peers import UNet

  torch.set_num_threads(threads or torch.get_num_threads())
  device = "cuda" if torch.cuda.is_available() else "cpu"
  net = UNet(width).to(device)
  optimizer = torch.optim.Adam(net.parameters(), 1e-4)
  items = Items(files, size, in_memory)
  loader = torch.utils.data.DataLoader(items, batch, shuffle=True, drop_last=True, num_workers=workers)

  def epoch() -> tuple[float, float]:
    started = asking = time.perf_counter()
    waited = 0.0
    for pair in loader:
      waited += time.perf_counter() - asking
      x, y = (tensor.to(device) for tensor in pair)
      optimizer.zero_grad()
      p = net(x).sigmoid()
      loss = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
      loss.item()
      loss.backward()
      optimizer.step()
      asking = time.perf_counter()
    if device == "cuda":
      torch.cuda.synchronize()
    return time.perf_counter() - started, waited

  return epoch


def peer(*arguments) -> tuple[float, float]:
  """Trains an epoch in PyTorch; the first call makes the peer."""
  return make_peer(*arguments)()


def list_files(root: str, ids: Sequence[str]) -> tuple:
  """For each slice, the files of image and mask, and the mean and standard deviation of its volume."""
  from bt_jax.datasets.lgg_mri import kaggle_tree

  found = {}
  for case in kaggle_tree.read_tree(root, expect_full=False).cases:
    volume, _ = kaggle_tree.read_case(case)
    moments = tuple(volume.mean((0, 1, 2))), tuple(np.maximum(volume.std((0, 1, 2)), 1))
    found |= {f"{case.name}/{files.number}": (files.image, files.mask, *moments) for files in case.slices}
  return tuple(found[name] for name in ids)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--root", help="folder that holds kaggle_3m/; default: synthetic data")
  for name, default in {"size": 256, "width": 32, "batch": 16, "repeats": 3}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
  parser.add_argument("--slices", type=int, default=0, help="slices per epoch; 0: all training slices")
  parser.add_argument("--workers", type=int, default=4, help="reading processes; the public loop has 4")
  parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch on a CPU; 0: one for each core")
  parser.add_argument("--dtype", default="float32", help="dtype of our computation")
  args = parser.parse_args()
  timing.pin_threads(args.threads)
  import jax

  from bt_jax.distributed import setup
  from bt_jax.runs import provenance, run_data
  from bt_jax.runs.components import make_components
  from configs import seg

  config, spawn = seg.get_config(), multiprocessing.get_context("spawn")
  versions = f"jax {jax.__version__}", f"torch {importlib.metadata.version('torch')}"
  with timing.measuring(*versions), tempfile.TemporaryDirectory() as work, ProcessPoolExecutor(1, spawn) as pool:
    config.update_from_flattened_dict({
      "data.name": "lgg" if args.root else "phantom", "data.root": args.root or work, "data.dir": work,
      "data.size": args.size, "data.workers": args.workers, "model.width": args.width, "model.dtype": args.dtype,
      "train.batch_size": args.batch, "train.epochs": args.repeats + 1,
    })  # fmt: skip
    setup.prepare(config)
    data = run_data.open_data(config, make_components(config, "volume"))
    count = len(data.split.train[: args.slices or None])
    ids = data.split.train[: count - count % args.batch]
    data = dataclasses.replace(data, split=dataclasses.replace(data.split, train=ids))
    sides = {f"bt_jax, {kind}": ours(config, data, kind) for kind in ("resident", "stream")}
    theirs = list_files(config.data.root, ids), args.size, args.width, args.batch, args.workers, args.threads
    sides["PyTorch, memory"] = lambda: pool.submit(peer, *theirs, True).result()
    sides["PyTorch, files"] = lambda: pool.submit(peer, *theirs, False).result()
    turns = [[epoch() for epoch in sides.values()] for _ in range(args.repeats + 1)]
    print(
      f"\n{provenance.devices()}; {data.title}, {len(ids)} slices of {args.size}x{args.size}; U-Net of width {args.width}, "
      f"ours in {args.dtype}, batch {args.batch}, {args.workers} workers, --threads={args.threads}; median of {args.repeats} "
      "epochs, and quartiles"
    )
    times = dict(zip(sides, zip(*turns[1:], strict=True), strict=True))  # the first turn compiles and warms up
    print(f"{'':20}{'seconds':>10}{'quartiles':>14}{'slices/s':>10}{'waiting':>10}{'peer/ours':>11}")
    medians = {name: statistics.median(seconds for seconds, _ in rows) for name, rows in times.items()}
    for name, rows in times.items():
      waiting, median = statistics.median(waited / seconds for seconds, waited in rows), medians[name]
      ratio = f"{medians[BESIDE[name]] / median:11.2f}" if name in BESIDE else ""
      seconds = timing.shown([seconds for seconds, _ in rows])
      print(f"{name:20}{seconds}{len(ids) / median:10.1f}{waiting:10.1%}{ratio}")


if __name__ == "__main__":
  main()
