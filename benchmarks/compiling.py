"""What a training step on a CPU costs before it runs, by compiler options: processor seconds to trace and to compile it.

  python benchmarks/compiling.py [--model=resnet50] [--size=96] [--batch=8] [--repeats=5]

Processor seconds are those of all threads, in the program and the system, so that other load changes them little. The
step is that of benchmarks/step.py, traced once. Then it runs under every variant in turn: seconds of a step beside the
default, above 1 where it is faster, and the largest difference of a parameter after all steps.
"""

import argparse
import pathlib
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import timing

if __name__ == "__main__":
  timing.pin_threads()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import step

VARIANTS = {
  "default": {},
  "no expensive passes": {"xla_llvm_disable_expensive_passes": True},
  "level 0": {"xla_backend_optimization_level": 0},
  "level 1": {"xla_backend_optimization_level": 1},
  "no fusion emitters": {"xla_cpu_use_fusion_emitters": False},
  "one piece": {"xla_cpu_parallel_codegen_split_count": 1},
  "vectors of 256 bits": {"xla_cpu_prefer_vector_width": 256},
}


def processor_seconds() -> float:
  """Seconds of all threads of this process so far."""
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", default="resnet50")
  for name, default in {"size": 96, "batch": 8, "repeats": 5}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
  args = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_enable_compilation_cache", False)
  jax.config.update("jax_num_cpu_devices", max(n for n in range(1, timing.cores() + 1) if args.batch % n == 0))
  with timing.measuring(f"jax {jax.__version__}"):
    train, state, data = step.training_step(
      args.model, 32, *step.examples(args.model, args.size, args.batch), "float32"
    )
    before = processor_seconds()
    lowered = train.lower(state, data, np.float32(1e-3))
    print(
      f"{args.model} at {args.size}x{args.size}, batch {args.batch}; traced in {processor_seconds() - before:.1f} s"
    )
    programs, compiling = {}, {}
    for name, options in VARIANTS.items():
      before = processor_seconds()
      try:
        programs[name] = lowered.compile(compiler_options=options)
      except jax.errors.JaxRuntimeError as error:
        print(f"{name}: {str(error).splitlines()[0]}")
        continue
      compiling[name] = processor_seconds() - before
    states = {name: jax.tree.map(jnp.copy, state) for name in programs}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(args.repeats + 2):
      for name, program in programs.items():
        started = time.perf_counter()
        states[name], loss = program(states[name], data, np.float32(1e-3))
        loss.block_until_ready()
        if repeat >= 2:  # the first two warm up
          times[name].append(time.perf_counter() - started)
    print(f"{'':20}{'compiling, s':>13}{'a step, s':>10}{'quartiles':>14}{'ratio':>8}{'difference':>12}")
    usual = timing.quartiles(times["default"])[1]
    for name, values in times.items():
      leaves = (jax.tree.leaves(states[which].variables["params"]) for which in ("default", name))
      differ = max(float(jnp.abs(ours - other).max()) for ours, other in zip(*leaves, strict=True))
      ratio = usual / timing.quartiles(values)[1]
      print(f"{name:20}{compiling[name]:13.1f}{timing.shown(values)}{ratio:8.2f}{differ:12.1e}")


if __name__ == "__main__":
  main()
