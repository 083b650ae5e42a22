"""The examples in docstrings give what they say: every module of bt_jax that has one is run."""

import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy
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
  result = doctest.testmod(module, extraglobs={"bt_jax": bt_jax, "jax": jax, "jnp": jnp, "numpy": numpy})
  assert result.attempted > 0 and result.failed == 0


def test_the_public_functions_have_one():
  assert {"bt_jax", "bt_jax.weights"} <= {*MODULES}
  for name in ("load", "read", "save"):
    assert ">>> " in getattr(bt_jax, name).__doc__ or f"bt_jax.{name}(" in getattr(bt_jax, name).__doc__


PUBLIC = {
  "bt_jax.losses": ["class_probabilities", "make_loss", *bt_jax.losses.SEGMENTATION_LOSSES, *bt_jax.losses.CLASSIFICATION_LOSSES],
  "bt_jax.metrics": ["count", "pool", *dict.fromkeys(function.__name__ for function in bt_jax.metrics.METRICS.values())],
  "bt_jax.models": [name for name in bt_jax.models.__all__ if callable(getattr(bt_jax.models, name))],
}  # fmt: skip


@pytest.mark.parametrize("name", [f"{module}.{name}" for module, names in PUBLIC.items() for name in names])
def test_a_loss_a_metric_and_a_network_has_one(name):
  module, _, attribute = name.rpartition(".")
  documented = getattr(importlib.import_module(module), attribute)
  assert f"{name}(" in documented.__doc__
