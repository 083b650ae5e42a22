"""What is settled before JAX looks for devices; each in a process of its own, as it is settled once."""

import subprocess
import sys

import pytest

from bt_jax import machine
from bt_jax.errors import UserError
from tests.conftest import ROOT


def python(code):
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    env={"PATH": "", "HOME": "/nowhere"},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout.split()


@pytest.mark.parametrize(
  ("fields", "devices"),
  [("{}", 4), ("{'train.batch_size': 9, 'eval.batch_size': 3}", 3), ("{'train.accumulate': 8}", 1)],
)
def test_on_a_cpu_as_many_cores_are_devices_as_divide_the_batches(fields, devices):
  code = f"""
import os, jax
from bt_jax import machine
from configs import seg
os.sched_getaffinity = lambda process: range(6)
config = seg.get_config("phantom")  # batches of 8 and 32
config.update_from_flattened_dict({fields})
machine.prepare(config)
print(jax.device_count(), jax.config.jax_compilation_cache_dir, os.environ["XLA_FLAGS"])
machine.prepare(config)  # again is no harm
"""
  assert python(code) == [str(devices), "/nowhere/.cache/bt_jax/xla", "--xla_gpu_deterministic_ops=true"]


@pytest.mark.parametrize("flag", ["--help", "--confgi=x", "--config=configs/seg.py:tiny"])
def test_help_and_a_bad_flag_do_not_wait_for_jax(flag):
  code = f"""
import runpy, sys
sys.argv = ["launch.py", "{flag}"]
try:
  runpy.run_path("launch.py", run_name="__main__")
except SystemExit:
  print()
print("jax" in sys.modules)
"""
  assert python(code)[-1] == "False"


def test_flags_of_hosts_come_together():
  with pytest.raises(UserError, match="--hosts and --host must be given too"):
    machine.connect(coordinator="here:1", hosts=None, host=None, timeout=1)
  with pytest.raises(UserError, match="--coordinator is 'here', expected address:port"):
    machine.connect(coordinator="here", hosts=2, host=0, timeout=1)
  with pytest.raises(UserError, match="--host is 2, expected 0 to 1"):
    machine.connect(coordinator="here:1", hosts=2, host=2, timeout=1)


@pytest.mark.parametrize(
  ("environment", "others"),
  [
    ({}, False),
    ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, False),  # inside sbatch, not srun: one process
    ({"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}, True),
    ({"SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1", "SLURM_ARRAY_TASK_ID": "7"}, False),  # a fold of an array
    ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
  ],
)
def test_the_environment_tells_whether_there_are_other_hosts(environment, others, monkeypatch):
  asked = []
  for name in ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr(machine.jax.distributed, "initialize", lambda **arguments: asked.append(arguments))
  assert machine.connect(coordinator=None, hosts=None, host=None, timeout=1)  # in the test this is the only host
  assert bool(asked) == others
