"""What a training step computes and communicates, from the compiled program, and how far it should scale.

  python benchmarks/scaling.py [--models=unet,unet/group,resunet,resnet50] [--size=256] [--batch-per-device=16]

A network with a slash has that `model.norm`. `--no-measure` leaves out the fourth table, the only one with times.

There are four tables. The first has the collectives of the program compiled for 1, 2, 4 and 8 virtual CPU devices (2
and 8 for all models except the first), in float32 and at a small image size, on which they do not depend. The second
has FLOPs at the requested size. The third has the efficiency predicted from both and from the manufacturers' rates. The
fourth has milliseconds measured on virtual devices. Nothing is measured on an accelerator. To compile faster, the
programs omit fusion, augmentation, the moving average and AdamW; one complete program is shown for comparison.

Three efficiencies are predicted, which differ in what is sent while the devices compute:

  lower    nothing: every all-reduce of the counted program waits for its own hops
  buckets  gradients, in buckets of 4 MiB while the backward pass, two thirds of the computing, goes on; their rest and the
           last bucket wait, and so does every other all-reduce. XLA sends all gradients at once by default; on GPUs
           `--xla_gpu_all_reduce_combine_threshold_bytes=4194304` and its latency-hiding scheduler split them up
  upper    everything, as one all-reduce: no schedule is better

An all-reduce goes by a ring or, where the machine has them, by double binary trees (NCCL), whichever is faster.
"""

import argparse
import collections
import concurrent.futures as futures
import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import re
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import timing
from bt_jax.distributed import sharding
from bt_jax.pipeline.preprocess import UNCHANGED
from bt_jax.runs.components import make_components
from bt_jax.training.step import make_train_step
from bt_jax.training.train_state import init_state
from configs import cls, seg


class Machine(NamedTuple):
  """Rates as stated by the manufacturers, not measured; those that they do not state are assumed."""

  flops: float  # bfloat16, per device and second, at its peak
  island: int  # devices joined by the fast link
  link: float  # bytes per second and device in the island
  network: float  # bytes per second and device between islands
  latency: float  # seconds of each hop in the island, assumed
  network_latency: float  # the same between islands
  trees: bool  # whether its library has trees, whose hops grow with the logarithm of the number of devices


MACHINES = {
  "H100": Machine(989e12, 8, 450e9, 50e9, 1e-6, 5e-6, True),  # NVLink one way; 400 Gb/s of network
  "TPU v5e": Machine(
    197e12, 256, 4 * 50e9, 6.25e9, 1e-6, 10e-6, False
  ),  # a pod of 256; its data-centre network is assumed
}
DEVICES = (1, 2, 4, 8)
BUCKET = 4 * 2**20  # bytes
BACKWARD = 2 / 3  # share of the computing
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
COLLECTIVE = re.compile(rf"= (\(.*?\)|\S+) ({KINDS})(?:-done)?\(")
SHAPE = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")  # bits and sizes
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_disable_hlo_passes": "fusion"}


def shape_bytes(shape: str) -> int:
  """Bytes of an HLO shape, or of all shapes in a tuple."""
  numbers = lambda sizes: map(int, filter(None, sizes.split(",")))
  return sum(int(bits or 8) * math.prod(numbers(sizes)) for bits, sizes in SHAPE.findall(shape)) // 8


def collectives(text: str) -> dict[str, list[int]]:
  """Output bytes of each collective of each kind in a program; asynchronous pairs count by their `-done`."""
  found: dict[str, list[int]] = collections.defaultdict(list)
  for line in text.splitlines():
    if match := COLLECTIVE.search(line):
      found[match[2]].append(shape_bytes(match[1]))
  return dict(found)


def ring(count: int, size: float, rate: float, latency: float) -> float:
  """Seconds of a ring all-reduce of `size` bytes over `count` devices."""
  return 2 * (count - 1) / count * size / rate + 2 * (count - 1) * latency if size else 0.0


def tree(count: int, size: float, rate: float, latency: float) -> float:
  """Seconds of an all-reduce by double binary trees: up and down at the full rate, by hops that double the distance."""
  return 2 * size / rate + 2 * math.ceil(math.log2(count)) * latency if size and count > 1 else 0.0


def all_reduce(machine: Machine, count: int, size: float) -> float:
  """Predicted seconds: one all-reduce in each island, then one between islands for each device's share."""
  inside = min(count, machine.island)
  quickest = lambda *link: min(way(*link) for way in ((ring, tree) if machine.trees else (ring,)))
  between = quickest(math.ceil(count / inside), size / inside, machine.network, machine.network_latency)
  return quickest(inside, size, machine.link, machine.latency) + between


