"""Seconds from the command to the first step and to the first mask, cold and warm, and for imports and help.

  python benchmarks/startup.py [--repeats=5] [--config=configs/seg.py:phantom] [--checkpoint=lgg]

Each measurement is its own process; all are repeated in turn, and medians are printed: of seconds, and of the seconds
that processors worked, which other work on the machine changes less. Cold is with an empty JAX_COMPILATION_CACHE_DIR,
warm with the one just filled. The data set is built before. A run is killed at its first step; a prediction is of a
synthetic head of 24 slices, and all its files are written. The import of torch is measured only if torch is
installed. Behind each median of seconds are the quartiles.
"""

import argparse
import collections
import importlib.util
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import timing

ROOT = pathlib.Path(__file__).parent.parent
FIRST_STEP = re.compile(r"first step after ([\d.]+) s")
MODES = ("predict", "serve", "train")


def processor_seconds() -> float:
  """Seconds that processors worked for processes that were started here and have ended."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def command(*arguments: str, **variables: str) -> tuple[float, float]:
  """Seconds until Python with these arguments exits, and those of processors; it may fail, but not with a traceback."""
  started, used = time.perf_counter(), processor_seconds()
  done = subprocess.run(
    [sys.executable, *arguments], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
  )
  seconds = time.perf_counter() - started
  if "Traceback" in done.stderr:
    sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
  return seconds, processor_seconds() - used


def first_mask(checkpoint: str, scan: str, cache: str) -> tuple[float, float]:
  """Seconds from the command to the mask of a scan with all other files, and those of processors."""
  with tempfile.TemporaryDirectory() as work:
    options = (f"--checkpoint={checkpoint}", f"--input={scan}", f"--output={work}/mask")
    times = command("launch.py", "--mode=predict", *options, JAX_COMPILATION_CACHE_DIR=cache)
    if not list(pathlib.Path(work).glob("mask/mask.*")):
      sys.exit(f"no mask of {scan} was written: run launch.py --mode=predict {' '.join(options)}")
  return times


def first_step(*arguments: str, cache: str) -> tuple[float, float, float]:
  """Seconds until launch.py reports its first step, those of processors, and those that it reports itself."""
  environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "PYTHONUNBUFFERED": "1"}
  used = processor_seconds()
  with tempfile.TemporaryDirectory() as work, tempfile.TemporaryFile("w+") as errors:
    started = time.perf_counter()
    with subprocess.Popen(
      [sys.executable, "launch.py", *arguments, f"--workdir={work}/run"],
      cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=errors,
    ) as process:  # fmt: skip
      for line in process.stdout:
        if match := FIRST_STEP.match(line):
          seconds = time.perf_counter() - started
          process.kill()
          process.wait()
          return seconds, processor_seconds() - used, float(match[1])
    errors.seek(0)
    sys.exit(f"launch.py ended before its first step:\n{errors.read()}")


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--config", default="configs/seg.py:phantom")
  parser.add_argument("--checkpoint", default="lgg")
  args = parser.parse_args()
  commands = {
    "help": ("launch.py", "--help"),
    "a misspelt flag": ("launch.py", "--confgi=x"),
    "import bt_jax": ("-c", "import bt_jax"),
    **{f"import bt_jax.modes.{mode}": ("-c", f"import bt_jax.modes.{mode}") for mode in MODES},
  }
  if importlib.util.find_spec("torch"):
    commands["import torch"] = ("-c", "import torch")
  times: dict[str, list[tuple[float, ...]]] = collections.defaultdict(list)
  timing.pin_threads()
  with tempfile.TemporaryDirectory() as work, timing.measuring():
    os.environ["TMPDIR"] = work  # removes the files that killed processes leave
    run = (f"--config={args.config}", f"--config.data.dir={work}/data")
    command("launch.py", "--mode=build", *run)
    command("-m", "bt_jax.datasets.samples", "--head", f"{work}/head")
    for _ in range(args.repeats):
      for name, arguments in commands.items():
        times[name].append(command(*arguments))
      with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
          times[f"first mask, {state}"].append(first_mask(args.checkpoint, f"{work}/head", cache))
          times[f"first step, {state}"].append(first_step(*run, cache=cache))
    print(
      f"{args.config}, {args.checkpoint}, seconds, median of {args.repeats} and quartiles; then those of processors"
    )
    for name, values in times.items():
      seconds, used, *own = zip(*values, strict=True)
      clock = "".join(f"{statistics.median(one):8.1f} by its own clock" for one in own)
      print(f"{name:27}{timing.shown(seconds)}{statistics.median(used):8.2f}{clock}")


if __name__ == "__main__":
  main()
