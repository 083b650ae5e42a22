"""Time and memory against the number of slices, the image size and the batch.

  python benchmarks/growth.py [--root=DIR]     DIR holds kaggle_3m/; without it, the synthetic data set

Every row is its own process. Milliseconds are the median and the quartiles around it. After each block comes the slope
of a line fitted in log-log: 1 for linear growth, 0 for none.

The feeds alone, for shares of the training slices; with a share above 1, slices are repeated. `ready` is the time from
opening a feed to its first batch, including the start of a stream's processes; then batches are timed. Memory is the
peak of resident memory on the host minus the peak before; on a CPU it includes `resident` slices. Workers, the reading
processes, are counted in full. Linux only.

The training step, for image sizes at the middle batch size, and for batch sizes at the middle image size. Memory is
what the compiled step needs in addition to its arguments, on each device. Ten times the real data takes 10 GB: pass
--shares=0.1,1 to avoid that.
"""

import argparse
import contextlib
import dataclasses
import math
import multiprocessing
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import timing

QUARTILES = ("ms, lower", "ms, median", "ms, upper")


def prepare(fields: dict) -> tuple:
  """Makes the configuration, components and data."""
  from bt_jax.distributed import setup
  from bt_jax.runs import run_data
  from bt_jax.runs.components import make_components
  from configs import seg

  config = seg.get_config()
  config.update_from_flattened_dict({"model.dtype": "float32", "train.steps_per_dispatch": 1, **fields})
  setup.prepare(config)
  parts = make_components(config, "volume")
  return config, parts, run_data.open_data(config, parts)


def build(fields: dict) -> str:
  """Builds the data set; returns a text on the data and the devices."""
  from bt_jax.runs import provenance

  _, _, data = prepare(fields)
  return f"{data.title}, {len(data.split.train)} slices train; {provenance.devices()}"


def open_pipeline(config, parts, data, ids: Sequence[str], steps: int):
  """The input pipeline of training on these slices."""
  from bt_jax.pipeline import feed
  from bt_jax.runs import input_pipeline

  entries = {entry.id: entry for entry in data.index}
  data = dataclasses.replace(
    data, index=[entries[name] for name in ids], split=dataclasses.replace(data.split, train=ids)
  )
  groups = feed.sampling_groups(config.train.sampling, data.labels("train"))
  rates, stack = np.full(steps, 1e-3, np.float32), contextlib.ExitStack()
  return input_pipeline.make_input_pipeline(config, parts, data, groups=groups, rates=rates, start=0, stack=stack)


def peak(process: int | str = "self") -> float:
  """Peak memory in megabytes; `ru_maxrss` would include the memory of the parent process."""
  status = pathlib.Path(f"/proc/{process}/status").read_text()
  return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


def measure_feed(fields: dict, share: float, batches: int) -> tuple[float, ...]:
  """Slices, seconds until ready, milliseconds per batch in quartiles, additional megabytes, and those of all workers."""
  import jax

  config, parts, data = prepare(fields)
  ids = (data.split.train * math.ceil(share))[: round(share * len(data.split.train))]
  before, started = peak(), time.perf_counter()
  take = open_pipeline(
    config, parts, data, ids, batches + 100
  ).take  # more steps than are timed, so that the reading processes still exist
  jax.block_until_ready(take(0, 1))
  ready, taken = time.perf_counter() - started, []
  for step in range(1, batches + 1):
    asking = time.perf_counter()
    jax.block_until_ready(take(step, 1))
    taken.append(1000 * (time.perf_counter() - asking))
  workers = sum(peak(child.pid) for child in multiprocessing.active_children())
  return len(ids), ready, *timing.quartiles(taken), peak() - before, workers


