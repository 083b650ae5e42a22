"""Commands and links of the README and of docs: flags that our program takes, files and pages that are there."""

import ast
import importlib.util
import re
import subprocess
import sys

import pytest

from tests.helpers import commands
from tests.helpers.launching import ROOT

PAGES = commands.documents()
NAMES = {path: str(path.relative_to(ROOT)) for path in PAGES}
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def without_code(path):
  return re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(path):
  """The anchors of headings, as GitHub and MkDocs make them."""
  headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
  plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
  return {re.sub(r"\s", "-", heading) for heading in plain}


@pytest.mark.parametrize("path", PAGES, ids=NAMES.get)
def test_every_command_has_flags_that_our_program_takes(path):
  wrong = [
    (arguments, unknown)
    for block in commands.blocks(path, "sh", "bash")
    for arguments in commands.program_calls(block)
    if (unknown := commands.unknown_flags(arguments))
  ]
  assert wrong == []


@pytest.mark.parametrize("path", PAGES, ids=NAMES.get)
def test_every_block_is_what_it_says(path):
  for block in commands.blocks(path, "sh", "bash"):
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)
  for block in commands.blocks(path, "python"):
    ast.parse(block)
  for block in commands.blocks(path, "sh", "bash"):
    for module in re.findall(r"python -m (bt_jax[\w.]*)", block):
      assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("path", PAGES, ids=NAMES.get)
def test_every_link_within_the_project_leads_somewhere(path):
  broken = []
  for target, anchor in LINK.findall(without_code(path)):
    if re.match(r"https?:", target):
      continue
    page = (path.parent / target).resolve() if target else path
    if not page.exists() or (anchor and page.suffix == ".md" and anchor not in anchors(page)):
      broken.append(f"{target}#{anchor}")
  assert broken == []


def test_the_layout_names_every_package_and_files_that_are_there():
  layout = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Tests")[0]
  packages = [path.parent for path in sorted((ROOT / "bt_jax").glob("*/__init__.py"))]
  row = {path.name: re.search(rf"^\| .*`(?:bt_jax/)?{path.name}/`.*\|$", layout, re.M) for path in packages}
  assert [name for name, line in row.items() if not line] == []
  for package in packages:
    inside = re.findall(r"`(\w+\.py)`", row[package.name][0])
    assert [name for name in inside if not [*package.rglob(name), *package.parent.glob(name)]] == [], package.name


def test_ci_installs_what_the_tests_of_an_extra_need():
  extras = [
    set(re.search(r"\.\[(imagenet[\w,]*)\]", (ROOT / name).read_text())[1].split(","))
    for name in (".ci/run", "CONTRIBUTING.md")
  ]
  assert extras[0] == extras[1] >= {"docs", "mlflow", "wandb"}


def test_every_page_is_in_the_book_once():
  listed = re.findall(r"^ +- [^#\n]*: ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
  there = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").glob("*.md")]
  assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_a_page_of_the_book_links_to_nothing_outside_it(path):
  targets = [target for target, _ in LINK.findall(without_code(path)) if not re.match(r"https?:", target)]
  assert [target for target in targets if not (path.parent / target).resolve().is_relative_to(ROOT / "docs")] == []


@pytest.mark.slow
def test_the_book_is_built_without_a_broken_link(tmp_path):
  if not importlib.util.find_spec("mkdocs") or not importlib.util.find_spec("mkdocstrings"):
    pytest.skip('MkDocs is not installed: pip install ".[docs]"')
  build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
  done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  page = (tmp_path / "site/api/index.html").read_text(encoding="utf-8")
  assert all(f'id="bt_jax.{name}"' in page for name in ("load", "read", "save", "models.UNet", "metrics"))
