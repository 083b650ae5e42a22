"""The examples in docstrings give what they say: every module of bt_jax that has one is run."""

import doctest
import importlib

import pytest

import bt_jax
from tests.helpers.launching import ROOT

MODULES = [
  ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
  for path in sorted((ROOT / "bt_jax").rglob("*.py"))
  if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # some write a file to read
  module = importlib.import_module(name)
  result = doctest.testmod(module, extraglobs={"bt_jax": bt_jax})
  assert result.attempted > 0 and result.failed == 0


def test_the_public_functions_have_one():
  assert {"bt_jax", "bt_jax.weights"} <= {*MODULES}
  for name in ("load", "read", "save"):
    assert ">>> " in getattr(bt_jax, name).__doc__ or f"bt_jax.{name}(" in getattr(bt_jax, name).__doc__