def measure_step(fields: dict, repeats: int) -> tuple[float, ...]:
  """Milliseconds, in quartiles, and megabytes of a training step."""
  import jax

  from bt_jax.runs import restoring

  config, parts, data = prepare({**fields, "feed": "resident"})
  pipeline = open_pipeline(config, parts, data, data.split.train[: config.train.batch_size], 1)
  state, (_, arguments) = restoring.first_state(config, parts, abstract=False), pipeline.take(0, 1)
  compiled = jax.jit(pipeline.step, donate_argnums=0).lower(state, *arguments).compile()
  times = []
  for _ in range(repeats + 2):
    started = time.perf_counter()
    state, loss = compiled(state, *arguments)
    loss.block_until_ready()
    times.append(1000 * (time.perf_counter() - started))
  return *timing.quartiles(times[2:]), compiled.memory_analysis().temp_size_in_bytes / 2**20


def alone(function, *arguments):
  """Calls a function in its own process, with its output redirected to standard error."""
  with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), to_errors) as pool:
    return pool.submit(function, *arguments).result()


def to_errors() -> None:
  """Redirects the output of this process to standard error."""
  sys.stdout = sys.stderr


def print_block(names: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
  """Prints a table and the slopes of its columns against the first."""
  print("\n" + "".join(f"{name:>14}" for name in names))
  for row in rows:
    print(f"{row[0]:14.0f}" + "".join(f"{value:14.2f}" for value in row[1:]))
  if len(rows) > 1:
    x, *columns = np.log(np.maximum(np.array(rows).T, 1e-3))
    print(f"{'slope':>14}" + "".join(f"{np.polyfit(x, column, 1)[0]:14.2f}" for column in columns), flush=True)


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  numbers = lambda text: sorted(map(int, text.split(",")))
  parser.add_argument("--root", help="folder that holds kaggle_3m/; default: synthetic data")
  parser.add_argument("--shares", default="0.1,1,10", help="shares of the training slices")
  parser.add_argument("--batches", type=int, default=30, help="number of batches to time the feeds over")
  parser.add_argument("--workers", type=int, default=1, help="reading processes of the stream")
  parser.add_argument("--sizes", type=numbers, default="64,128,256")
  parser.add_argument("--batch_sizes", type=numbers, default="4,8,16")
  parser.add_argument("--width", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=5, help="repeats of a training step; the median is printed")
  args = parser.parse_args()
  size, batch = (values[len(values) // 2] for values in (args.sizes, args.batch_sizes))
  timing.pin_threads()
  with tempfile.TemporaryDirectory() as work, timing.measuring():
    fields = {
      "data.name": "lgg" if args.root else "phantom", "data.dir": work, "data.workers": args.workers,
      "data.size": size, "model.width": args.width, "train.batch_size": batch,
      "eval.batch_size": math.gcd(*args.batch_sizes),  # so that all use the same number of devices
    }  # fmt: skip
    told = alone(build, {**fields, "data.root": args.root})
    print(f"{told}; U-Net of width {args.width}, float32")
    for kind in ("resident", "stream"):
      rows = [
        alone(measure_feed, {**fields, "feed": kind}, float(share), args.batches) for share in args.shares.split(",")
      ]
      names = (f"{kind}: slices", "ready, s", *QUARTILES, "MB more", "MB of workers")
      print_block(names, [row if kind == "stream" else row[:-1] for row in rows])
    step = lambda size, batch: alone(
      measure_step, {**fields, "data.size": size, "train.batch_size": batch}, args.repeats
    )
    pairs = {*((each, batch) for each in args.sizes), *((size, each) for each in args.batch_sizes)}
    found = {pair: step(*pair) for pair in sorted(pairs)}
    print(f"\nthe training step in batches of {batch}, then at {size}x{size}:")
    print_block(("pixels", *QUARTILES, "MB"), [(s * s, *found[s, batch]) for s in args.sizes])
    print_block(("batch", *QUARTILES, "MB"), [(b, *found[size, b]) for b in args.batch_sizes])


if __name__ == "__main__":
  main()
