"""The benchmarks, which no other test runs: what they call takes the arguments that they give."""

import ast
import importlib
import inspect
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import timing
from tests.helpers.launching import ROOT

BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


def imported(tree):
  """What the imports of bt_jax in a module, at any depth, bind its names to."""
  names = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "bt_jax":
      module = importlib.import_module(node.module)
      for name in node.names:
        if not hasattr(module, name.name):
          importlib.import_module(f"{node.module}.{name.name}")
        names[name.asname or name.name] = getattr(module, name.name)
  return names


def resolved(node, names):
  """The function or class of bt_jax that an expression names; None for any other."""
  if isinstance(node, ast.Name):
    return names.get(node.id)
  owner = resolved(node.value, names) if isinstance(node, ast.Attribute) else None
  return None if owner is None else getattr(owner, node.attr, None)


def calls(tree, names):
  """Each called function with its line and arguments, also those called through `timed(name, function, ...)`."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Call) and not any(isinstance(argument, ast.Starred) for argument in node.args):
      through = isinstance(node.func, ast.Name) and node.func.id == "timed"
      function, given = (node.args[1], node.args[2:]) if through else (node.func, node.args)
      if inspect.isroutine(target := resolved(function, names)) or inspect.isclass(target):
        yield target, node.lineno, given, node.keywords


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_functions_of_ours_take_the_arguments_that_a_benchmark_gives(path):
  tree = ast.parse(path.read_text())
  for target, line, given, keywords in calls(tree, imported(tree)):
    signature = inspect.signature(target)
    whole = all(keyword.arg for keyword in keywords)  # no **options
    bind = signature.bind if whole else signature.bind_partial
    try:
      bind(*given, **{keyword.arg: keyword.value for keyword in keywords if keyword.arg})
    except TypeError as error:
      pytest.fail(f"{path.name}:{line}: {target.__qualname__}{signature}: {error}")


TIMED = [path for path in BENCHMARKS if path.stem not in ("__init__", "peers", "timing")]


@pytest.mark.parametrize("path", TIMED, ids=lambda path: path.stem)
def test_every_benchmark_that_takes_times_says_whether_they_are_final(path):
  names = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
  assert {"timing.measuring", "timing.pin_threads"} <= names


@pytest.mark.parametrize(("load", "final"), [(0.5, True), (0.51, False), (7.0, False)])
def test_figures_of_a_busy_machine_are_not_final(load, final, monkeypatch, capsys):
  monkeypatch.setattr(timing.os, "getloadavg", lambda: (load, 9.0, 9.0))
  with timing.measuring("jax 1.2"):
    monkeypatch.setattr(timing.os, "getloadavg", lambda: (9.0, 9.0, 9.0))  # the benchmark's own
    print("the table")
  first, *rest = capsys.readouterr().out.splitlines()
  assert f"load {load:.1f} before" in first and first.endswith("jax 1.2") and rest[0] == "the table"
  assert [line.startswith(f"not final: load {load:.1f} before") for line in rest[1:]] == [] if final else [True]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_spread_is_in_quartiles(count):
  values = np.random.default_rng(count).uniform(10, 90, count)
  lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
  assert timing.quartiles(values) == pytest.approx((lower, median, upper))
  assert timing.shown(values, 1).split() == [f"{median:.1f}", f"{lower:.1f}-{upper:.1f}"]


def test_a_number_of_threads_that_was_set_stays(monkeypatch):
  monkeypatch.setenv("OMP_NUM_THREADS", "3")
  monkeypatch.setenv("MKL_NUM_THREADS", "")  # removed again after the test
  monkeypatch.delenv("MKL_NUM_THREADS")
  timing.pin_threads(2)
  assert (timing.os.environ["OMP_NUM_THREADS"], timing.os.environ["MKL_NUM_THREADS"]) == ("3", "2")


@pytest.mark.slow
def test_the_benchmark_of_prediction_runs_at_its_smallest():
  pytest.importorskip("torch", reason="the benchmark compares with PyTorch")
  sizes = ("--size=32", "--width=2", "--studies=1", "--slices=3", "--repeats=1", "--memory=1")
  done = subprocess.run(
    [sys.executable, "benchmarks/predict.py", *sizes], cwd=ROOT, capture_output=True, text=True, timeout=600
  )
  assert done.returncode == 0, done.stderr
  assert "files to pictures" in done.stdout and "MB at peak" in done.stdout
