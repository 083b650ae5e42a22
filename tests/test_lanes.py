"""Trainings side by side: shares of the devices, the processes on them, and a cross-validation by them."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bt_jax.distributed import lanes, setup
from bt_jax.distributed.lanes import Devices, Lane
from bt_jax.distributed.side_by_side import side_by_side
from bt_jax.errors import Stopped, UserError
from tests.helpers.launching import ROOT, environment, launch, start, table_of, unbroken
from tests.helpers.refusals import refused

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are given on Linux alone")
CORES = [str(core) for core in range(7)]
HERE = Lane(frozenset(os.sched_getaffinity(0)), {}) if hasattr(os, "sched_setaffinity") else None


@needs_affinity
def test_lanes_are_disjoint_and_equally_large(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(7)))
  for wanted, count, size in (("2", 2, 3), ("3", 3, 2), ("7", 7, 1), ("auto", 4, 1)):
    shares = [lane.cores for lane in lanes.share_out(wanted, 4, Devices("cores", CORES))]
    assert len(shares) == count and {len(share) for share in shares} == {size}
    assert len(frozenset().union(*shares)) == count * size


@needs_affinity
def test_gpus_that_were_chosen_are_shared(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
  shared = lanes.share_out("auto", 22, Devices("GPUs", ["3", "GPU-5a", "7"]))
  assert [lane.variables["CUDA_VISIBLE_DEVICES"] for lane in shared] == ["3", "GPU-5a", "7"]
  assert {lane.cores for lane in shared} == {frozenset({0, 1})}  # fewer cores than lanes: each may use all


def test_one_at_a_time_asks_for_no_devices(monkeypatch):
  monkeypatch.setattr(subprocess, "run", None)
  assert lanes.devices_to_share("1", "pmap") is None


def test_what_cannot_run_side_by_side_is_refused_in_one_line(monkeypatch):
  refused(lambda: lanes.devices_to_share("two"), "crossval.parallel is 'two', expected the number of trainings", "auto")
  refused(lambda: lanes.devices_to_share("0"), "crossval.parallel is '0'")
  refused(lambda: lanes.devices_to_share("2", "pmap"), "is for parallel=jit, and parallel is pmap")
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
  refused(lambda: lanes.devices_to_share("2"), "is for one host, and there are others")
  monkeypatch.delenv("OMPI_COMM_WORLD_SIZE")
  assert not setup.has_other_hosts()
  for looked, message in (
    ('["tpu", 4, "libtpu"]', "these devices are of TPU: leave it at 1"),
    ('["gpu", 4, "rocm 7"]', "these devices are of GPU: leave it at 1"),
    ('["gpu", 1, "PJRT C API cuda 13000"]', "crossval.parallel is 2, and there are 1 GPUs: take 1 or fewer"),
  ):
    monkeypatch.setattr(lanes.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, looked, ""))  # noqa: B023
    refused(lambda: lanes.devices_to_share("2"), message)


def job(name, folder, awaited):
  """Writes the cores that it sees to a file of its name, and waits for another's or for Ctrl-C."""
  print(f"this is {name}")
  path = pathlib.Path(folder, name)
  path.write_text(repr(sorted(os.sched_getaffinity(0))))
  try:
    while not pathlib.Path(folder, awaited).exists():
      time.sleep(0.05)
  except KeyboardInterrupt:
    path.with_suffix(".saved").touch()
    raise
  if name == "bad":
    raise UserError("the field is wrong", "train.epochs")
  if name == "killed":
    os.kill(os.getpid(), signal.SIGKILL)


def jobs(folder, **awaited):
  return {name: (name, str(folder), other) for name, other in awaited.items()}


@needs_affinity
@pytest.mark.slow
def test_the_next_job_goes_to_the_lane_that_is_free(tmp_path, capfd):
  first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
  before, done = os.sched_getaffinity(0), []
  pair = [Lane(frozenset({first}), {}), Lane(frozenset({last}), {})]
  side_by_side(
    job, jobs(tmp_path, long="next", short="long", next="next"), pair, lambda name, seconds: done.append(name)
  )
  assert done[0] == "short" and sorted(done) == ["long", "next", "short"] and os.sched_getaffinity(0) == before
  cores = {name: (tmp_path / name).read_text() for name in done}
  assert cores == {"long": f"[{first}]", "short": f"[{last}]", "next": f"[{last}]"}
  assert sorted(capfd.readouterr().out.splitlines()) == [f"{name} | this is {name}" for name in sorted(done)]


