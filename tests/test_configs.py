import ast
import re

import pytest
from ml_collections import ConfigDict

from bt_jax import experiment, parts
from bt_jax.errors import UserError
from configs import common, seg
from tests.conftest import ROOT


def fields(config, prefix=""):
  for name, value in config.items():
    yield from fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [prefix + name]


@pytest.mark.parametrize("preset", seg.PRESETS)
def test_every_preset_makes_its_parts(preset):
  config = seg.get_config(preset)
  assert set(fields(config)) == set(fields(common.get_config()))
  parts.make_parts(config)


def chains(path):
  """Every dotted name a module reads, e.g. config.train.epochs, and those handed on whole with two stars."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Attribute):
      yield ast.unparse(node)
    if isinstance(node, ast.keyword) and node.arg is None:
      yield f"**{ast.unparse(node.value)}"


def test_every_field_is_read():
  """A section is handed on whole (`**config.loss`, where one name too many raises), or each field is read by name."""
  read = {chain for path in [ROOT / "launch.py", *(ROOT / "bt_jax").rglob("*.py")] for chain in chains(path)}
  unread = [
    name
    for name in fields(common.get_config())
    if f"config.{name}" not in read and f"**config.{name.split('.')[0]}" not in read
  ]
  assert unread == []


def test_every_field_has_a_comment_or_says_it_all():
  lines = re.findall(r"config\.([\w.]+) = (?!ConfigDict\(\)).*?(#.*)?$", (ROOT / "configs/common.py").read_text(), re.M)
  silent = {name for name, comment in lines if not comment}
  assert silent <= {"model.name", "train.epochs"}


def test_no_such_preset():
  with pytest.raises(UserError, match="no preset 'medium': there are small, phantom, or none"):
    seg.get_config("medium")


@pytest.mark.parametrize(
  ("field", "value", "said"),
  [
    ("data.size", 100, "next size is 96 or 112"),
    ("data.name", "brats", "data.name is 'brats', expected one of phantom, lgg"),
    ("data.normalize", "none", "expected one of volume, unit"),
    ("split.fold", 22, "split.fold is 22, expected 0 to 21"),
    ("split.fold", -1, "split.fold is -1"),
    ("split.kind", "patient", "expected one of fold, random"),
    ("model.name", "vnet", "model.name is 'vnet', expected one of unet"),
    ("model.dtype", "float8", "expected one of float32, bfloat16"),
    ("model.width", 0, "model.width is 0, expected 1 or more"),
    ("loss.name", "mse", "loss.name is 'mse'"),
    ("train.batch_size", 0, "train.batch_size is 0"),
    ("train.batch_size", 12, "take 8 or 16"),
    ("train.epochs", 0, "train.epochs is 0, expected 1 or more"),
    ("train.optimizer", "lbfgs", "train.optimizer is 'lbfgs'"),
    ("train.score", "dice", "train.score is 'dice', expected one of pooled.dice"),
    ("eval.batch_size", -1, "eval.batch_size is -1"),
    ("eval.threshold", 1.5, "eval.threshold is 1.5, expected 0 to 1"),
    ("train.seed", -1, "train.seed is -1, expected 0 or more"),
    ("augment.gamma", -2.0, "augment.gamma is -2.0, expected 0 or more"),
  ],
)
def test_a_field_that_cannot_be_is_told_before_any_data_is_touched(field, value, said, tmp_path):
  config = seg.get_config()
  config.data.dir = str(tmp_path / "data")
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError) as error:
    experiment.train(config, tmp_path / "run")
  assert said in str(error.value) and "\n" not in str(error.value)
  assert list(tmp_path.iterdir()) == []


def test_largest_component_needs_whole_volumes(tmp_path):
  config = seg.get_config()
  config.split.kind, config.eval.largest_component = "random", True
  with pytest.raises(UserError, match="needs whole volumes"):
    experiment.train(config, tmp_path / "run")
