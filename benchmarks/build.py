"""Time and memory of building a data set, compared with reading the same files once, with Pillow or NiBabel.

  python benchmarks/build.py --root=DIR        DIR holds kaggle_3m/; without it, the synthetic data set
  python benchmarks/build.py --own=100         own data: so many synthetic cases of 240 x 240 x 155 voxels, four sequences

A loader without a built data set reads every file at each start. Each repeat runs in its own process, alternating
between the two; the peak is of resident memory. Behind each median are the quartiles.
"""

import argparse
import json
import multiprocessing
import pathlib
import re
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import timing

OWN = "own"
SHAPE = (240, 240, 155)
SEQUENCES = {"t1n": (400, 350, 300), "t1c": (420, 380, 900), "t2w": (400, 800, 700), "t2f": (450, 900, 800)}
FILES_OF_A_CASE = len(SEQUENCES) + 1


def write_cases(root: str, cases: int) -> None:
  """Writes synthetic cases in BraTS's layout and size: a brain, a fifth of each volume, with noise and a tumour of two labels."""
  import gzip

  import nibabel
  import numpy as np

  x, y, z = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in SHAPE), indexing="ij")
  brain = (x / 0.62) ** 2 + (y / 0.75) ** 2 + (z / 0.9) ** 2 < 1
  noise = np.random.default_rng(0).normal(0, 40, SHAPE).astype(np.float32)
  for case in range(cases):
    centre = np.random.default_rng(case + 1).uniform(-0.3, 0.3, 3)
    distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
    labels = brain * ((distance < 0.3).astype(np.uint8) + (distance < 0.2))
    name = f"BraTS-GLI-{case:05d}-000"
    folder = pathlib.Path(root, name)
    folder.mkdir(parents=True)
    volumes = {"seg": labels}
    for number, (sequence, levels) in enumerate(SEQUENCES.items()):
      values = np.array(levels, np.float32)[labels] + np.roll(noise, 7 * case + 31 * number, axis=0)
      volumes[sequence] = np.where(brain, values, 0).astype(np.int16)
    for sequence, values in volumes.items():
      image = nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]))
      image.header.set_xyzt_units("mm")
      (folder / f"{name}-{sequence}.nii.gz").write_bytes(gzip.compress(image.to_bytes(), compresslevel=1))


def build(root: str, variant: str, data_dir: str) -> int:
  """Builds the data set; returns the number of slices."""
  from bt_jax.datasets.lgg_mri import lgg_source
  from bt_jax.datasets.own_data.source import OwnSource

  if variant == OWN:
    return OwnSource(root, data_dir).open_or_build().info.splits.total_num_examples
  return lgg_source.open_or_build(variant, root=root, data_dir=data_dir).info.splits.total_num_examples


def read(root: str, variant: str, data_dir: str) -> int:
  """Reads every file of the tree; returns the number of slices."""
  import nibabel
  import numpy as np
  from PIL import Image

  del data_dir
  if variant == OWN:  # one after the other: all of them may not fit in memory
    files = sorted(pathlib.Path(root).rglob("*.nii.gz"))
    return sum(np.asarray(nibabel.load(file).dataobj).shape[2] for file in files) // FILES_OF_A_CASE
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
  parser.add_argument(
    "--own", type=int, metavar="CASES", help="own data instead: the number of synthetic cases, five or more"
  )
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()
  timing.pin_threads()
  with tempfile.TemporaryDirectory() as work, timing.measuring():
    variant, root = "full", args.root
    if args.own:
      variant, root = OWN, work
      write_cases(work, args.own)
    elif root is None:
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
    name = f"own data, {args.own} cases" if args.own else f"lgg_mri/{variant}"
    print(f"\n{name}, {results['build'][0][0]} slices, seconds, median of {args.repeats} and quartiles; megabytes")
    columns = {name: [*zip(*rows, strict=True)] for name, rows in results.items()}
    for name, (_, seconds, peaks) in columns.items():
      print(f"{name:16}{timing.shown(seconds, 1)}{statistics.median(peaks):8.0f} MB")
    built, read_again = (statistics.median(columns[name][1]) for name in results)
    print(f"ratio           {built / read_again:10.2f}")


if __name__ == "__main__":
  main()