@needs_affinity
@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "message"), [("bad", "^bad: the field is wrong$"), ("killed", "^killed: its process was killed by signal 9")]
)
def test_an_error_stops_the_others_once_they_have_saved(tmp_path, name, message):
  with pytest.raises(UserError, match=message) as error:
    side_by_side(
      job,
      jobs(tmp_path, **{"long": "nothing", name: "long", "never": "never"}),
      [HERE, HERE],
      lambda name, seconds: None,
    )
  assert error.value.arguments == (("train.epochs",) if name == "bad" else ("crossval.parallel",))
  assert (tmp_path / "long.saved").exists() and not (tmp_path / "never").exists()


PROGRAM = """
import sys
from tests.test_lanes import HERE, job, jobs, side_by_side
from bt_jax.errors import Stopped
if __name__ == "__main__":
  try:
    side_by_side(job, jobs(sys.argv[1], one="nothing", two="nothing", three="three"), [HERE, HERE], print)
  except Stopped as stop:
    print(stop)
    sys.exit(stop.exit_code)
"""


@needs_affinity
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_every_job_and_each_saves(tmp_path, number):
  (tmp_path / "program.py").write_text(PROGRAM)
  process = subprocess.Popen(
    [sys.executable, tmp_path / "program.py", tmp_path], env=environment() | {"PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE, text=True, start_new_session=True,
  )  # fmt: skip
  while not all((tmp_path / name).exists() for name in ("one", "two")):
    assert process.poll() is None
    time.sleep(0.05)
  if number == signal.SIGINT:
    os.killpg(process.pid, number)  # as a terminal does
  else:
    process.send_signal(number)
  out, _ = process.communicate(timeout=60)
  if number != signal.SIGKILL:
    assert process.returncode == Stopped(None, number).exit_code and "stopped, saved; the same command resumes" in out
  until = time.monotonic() + 60
  while not all((tmp_path / f"{name}.saved").exists() for name in ("one", "two")):
    assert time.monotonic() < until
    time.sleep(0.05)
  assert not (tmp_path / "three").exists()


@pytest.fixture(scope="module")
def flags(tiny):
  return [*tiny, "--mode=crossval", "--config.crossval.folds=0,7"]


@pytest.fixture(scope="module")
def in_turn(flags, once):
  """A cross-validation of two folds, one after the other, on one device each."""

  def train(folder):
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
      process = start([*flags, f"--workdir={folder}"])
    finally:
      os.sched_setaffinity(0, cores)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and "1 x cpu" in out, err
    return out

  return once("crossval_in_turn", train)


def assert_same_tables(folder, other):
  for name in ("slices.csv", "patients.csv", "reliability.csv", "fold_00/metrics.csv", "fold_07/metrics.csv"):
    ours, theirs = table_of(folder / name), table_of(other / name)
    for row in (*ours, *theirs):
      for timing in ("slices_per_second", "input_share"):
        row.pop(timing, None)
    assert ours == theirs


@pytest.mark.skipif(setup.cores() < 2, reason="two lanes need two cores")
@needs_affinity
@pytest.mark.slow
def test_two_lanes_end_as_one_after_the_other(in_turn, flags, tmp_path):
  workdir, out = unbroken([*flags, "--config.crossval.parallel=2"], tmp_path / "lanes")
  assert "2 trainings side by side" in out and "2 of 2 folds" in out
  for fold in (0, 7):
    assert f"fold {fold} | epoch 1 of 4: loss" in out and f"fold {fold}: finished in" in out
  assert_same_tables(workdir, in_turn[0])
  status, out, err = launch([*flags, "--config.crossval.parallel=auto", f"--workdir={workdir}"])
  assert status == 0 and out.count("finished before") == 2 and "side by side" not in out, err


@pytest.mark.skipif(setup.cores() < 2, reason="two lanes need two cores")
@needs_affinity
@pytest.mark.slow
def test_stopped_lanes_resume_and_end_the_same(in_turn, flags, tmp_path):
  flags = [*flags, "--config.crossval.parallel=2", f"--workdir={tmp_path}"]
  process, line = start(flags), ""
  while "| epoch 1 of 4" not in line:  # of one; the other may be anywhere
    line = process.stdout.readline()
    assert line, process.communicate()
  fold = line.partition(" | ")[0]
  process.send_signal(signal.SIGTERM)
  rest, err = process.communicate(timeout=120)
  assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in rest + err, rest + err
  assert rest.splitlines()[-1] == "stopped, saved; the same command resumes from there"
  assert f"{fold} | stopped at step" in rest, rest
  status, out, err = launch(flags)
  assert status == 0 and f"{fold} | resuming from step" in out, err
  assert_same_tables(tmp_path, in_turn[0])
