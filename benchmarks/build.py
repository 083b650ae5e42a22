"""Time and memory of building the data set, compared with reading the same TIFF files once with Pillow.

  python benchmarks/build.py --root=DIR        DIR holds kaggle_3m/; without it, the synthetic data set

A loader without a built data set reads every file at each start. Each repeat runs in its own process, alternating
between the two; the peak is of resident memory.
"""

import argparse
import json
import multiprocessing
import pathlib
import platform
import re
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))


def build(root: str, variant: str, data_dir: str) -> int:
  """Builds the data set; returns the number of slices."""
  from bt_jax.datasets import store

  return store.open_or_build(variant, root=root, data_dir=data_dir).info.splits.total_num_examples


def read(root: str, variant: str, data_dir: str) -> int:
  """Reads every file of the tree; returns the number of slices."""
  import numpy as np
  from PIL import Image

  del variant, data_dir
  files = sorted(pathlib.Path(root).rglob("*.tif"))
  volumes = [np.asarray(Image.open(file)) for file in files]
  return len(volumes) // 2


def measure(function, *arguments) -> None:
  """Runs in its own process, and writes slices, seconds and peak megabytes to a file."""
  started = time.perf_counter()
  slices = function(*arguments)
  seconds = time.perf_counter() - started
  status = pathlib.Path("/proc/self/status").read_text()  # getrusage would count the parent's peak too
  peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024
  pathlib.Path(arguments[-1], "measured").write_text(json.dumps([slices, seconds, peak]))


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--root", help="folder that holds kaggle_3m/; default: synthetic data")
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as work:
    variant, root = "full", args.root
    if root is None:
      from bt_jax.datasets.lgg_mri import phantom

      variant, root = "phantom", work
      phantom.write_tree(root)
    results: dict[str, list] = {"build": [], "read the files": []}
    for _ in range(args.repeats):
      for name, function in (("build", build), ("read the files", read)):
        with tempfile.TemporaryDirectory() as data_dir:
          process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(function, root, variant, data_dir)
          )
          process.start()
          process.join()
          results[name].append(json.loads(pathlib.Path(data_dir, "measured").read_text()))
  print(
    f"\n{platform.processor() or platform.machine()}, {multiprocessing.cpu_count()} cores, Python {platform.python_version()}"
  )
  print(f"lgg_mri/{variant}, {results['build'][0][0]} slices, median of {args.repeats}")
  medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()}
  for name, (_, seconds, peak) in medians.items():
    print(f"{name:16}{seconds:8.1f} s{peak:8.0f} MB")
  print(f"ratio           {medians['build'][1] / medians['read the files'][1]:8.2f}")


if __name__ == "__main__":
  main()