def efficiencies(machine: Machine, devices: int, computing: float, gradients: int, others: list[int]) -> list[float]:
  """The share of a step's time that is computation: lower, in buckets, and upper, as in the docstring of this file.

  Args:
    machine: its rates.
    devices: their number.
    computing: seconds of a step on one device.
    gradients: bytes of the gradients.
    others: bytes of every other all-reduce of a step.
  """
  seconds = functools.partial(all_reduce, machine, devices)
  rest, sizes = sum(map(seconds, others)), [min(BUCKET, gradients - start) for start in range(0, gradients, BUCKET)]
  bucketed = max(sum(map(seconds, sizes)) - BACKWARD * computing, seconds(sizes[-1]))
  waiting = rest + seconds(gradients), rest + bucketed, max(seconds(gradients + sum(others)) - computing, 0)
  return [computing / (computing + each) for each in waiting]


def make_step(name: str, size: int, *, whole: bool = False, **fields) -> tuple:
  """The training step of a network, and a function for its first state; `fields` override those of the model."""
  name, _, norm = name.partition("/")
  config = cls.get_config("resnet50") if name == "resnet50" else seg.get_config("")
  config.data.update(size=size, normalize="volume")
  config.model.update(**{"name": name, "norm": norm or "batch", "pretrained": "", "dtype": "float32"} | fields)
  if not whole:
    config.train.update(optimizer="sgd", ema_decay=0.0)
  components = make_components(config)
  if not whole:
    components = dataclasses.replace(components, augment=UNCHANGED)
  shape = {"size": size, "channels": 3, "seed": 0, "average": config.train.ema_decay > 0}
  step = make_train_step(components, config.train)
  return step, functools.partial(init_state, components.model, components.optimizer, **shape)


def make_batch(size: int, count: int) -> dict[str, np.ndarray]:
  """A batch of `count` random slices."""
  rng = np.random.default_rng(0)
  return {
    "image": rng.integers(0, 256, (count, size, size, 3), np.uint8),
    "mask": rng.integers(0, 2, (count, size, size, 1), np.uint8),
    "label": np.arange(count, dtype=np.int32) % 2,
    "weight": np.ones(count, np.float32),
    "volume_mean": np.full((count, 3), 128, np.float32),
    "volume_std": np.full((count, 3), 74, np.float32),
  }


def lower(step, init, size: int, devices: int, batch_per_device: int) -> jax.stages.Lowered:
  """The lowered step for a batch sharded over so many devices."""
  mesh = sharding.make_mesh(jax.devices()[:devices])
  jitted = sharding.compile_step("jit", step, mesh, cut=(False, True, False), train=True)
  return jitted.lower(jax.eval_shape(init), make_batch(size, devices * batch_per_device), np.float32(0.1))


def expected_bytes(init) -> tuple[int, int]:
  """Bytes of the gradient, and of batch norm's additional collectives, as many as its statistics have."""
  variables = jax.eval_shape(init).variables
  size = lambda part: 4 * sum(leaf.size for leaf in jax.tree.leaves(variables[part]))
  return size("params"), size("batch_stats")


def count(name: str, size: int, devices: tuple[int, ...], *, whole: bool = False) -> tuple[int, list[int]]:
  """Prints and checks the collectives of the programs; returns the bytes of the gradients, and of all other all-reduces."""
  step, init = make_step(name, size, whole=whole)
  label, gradients = f"{name}, whole" if whole else name, sum(expected_bytes(init))
  lowered = [lower(step, init, size, number, 2) for number in devices]
  with futures.ThreadPoolExecutor(2) as pool:
    programs = list(pool.map(lambda one: one.compile(compiler_options=FAST_COMPILE), lowered))
  flops, sent = [], []
  for number, compiled in zip(devices, programs, strict=True):
    found, cost = collectives(compiled.as_text()), compiled.cost_analysis()
    sizes = sorted(found.pop("all-reduce", []))
    times, size_sent = len(sizes), sum(sizes)
    expected = gradients if number > 1 else 0
    row = f"{label:16}{number:8}{times:12}{size_sent:14,}{expected:14,}{size_sent - expected:8}"
    print(f"{row}{cost['flops'] / 1e9:10.3f}{cost['bytes accessed'] / 1e9:10.3f}  {found or 'none'}", flush=True)
    flops.append(cost["flops"])
    sent.append(size_sent)
    if found or not 0 <= size_sent - expected <= 64:
      sys.exit(f"{label} on {number} devices sends other than gradients, batch norm's sums and a few of the loss")
  if len({size for size in sent if size}) > 1 or max(flops) > 1.02 * min(flops):
    sys.exit(f"{label}: what a device sends or computes depends on the number of devices")
  params = expected_bytes(init)[0]  # the largest all-reduce; what else it holds counts as one of its own, so as slower
  return params, [*sizes[:-1], sizes[-1] - params] if sizes[-1] > params else sizes[:-1]


