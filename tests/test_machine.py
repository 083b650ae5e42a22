"""What is settled before JAX looks for devices; each in a process of its own, as it is settled once."""

import functools
import subprocess
import sys

import pytest

from bt_jax.distributed import setup
from tests.helpers.launching import ROOT
from tests.helpers.refusals import refused


def python(code, home="/dev/null", arguments=()):
  """What a program prints whose home cannot be written, word by word."""
  result = subprocess.run(
    [sys.executable, "-c", code, *arguments],
    cwd=ROOT,
    env={"PATH": "", "HOME": str(home)},
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
def test_on_a_cpu_as_many_cores_are_devices_as_divide_the_batches(fields, devices, tmp_path):
  code = f"""
import os, jax
from bt_jax.distributed import setup
from configs import seg
os.sched_getaffinity = lambda process: range(6)
config = seg.get_config("phantom")  # batches of 8 and 32
config.update_from_flattened_dict({fields})
setup.prepare(config)
print(jax.device_count(), jax.config.jax_compilation_cache_dir, os.environ["XLA_FLAGS"])
setup.prepare(config)  # again does no harm
"""
  assert python(code, tmp_path) == [str(devices), f"{tmp_path}/.cache/bt_jax/xla", "--xla_gpu_deterministic_ops=true"]


@pytest.mark.slow
@pytest.mark.parametrize("user", ["pass", "os.getuid = lambda: 54321; del os.environ['HOME']"])
def test_without_a_home_no_program_is_kept_and_all_else_works(user):
  """One whose home cannot be written, and one who has none and stands in no list of users."""
  code = f"""
import os
{user}
from bt_jax.distributed import setup
from bt_jax.datasets.lgg_mri import lgg_source
from bt_jax.cli import with_flags
from bt_jax.errors import UserError
import jax
setup.prepare()
print(jax.config.jax_compilation_cache_dir, jax.jit(lambda x: x + 1)(1))
try:
  lgg_source.open_or_build("phantom", root=None, data_dir=None)
except UserError as error:
  print(with_flags(error))
"""
  kept, two, *message = python(code)
  assert (kept, two) == ("None", "2") and "(--config.data.dir)" in message


@pytest.mark.parametrize(
  ("flags", "values"),
  [
    (["--config.data.workers=None", "--config.eval.threshold", "None", "--config.data.root=None"], "None None None"),
    (["--config.data.workers=3", "--config.data.workers=None", "--config.data.root=/None"], "None None /None"),
    (["--config.data.workers=None", "--config.data.workers=3", "--config.eval.threshold=0.5"], "3 0.5 None"),
  ],
)
def test_a_field_may_be_none_on_the_cli_and_the_last_word_counts(flags, values):
  code = """
import sys
from bt_jax import cli
cli.parse(sys.argv)
config = cli.CONFIG.value
print(config.data.workers, config.eval.threshold, config.data.root)
"""
  assert python(code, arguments=["--config=configs/seg.py:phantom", *flags]) == values.split()


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
  join = functools.partial(setup.connect, timeout=1)
  refused(
    lambda: join(coordinator="here:1", hosts=None, host=None), "hosts and host must be given too", "(--hosts, --host)"
  )
  refused(lambda: join(coordinator="here", hosts=2, host=0), "is 'here', expected address:port", "(--coordinator)")
  refused(lambda: join(coordinator="here:1", hosts=2, host=2), "host is 2, expected 0 to 1", "(--host)")


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
  monkeypatch.setattr(setup.jax.distributed, "initialize", lambda **arguments: asked.append(arguments))
  assert setup.connect(coordinator=None, hosts=None, host=None, timeout=1)  # in the test this is the only host
  assert bool(asked) == others
