"""Two processes as two hosts with two devices each, as a user would start them."""

import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from bt_jax.errors import HostLost
from tests.helpers.launching import launch, start, table_of

pytestmark = pytest.mark.slow

FLAGS = ["--config.train.epochs=2", "--config.eval.batch_size=16", "--config.augment.rotation_degrees=10"]


def start_host(flags, host, port, devices=2, timeout=60):
  which = [f"--coordinator=localhost:{port}", "--hosts=2", f"--host={host}", f"--connect_timeout={timeout}"]
  return start([*flags, *which], devices)


def free_port():
  with socket.socket() as server:
    server.bind(("localhost", 0))
    return server.getsockname()[1]


def both(flags):
  port = free_port()
  processes = [start_host(flags, host, port) for host in (0, 1)]
  return [(process, *process.communicate(timeout=300)) for process in processes]


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
  """The run on one host with one device."""
  workdir = tmp_path_factory.mktemp("alone") / "run"
  status, out, err = launch([*tiny, *FLAGS, f"--workdir={workdir}"], devices=1)
  assert status == 0 and "1 x cpu" in out, err
  return workdir


def assert_same_run(one, other):
  """The first epoch within rounding; the second within what rounding grows to, as Adam divides by small gradients."""
  tables = [table_of(run / "metrics.csv") for run in (one, other)]
  for epoch, (a, b) in enumerate(zip(*tables, strict=True)):
    for name in ("train_loss", "validation_loss", "validation_accuracy"):
      np.testing.assert_allclose(float(a[name]), float(b[name]), rtol=(1e-3, 0.02)[epoch], err_msg=name)
  rows = [table_of(run / "slices.csv") for run in (one, other)]
  assert [(row["case"], row["slice"]) for row in rows[0]] == [(row["case"], row["slice"]) for row in rows[1]]
  values = [[float(row["probability"]) for row in table] for table in rows]
  np.testing.assert_allclose(values[0], values[1], atol=0.02)


@pytest.mark.parametrize("feed", ["resident", "stream"])
def test_two_hosts_of_two_devices_give_the_result_of_one(tiny, alone, tmp_path, feed):
  workdir = tmp_path / "run"
  (first, out, err), (second, silent, more) = both([*tiny, *FLAGS, f"--workdir={workdir}", f"--config.feed={feed}"])
  assert (first.returncode, second.returncode) == (0, 0), (err, more)
  assert "4 x cpu of 2 hosts" in out and f"feed: {feed}" in out
  # Of a library's lines, which several threads write, some come out in two pieces.
  assert not [line for line in silent.splitlines() if line.strip() and "[Gloo]" not in line]
  assert_same_run(alone, workdir)
  assert not list((workdir / ".hosts").iterdir())


def stop_after_an_epoch(workdir, processes, stop):
  while not (workdir / "metrics.csv").exists():
    assert processes[0].poll() is None, processes[0].communicate()
    time.sleep(0.002)
  stop()


@pytest.mark.parametrize("killed", [1, 0])
def test_one_host_killed_stops_the_other_and_the_same_command_resumes(tiny, alone, tmp_path, killed):
  workdir, port = tmp_path / "run", free_port()
  flags = [*tiny, *FLAGS, f"--workdir={workdir}", "--config.host_timeout=10"]
  processes = [start_host(flags, host, port) for host in (0, 1)]
  stop_after_an_epoch(workdir, processes, processes[killed].kill)
  _, err = processes[1 - killed].communicate(timeout=60)
  processes[killed].communicate()
  lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
  assert processes[1 - killed].returncode == HostLost.exit_code and len(lines) == 1, err
  assert "another host is gone, so this one stops; the same command on all hosts resumes from the last" in lines[0]
  # With the first host goes JAX's coordinator, at which JAX aborts the others: neither its stack nor its signal is seen.
  assert not re.search(r"^ +@ +0x|^[EF]\d{4} |Traceback", err, re.MULTILINE), err
  if killed:
    status, out, err = launch(flags, devices=2)  # fewer than it was begun with
    assert status == 0 and "resuming from step" in out and "2 x cpu" in out, err
    assert_same_run(alone, workdir)


def test_what_eight_devices_saved_goes_on_with_one_and_by_pmap(tiny, alone, tmp_path):
  flags = [*tiny, *FLAGS, f"--workdir={tmp_path / 'run'}"]
  process = start(flags, devices=8)
  stop_after_an_epoch(tmp_path / "run", [process], lambda: process.send_signal(signal.SIGTERM))
  out, err = process.communicate(timeout=120)
  assert process.returncode == 128 + signal.SIGTERM and "8 x cpu" in out, err
  shutil.copytree(tmp_path / "run", tmp_path / "again")
  for name, devices, parallel in (("run", 1, "jit"), ("again", 4, "pmap")):
    more = [f"--workdir={tmp_path / name}", f"--config.parallel={parallel}"]
    status, out, err = launch([*flags, *more], devices=devices)
    assert status == 0 and "resuming from step" in out and f"{devices} x cpu" in out, err
    assert_same_run(alone, tmp_path / name)


def test_hosts_that_disagree_are_refused_on_both(tiny, tmp_path):
  port, flags = free_port(), [*tiny, f"--workdir={tmp_path / 'run'}"]
  processes = [start_host([*flags, f"--config.train.seed={host}"], host, port) for host in (0, 1)]
  for process in processes:
    _, err = process.communicate(timeout=120)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1 and len(lines) == 1 and "started with different configurations" in lines[0], err


def test_a_host_that_never_comes(tiny, tmp_path):
  process = start_host([*tiny, f"--workdir={tmp_path / 'run'}"], 0, free_port(), timeout=3)
  _, err = process.communicate(timeout=60)
  assert (
    process.returncode == HostLost.exit_code
    and "error: the hosts did not meet (waited 3 s)" in err
    and "Traceback" not in err
  )
