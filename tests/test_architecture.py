"""Data flows one way: what imports what, read from the source."""

import ast
import collections
import graphlib
import json
import pathlib
import pydoc
import re
import subprocess
import sys

import pytest

from bt_jax import cli
from configs import common
from tests.helpers.launching import ROOT, environment

PACKAGE = ROOT / "bt_jax"
# Each room, and each module that stands alone, imports from those before it only.
ORDER = (
  "version", "errors", "options", "files", "schema", "metrics", "distributed", "losses", "scans", "datasets", "pipeline", "models",
  "pretrained", "evaluation", "tasks", "training", "zoo", "weights", "inference", "runs", "serving", "paper", "reporting", "modes", "cli",
)  # fmt: skip


def rooms(path: pathlib.Path) -> set[str]:
  """What of bt_jax a module imports, by room; `bt_jax` where it is the package itself."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom):
      names = [f"bt_jax.{alias.name}" for alias in node.names] if node.module == "bt_jax" else [node.module]
    found |= {name.split(".")[1] if "." in name else name for name in names if name.split(".")[0] == "bt_jax"}
  return found


def test_every_import_goes_one_way():
  wrong = []
  for path in PACKAGE.rglob("*.py"):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room != "__init__":  # the public face, which is above all
      allowed = set(ORDER[: ORDER.index(room) + 1])
      wrong += [f"{path.relative_to(ROOT)} imports {other}" for other in rooms(path) - allowed]
  assert wrong == []


def imported_at_once(path: pathlib.Path) -> set[str]:
  """The modules of bt_jax and configs that a module imports when it is imported itself, not within its functions."""
  names, nodes = set(), list(ast.parse(path.read_text()).body)
  while nodes:
    node = nodes.pop()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
      isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ):
      continue
    nodes += list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
      names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
  return names


def test_no_module_imports_one_that_is_being_imported():
  """`bt_jax` reads saved configurations by `configs`, which raises its errors: no module of either needs itself."""
  paths = [*PACKAGE.rglob("*.py"), *(ROOT / "configs").glob("*.py")]
  named = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
  # A module is within its packages, which are imported before it, and which it may name.
  within = lambda name, other: name == other or name.startswith(f"{other}.")
  graph = {
    name: {other for other in imported_at_once(path) & named.keys() if not within(name, other)}
    for name, path in named.items()
  }
  assert "configs.common" in graph["bt_jax.cli"] and "bt_jax.errors" in graph["configs.common"]
  graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


# The registry of data sets, what belongs to the paper, and a program that writes synthetic scans.
KNOW_LGG = ("datasets/lgg_mri", "datasets/__init__.py", "datasets/registry.py", "datasets/samples.py", "paper")


def test_only_the_registry_and_the_paper_know_the_published_data_set():
  name = "bt_jax.datasets.lgg_mri"
  wrong = []
  for path in PACKAGE.rglob("*.py"):
    within = path.relative_to(PACKAGE)
    if not any(within.is_relative_to(known) for known in KNOW_LGG):
      imports = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
      ]
      wrong += [str(within) for node in imports if name in ast.unparse(node) or "import lgg_mri" in ast.unparse(node)]
  assert wrong == []


def test_no_two_modules_or_packages_share_a_name():
  paths = [path.parent if path.stem == "__init__" else path for path in PACKAGE.rglob("*.py")]
  names = collections.Counter(path.stem for path in paths)
  assert names["reporting"] == names["report"] == 1 and [name for name, count in names.items() if count > 1] == []


def test_no_name_is_a_word_that_says_nothing():
  """`found` is what was looked for, `at` and `place` an index, position or path, `marked` what is segmented or labelled."""
  retired, wrong = {"at", "found", "marked", "place", "told"}, []
  for path in sorted(PACKAGE.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id
      name = stored or (isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name)
      name = name or (isinstance(node, ast.arg) and node.arg) or ""
      if name.strip("_") in retired:
        wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
  assert wrong == []


def test_tests_use_public_names_alone():
  private = re.compile(r"_[a-z]\w*", re.IGNORECASE)
  wrong = []
  for path in (ROOT / "tests").rglob("*.py"):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    ours = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "bt_jax"]
    modules = {alias.asname or alias.name for node in ours for alias in node.names}
    names = [alias.name for node in ours for alias in node.names]
    names += [
      node.attr
      for node in nodes
      if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[0] in modules
    ]
    wrong += [
      f"{path.name} uses {name}"
      for name in names
      if private.fullmatch(name) and name not in ("_fields", "_asdict", "_replace")
    ]
  assert wrong == []


def below_the_command_line() -> list[pathlib.Path]:
  """Without `samples`, which is a program of its own with a flag of its own."""
  above = ("cli.py", "modes")
  return [
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in above and path.stem != "samples"
  ]


FLAGS = {"mode", *(name for taken in cli.MODES.values() for name in taken)}


def test_a_library_knows_no_flags():
  """Those of this program: XLA, git and pip, which are given theirs, have none of these names."""
  flag = re.compile(rf"(?<![\w-])--(?:(?:{'|'.join(FLAGS)})\b|{{)")
  named = [
    f"{path.relative_to(ROOT)}:{number}"
    for path in below_the_command_line()
    for number, line in enumerate(path.read_text().splitlines(), 1)
    if flag.search(line)
  ]
  assert named == []


def test_what_an_error_names_is_a_flag_or_a_field():
  """So that the flag that the command line makes of it is one that it takes."""
  fields = common.get_config()
  named = collections.Counter()
  for path in PACKAGE.rglob("*.py"):
    for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
      if getattr(call.func, "attr", getattr(call.func, "id", "")) in ("UserError", "Remedy"):
        named.update(
          argument.value.partition("=")[0] for argument in call.args[1:] if isinstance(argument, ast.Constant)
        )
  wrong = [name for name in named if name not in FLAGS and not has(fields, name)]
  assert wrong == [] and {"output", "data.root", "feed"} <= named.keys()


def has(config, name: str) -> bool:
  *sections, field = name.split(".")
  for section in sections:
    config = config.get(section, {})
  return field in config


# Training up to its first step, which writes down whose functions called it, and ends the program.
_TO_THE_STEP = """
import inspect, json, runpy, sys
from bt_jax.runs import input_pipeline

