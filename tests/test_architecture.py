"""Data flows one way: what imports what, read from the source."""

import ast
import collections
import pathlib

from tests.helpers.launching import ROOT

PACKAGE = ROOT / "bt_jax"
# Each room, and each module that stands alone, imports from those before it only.
ORDER = (
  "version", "errors", "files", "schema", "metrics", "distributed", "losses", "scans", "datasets", "pipeline", "models",
  "pretrained", "evaluation", "tasks", "training", "weights", "inference", "runs", "serving", "paper", "report", "modes", "cli",
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


def test_no_two_modules_share_a_name():
  names = collections.Counter(path.stem for path in PACKAGE.rglob("*.py") if path.stem != "__init__")
  assert [name for name, count in names.items() if count > 1] == []