def measure(size: int, batch: int, devices: int) -> list[float]:
  """Milliseconds of each of ten steps of a small U-Net on virtual devices."""
  step, init = make_step("unet", size, width=8)
  mesh = sharding.make_mesh(jax.devices()[:devices])
  compiled = sharding.compile_step("jit", step, mesh, cut=(False, True, False), train=True)
  state = jax.device_put(init(), sharding.replicated(mesh))
  data = sharding.lay_out(mesh, make_batch(size, batch), batch)
  times = []
  for _ in range(12):
    started = time.perf_counter()
    state, loss = compiled(state, data, np.float32(1e-3))
    loss.block_until_ready()
    times.append(1000 * (time.perf_counter() - started))
  return times[2:]  # the first two compile and warm up


def main() -> None:
  """Prints the four tables."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--models", default="unet,unet/group,resunet,resnet50")
  parser.add_argument("--size", type=int, default=256)
  parser.add_argument("--batch-per-device", type=int, default=16)
  parser.add_argument("--fraction", type=float, default=0.4, help="assumed share of the peak FLOP/s")
  parser.add_argument("--check-size", type=int, default=64, help="image size of the compiled programs, in pixels")
  parser.add_argument("--measure", action=argparse.BooleanOptionalAction, default=True, help="the fourth table too")
  rates = [field for field in Machine._fields if field != "trees"]
  for field in rates:
    parser.add_argument(
      f"--{field.replace('_', '-')}", type=float, help="value for all machines, instead of the stated"
    )
  args = parser.parse_args()
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={max(DEVICES)}"
  jax.config.update("jax_platforms", "cpu")
  given = {field: getattr(args, field) for field in rates if getattr(args, field) is not None}
  timing.pin_threads()
  with timing.measuring(f"jax {jax.__version__}") if args.measure else contextlib.nullcontext():
    predict(args, {label: stated._replace(**given) for label, stated in MACHINES.items()})
    if not args.measure:
      return
    print(f"\nmeasured: U-Net of width 8, {args.check_size} x {args.check_size} pixels, 8 slices in all; milliseconds")
    print("virtual devices share the cores: what cutting and collectives add shows, and no speed-up")
    for devices in DEVICES:
      print(f"{devices} virtual devices{timing.shown(measure(args.check_size, 8, devices), 1)}", flush=True)


def predict(args: argparse.Namespace, machines: dict[str, Machine]) -> None:
  """Prints the tables of what is counted, and of what is predicted from it."""
  models = args.models.split(",")
  print(f"\ncounted per device and step, {args.check_size} x {args.check_size} pixels, 2 slices per device, float32")
  print("step             devices all-reduces    bytes sent      expected    rest     GFLOP        GB  other kinds")
  sent = {name: count(name, args.check_size, DEVICES if name == models[0] else (2, 8)) for name in models}
  count(models[0], args.check_size, (2,), whole=True)
  print("expected: 4 bytes for each parameter and 8 for each channel of batch norm; the rest are sums of the loss")
  print(f"\nFLOPs per device and step, {args.size} x {args.size} pixels, {args.batch_per_device} slices per device")
  flops = {}
  for name in models:
    lowered = lower(*make_step(name, args.size, whole=True), args.size, 1, args.batch_per_device)
    flops[name] = lowered.cost_analysis()["flops"]
    print(f"{name:16}{flops[name] / 1e12:8.3f} TFLOP", flush=True)
  print(f"\npredicted efficiency, at {args.fraction:g} of the peak; rates are stated or assumed, not measured")
  print("lower: nothing is sent while computing; buckets: gradients are, in buckets; upper: everything is, at once")
  print("machine   step            devices  computing ms     lower   buckets     upper")
  for label, machine in machines.items():
    for name in models:
      computing = flops[name] / (machine.flops * args.fraction)
      for devices in (8, 64, 512):
        shares = efficiencies(machine, devices, computing, *sent[name])
        print(f"{label:10}{name:16}{devices:7}{1e3 * computing:14.2f}" + "".join(f"{share:10.1%}" for share in shares))


if __name__ == "__main__":
  main()
