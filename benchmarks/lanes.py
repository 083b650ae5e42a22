"""One training on all cores beside several, each on its share of them, as `crossval.parallel` runs folds.

  python benchmarks/lanes.py [--lanes=2] [--model=lite_unet] [--size=192] [--batch=16] [--repeats=5]

Ours and the same network in PyTorch, if it is installed. Each training is a process of its own, which is kept on its
cores and has a device, or a thread of PyTorch, for each of them; all are prepared before the first is timed. Timed are
the steps of benchmarks/step.py, input and validation left out. The four arrangements take turns; in each, the processes
train for the same seconds at the same time, while the others wait. CPUs only.
"""

import argparse
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from multiprocessing.connection import Connection

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import timing

SPAWN = multiprocessing.get_context("spawn")
WARM_UP = 2  # steps


def train(peer: bool, name: str, size: int, batch: int, connection: Connection) -> None:
  """Trains for as many seconds as it receives, each time, and sends back the slices per second; ends at 0 seconds."""
  import jax

  from benchmarks import step

  timing.pin_threads()
  jax.config.update("jax_num_cpu_devices", max(n for n in range(1, timing.cores() + 1) if batch % n == 0))
  make = step.ours
  if peer:
    import torch

    from benchmarks.peers import steps

    torch.set_num_threads(timing.cores())
    make = steps
  training = make(name, 32, *step.examples(name, size, batch), dtype="float32")["training"]
  for _ in range(WARM_UP):
    training()
  connection.send(len(os.sched_getaffinity(0)))
  while seconds := connection.recv():
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
      training()
      done += batch
    connection.send(done / (time.perf_counter() - started))


def start(lanes: list, *arguments) -> list[Connection]:
  """Starts a training on each lane, and waits until all are prepared."""
  connections = []
  for lane in lanes:
    ours, theirs = SPAWN.Pipe()
    with lane.for_new_processes():
      SPAWN.Process(target=train, args=(*arguments, theirs), daemon=True).start()
    connections.append(ours)
  for connection in connections:
    connection.recv()
  return connections


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", default="lite_unet")
  for name, default in {"lanes": 2, "size": 192, "batch": 16, "repeats": 5}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
  parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
  args = parser.parse_args()
  import importlib.metadata
  import importlib.util

  from bt_jax.distributed import lanes

  torch = importlib.util.find_spec("torch") is not None
  versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", *(["torch"] if torch else []))]
  cores = lanes.Devices("cores", [str(core) for core in sorted(os.sched_getaffinity(0))])
  if args.lanes > len(cores.names):
    sys.exit(f"--lanes is {args.lanes}, and there are {len(cores.names)} cores: take {len(cores.names)} or fewer")
  with timing.measuring(*versions):
    what = args.model, args.size, args.batch
    sides = {
      (side, count): start(lanes.share_out(str(count), count, cores), peer, *what)
      for side, peer in {"bt_jax": False, **({"PyTorch": True} if torch else {})}.items()
      for count in (1, args.lanes)
    }
    rates: dict[tuple[str, int], list[list[float]]] = {side: [] for side in sides}
    for _ in range(args.repeats):
      for side, connections in sides.items():
        for connection in connections:
          connection.send(args.seconds)
        rates[side].append([connection.recv() for connection in connections])
    print(f"\n{args.model} at {args.size}x{args.size}, batch {args.batch}, float32; slices per second of training")
    print(f"median of {args.repeats} and quartiles; gain: beside one training on all cores")
    print(f"{'':10}{'trainings':>10}{'cores each':>12}{'each':>10}{'sum':>10}{'quartiles':>14}{'gain':>8}")
    for (side, count), rows in rates.items():
      sums = [sum(row) for row in rows]
      gain = statistics.median(sums) / statistics.median(row[0] for row in rates[side, 1])
      each = statistics.median(rate for row in rows for rate in row)
      print(f"{side:10}{count:10}{len(cores.names) // count:12}{each:10.1f}{timing.shown(sums, 1)}{gain:8.2f}")


if __name__ == "__main__":
  main()