def make_train_step(components, options):
  def step(*_):
    calls = [(one.frame.f_globals.get("__name__", ""), one.function) for one in inspect.stack(0)]
    names = [f"{module}.{function}" for module, function in reversed(calls) if module.startswith("bt_jax.")]
    print("walk:", json.dumps(names), flush=True)
    raise SystemExit
  return step

input_pipeline.make_train_step = make_train_step
runpy.run_path("launch.py", run_name="__main__")
"""


@pytest.mark.slow
def test_six_functions_lead_from_the_command_to_the_step(tiny, tmp_path):
  command = [sys.executable, "-c", _TO_THE_STEP, *tiny, f"--workdir={tmp_path / 'run'}"]
  variables = environment() | {"GLIBC_TUNABLES": ""}  # or it would start itself once more
  done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
  assert (walk := re.search(r"walk: (.*)", done.stdout)), done.stderr
  assert json.loads(walk[1]) == [f"bt_jax.{name}" for _, name in shown_walk()[:6]]


def shown_walk() -> list[tuple[str, str]]:
  """The rows of the two tables of CONTRIBUTING.md: (file, function)."""
  page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## From the command to the step")[2]
  return re.findall(r"^\| \d \| `([\w./]+)` \| `([\w.]+)`", page, re.MULTILINE)


def test_each_function_of_the_walk_is_in_the_file_that_is_named():
  rows = shown_walk()
  assert len(rows) == 12
  for file, name in rows:
    *module, function = name.split(".")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"def {function}\b", text), f"{file} has no {name}"
    assert not module or pydoc.locate(f"bt_jax.{name}") is not None, name
