"""Seconds from the command to the first step, cold and warm, and for imports and help.

  python benchmarks/startup.py [--repeats=5] [--config=configs/seg.py:phantom]

Each measurement is its own process; all are repeated in turn, and medians are printed. Cold is with an empty
JAX_COMPILATION_CACHE_DIR, warm with the one just filled. The data set is built before. A run is killed at its first
step. The import of torch is measured only if torch is installed. Behind each median are the quartiles.
"""

import argparse
import importlib.util
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import timing

ROOT = pathlib.Path(__file__).parent.parent
FIRST_STEP = re.compile(r"first step after ([\d.]+) s")


def command(*arguments: str) -> float:
  """Seconds until Python with these arguments exits; it may fail, but not with a traceback."""
  started = time.perf_counter()
  done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
  seconds = time.perf_counter() - started
  if "Traceback" in done.stderr:
    sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
  return seconds


def first_step(*arguments: str, cache: str) -> tuple[float, float]:
  """Seconds until launch.py reports its first step, by our clock and by its own."""
  environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "PYTHONUNBUFFERED": "1"}
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
          return seconds, float(match[1])
    errors.seek(0)
    sys.exit(f"launch.py ended before its first step:\n{errors.read()}")


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--config", default="configs/seg.py:phantom")
  args = parser.parse_args()
  commands = {
    "help": ("launch.py", "--help"),
    "a misspelt flag": ("launch.py", "--confgi=x"),
    "import bt_jax": ("-c", "import bt_jax"),
    "import bt_jax.modes.train": ("-c", "import bt_jax.modes.train"),
  }
  if importlib.util.find_spec("torch"):
    commands["import torch"] = ("-c", "import torch")
  times: dict[str, list[float]] = {name: [] for name in (*commands, "first step, cold", "first step, warm")}
  own: dict[str, list[float]] = {"first step, cold": [], "first step, warm": []}
  timing.pin_threads()
  with tempfile.TemporaryDirectory() as work, timing.measuring():
    os.environ["TMPDIR"] = work  # removes the files that killed processes leave
    run = (f"--config={args.config}", f"--config.data.dir={work}/data")
    command("launch.py", "--mode=build", *run)
    for _ in range(args.repeats):
      for name, arguments in commands.items():
        times[name].append(command(*arguments))
      with tempfile.TemporaryDirectory() as cache:
        for name in own:
          seconds, told = first_step(*run, cache=cache)
          times[name].append(seconds)
          own[name].append(told)
    print(f"{args.config}, seconds, median of {args.repeats} and quartiles")
    for name, values in times.items():
      told = f"{statistics.median(own[name]):8.1f} by its own clock" if name in own else ""
      print(f"{name:26}{timing.shown(values)}{told}")


if __name__ == "__main__":
  main()
