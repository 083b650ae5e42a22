"""Two processes as two hosts with four devices each, as a user would start them."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import ROOT, VARIABLES, launch, table_of

FLAGS = ["--config.train.epochs=2", "--config.eval.batch_size=16", "--config.augment.rotation_degrees=10"]


def start(flags, host, port, devices=4, timeout=60):
  xla = f"{VARIABLES['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
  place = [f"--coordinator=localhost:{port}", "--hosts=2", f"--host={host}", f"--connect_timeout={timeout}"]
  return subprocess.Popen(
    [sys.executable, "launch.py", *flags, *place],
    cwd=ROOT, env={**os.environ, **VARIABLES, "XLA_FLAGS": xla}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


def free_port():
  with socket.socket() as server:
    server.bind(("localhost", 0))
    return server.getsockname()[1]


def both(flags):
  port = free_port()
  processes = [start(flags, host, port) for host in (0, 1)]
  return [(process, *process.communicate(timeout=300)) for process in processes]


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
  """The run on one host with one device."""
  workdir = tmp_path_factory.mktemp("alone") / "run"
  status, _, err = launch([*tiny, *FLAGS, f"--workdir={workdir}"])
  assert status == 0, err
  return workdir


def assert_same_run(one, other):
  columns = ("train_loss", "validation_loss", "validation_accuracy", "validation_score")
  for a, b in zip(table_of(one / "metrics.csv"), table_of(other / "metrics.csv"), strict=True):
    for name in columns:
      np.testing.assert_allclose(float(a[name]), float(b[name]), rtol=0.02, atol=2e-3, err_msg=name)
  rows = [table_of(run / "slices.csv") for run in (one, other)]
  assert [(row["case"], row["slice"]) for row in rows[0]] == [(row["case"], row["slice"]) for row in rows[1]]
  for name in ("probability",):
    values = [[float(row[name]) for row in table] for table in rows]
    np.testing.assert_allclose(values[0], values[1], atol=0.02)


@pytest.mark.parametrize("feed", ["resident", "stream"])
def test_two_hosts_of_four_devices_give_the_result_of_one(tiny, alone, tmp_path, feed):
  workdir = tmp_path / "run"
  (first, out, err), (second, silent, more) = both([*tiny, *FLAGS, f"--workdir={workdir}", f"--config.feed={feed}"])
  assert (first.returncode, second.returncode) == (0, 0), (err, more)
  assert "8 x cpu of 2 hosts" in out and f"feed: {feed}" in out
  assert not [line for line in silent.splitlines() if "[Gloo]" not in line]  # a library's own
  assert_same_run(alone, workdir)
  assert not list((workdir / ".hosts").iterdir())
  if feed == "stream":  # what eight devices on two hosts saved, one device goes on with
    status, out, err = launch([*tiny, *FLAGS, f"--workdir={workdir}"])
    assert status == 0 and "trained already" in out, err


def test_one_host_killed_stops_the_other_and_the_same_command_resumes(tiny, alone, tmp_path):
  workdir, port = tmp_path / "run", free_port()
  flags = [*tiny, *FLAGS, f"--workdir={workdir}", "--config.host_timeout=10"]
  processes = [start(flags, host, port) for host in (0, 1)]
  while not (workdir / "metrics.csv").exists():  # written after the first epoch
    assert processes[0].poll() is None, processes[0].communicate()
    time.sleep(0.002)
  processes[1].send_signal(signal.SIGKILL)
  _, err = processes[0].communicate(timeout=150)
  processes[1].communicate()
  lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
  assert processes[0].returncode == 1 and len(lines) == 1, err
  assert (
    "another host is gone, so this one stops; the same command on all hosts goes on from the last checkpoint"
    in lines[0]
  )
  status, out, err = launch(flags)  # also on fewer devices than it was begun with
  assert status == 0 and "going on from step" in out, err
  assert_same_run(alone, workdir)


def test_bad_input_of_one_host_is_told_on_both(tiny, alone):
  results = both([*tiny, *FLAGS, f"--workdir={alone}", "--config.train.learning_rate=0.5"])
  for process, _, err in results:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1 and len(lines) == 1 and "train.learning_rate (0.005 there, 0.5 now)" in lines[0], err


def test_a_host_that_never_comes(tiny, tmp_path):
  process = start([*tiny, f"--workdir={tmp_path / 'run'}"], 0, free_port(), timeout=3)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 1 and "error: the hosts did not meet (waited 3 s)" in err and "Traceback" not in err
