import ast
import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.datasets.own_data import synthetic
from bt_jax.datasets.registry import DATASETS
from bt_jax.distributed import sharding
from bt_jax.errors import UserError
from bt_jax.models import SEGMENTERS, make_model
from bt_jax.modes import crossval, train
from bt_jax.options import fields_of
from bt_jax.pipeline import feed
from bt_jax.runs import components, prediction, restoring, unused_fields
from bt_jax.training.step import make_train_step
from configs import cls, common, saved, seg
from tests.helpers.launching import ROOT
from tests.helpers.slices import make_slices


def fields(config, prefix=""):
  for name, value in config.items():
    yield from fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [prefix + name]


FILES = {"seg": seg, "cls": cls}


@pytest.mark.parametrize(("file", "preset"), [(name, preset) for name in FILES for preset in FILES[name].PRESETS])
def test_every_preset_makes_its_components(file, preset, tmp_path):
  config = FILES[file].get_config(preset)
  if config.data.name == "own":
    synthetic.write_pictures(tmp_path, cases=5)
    config.data.root, config.data.dir = str(tmp_path), str(tmp_path / "built")
    assert common.suit_own_data(config) and not config.augment.drop_sequence
  assert set(fields(config)) == set(fields(common.get_config()))
  components.make_components(config)


def test_three_folds_are_enough_to_test_one(tmp_path):
  synthetic.write_pictures(tmp_path, cases=3)
  config = seg.get_config("own")
  config.data.update(root=str(tmp_path), dir=str(tmp_path / "built"), folds=3)
  common.suit_own_data(config)
  components.make_components(config)
  config.crossval.group = 2
  with pytest.raises(UserError, match="crossval.group is 2, expected 1 to 1"):
    components.make_components(config)


# Every network, loss and option that a configuration can name, each once, on the small side.
STEPS = {
  "seg, default": ("seg", "", {}),
  "seg, unet": ("seg", "", {"model.name": "unet", "model.width": 4}),
  "seg, slice head": ("seg", "small", {"model.pretrained": "", "model.slice_head": True, "data.size": 32}),
  "seg, paper": ("seg", "paper", {"model.width": 4, "train.batch_stats": "keep"}),
  "seg, resunet": (
    "seg",
    "paper",
    {"model.name": "resunet", "train.stage_rates": "stem=0,stage1=0.1", "data.size": 32},
  ),
  "seg, dice, sgd": (
    "seg",
    "phantom",
    {
      "model.width": 2,
      "loss.name": "dice",
      "train.optimizer": "sgd",
      "train.sampling": "balanced",
      "train.accumulate": 2,
    },
  ),
  "seg, bce": (
    "seg",
    "phantom",
    {"model.width": 2, "loss.name": "bce", "data.channels": "flair,post", "train.score": "loss", "train.remat": True},
  ),
  "cls, default": ("cls", "", {}),
  "cls, resnet50": ("cls", "resnet50", {"model.pretrained": "", "data.size": 32, "train.batch_stats": "keep"}),
  "cls, paper": ("cls", "paper", {"model.pretrained": "", "data.size": 128}),
  "cls, average": ("cls", "phantom", {"model.width": 2, "model.pool": "average", "train.class_weights": "balanced"}),
  "cls, min": (
    "cls",
    "phantom",
    {"model.width": 2, "model.pool": "min", "train.mixup": 0.2, "loss.label_smoothing": 0.1},
  ),
  "cls, phantom": ("cls", "phantom", {"model.width": 2, "data.contrast": "stretch", "data.normalize": "image"}),
}


# The networks of the other presets are deep, and compile for long: but for one of each encoder, their steps are traced.
DEEP = {name for name, (_, preset, _) in STEPS.items() if preset != "phantom"}
TRACED = DEEP - {"seg, default", "cls, resnet50"}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_what_a_configuration_names_takes_a_step_and_predicts(name, monkeypatch):
  one_device = functools.partial(sharding.make_mesh, jax.devices()[:1])  # compiles several times faster than eight
  monkeypatch.setattr(sharding, "make_mesh", one_device)
  file, preset, fields = STEPS[name]
  config = FILES[file].get_config(preset)
  config.update_from_flattened_dict({"data.size": 64, "train.batch_size": 8, "eval.batch_size": 8} | fields)
  made = components.make_components(config)
  rng = np.random.default_rng(0)
  truth = np.zeros((8, 64, 64), np.uint8)
  truth[:4, 20:40, 20:40] = 1
  image = np.stack([made.contrast(image) for image in rng.integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)])
  slices = dataclasses.replace(make_slices(truth, "AABBAABB"), image=image)
  state = restoring.first_state(config, made, abstract=False)
  step = make_train_step(made, config.train)
  examples = feed.arrays(slices, feed.slice_weights(config.train.class_weights, slices.label))
  groups = feed.sampling_groups(config.train.sampling, slices.label)
  indices = feed.train_indices(seed=0, step=0, batch_size=8, groups=groups)
  compiled = sharding.compile_step(config.parallel, step, made.mesh, cut=(False, True, False), train=True)
  batch, rate = {name: array[indices] for name, array in examples.items()}, made.schedule(10)(0)
  if name in TRACED:
    after, loss = jax.eval_shape(compiled, state, batch, rate)
    assert loss.shape == () and jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
  else:
    state, loss = compiled(state, batch, rate)
    assert np.isfinite(loss) and int(state.nonfinite_step) == -1 and int(state.step) == 1
  logits = prediction.predict(config, made, state.eval_variables, slices)
  assert logits.slices.shape == (8,) and np.isfinite(logits.slices).all()
  if file == "seg":
    assert logits.pixels.shape == (8, 64, 64, 1) and np.isfinite(logits.pixels).all()


def chains(path):
  """Every dotted name a module reads, e.g. config.train.epochs, and those handed on whole with two stars."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Attribute):
      yield ast.unparse(node)
    if isinstance(node, ast.keyword) and node.arg is None:
      yield f"**{ast.unparse(node.value)}"
    if isinstance(node, ast.Dict):
      yield from (f"**{ast.unparse(value)}" for key, value in zip(node.keys, node.values, strict=True) if key is None)


@pytest.mark.parametrize(
  ("fields", "chosen", "takers"),
  [
    ({"model.slice_head": True}, "model.name=unet", "model.name=lite_unet"),
    ({"model.name": "resunet", "model.width": 999}, "model.name=resunet", "model.name=unet or resunet_scratch or cnn"),
    ({"model.pool": "min"}, "model.name=unet", "model.name=cnn"),
    ({"loss.exponent": 0.9}, "loss.name=bce_dice", "loss.name=focal_tversky"),
    ({"loss.name": "bce", "loss.smooth": 0.0}, "loss.name=bce", "loss.name=dice or bce_dice or focal_tversky"),
    ({"loss.label_smoothing": 0.1}, "loss.name=bce_dice", "loss.name=cross_entropy"),
    ({"train.momentum": 0.5}, "train.optimizer=adamw", "train.optimizer=sgd"),
    # A value of another preset's is set all the same.
    ({"train.optimizer": "sgd", "train.weight_decay": 1e-2}, "train.optimizer=sgd", "train.optimizer=adamw"),
    ({"train.optimizer": "sgd", "train.epsilon": 0.1}, "train.optimizer=sgd", "train.optimizer=adam or adamw"),
    ({"split.seed": 1}, "split.kind=fold", "split.kind=random"),
    ({"split.folds": "3"}, "split.kind=fold", "split.kind=group"),
    ({"split.kind": "group", "split.fold": 7}, "split.kind=group", "split.kind=fold"),
    ({"data.folds": 7}, "data.name=phantom", "data.name=own"),
    ({"data.window": "-160,240"}, "data.name=phantom", "data.name=own"),
    ({"data.expect_full": False}, "data.name=phantom", "data.name=lgg"),
    ({"feed": "resident", "data.workers": 2}, "feed=resident", "feed=auto or stream"),
    ({"feed": "stream", "train.steps_per_dispatch": 5}, "feed=stream", "feed=auto or resident"),
    (
      {"data.channels": "flair-1,flair", "eval.flair_only": True},
      "data.channels=flair-1,flair",
      "other channels by flair",
    ),
  ],
)
def test_a_field_that_was_set_and_has_no_effect_is_refused(fields, chosen, takers, tmp_path):
  config = seg.get_config("phantom")
  config.update_from_flattened_dict(fields)
  with pytest.raises(UserError) as error:
    train.train(config, tmp_path / "run")
  *_, (field, value) = fields.items()
  assert str(error.value).startswith(f"{field} is {value!r}, and has no effect with {chosen}")
  assert "leave it out" in str(error.value) and str(error.value).endswith(takers) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "fields",
  [
    {"model.name": "resunet"},  # which has no width, and the preset sets one
    {"split.kind": "random", "split.seed": 3},
    {"loss.name": "focal_tversky", "loss.exponent": 1.0, "loss.smooth": 0.0, "loss.fn_weight": 0.5},
    {"train.optimizer": "sgd", "train.momentum": 0.5},
    {"feed": "auto", "data.workers": 2, "train.steps_per_dispatch": 5},
  ],
)
def test_a_field_with_an_effect_is_accepted(fields, tmp_path):
  config = seg.get_config("phantom")
  config.update_from_flattened_dict(fields)
  unused_fields.check(config, tmp_path / "run", INFO)


@pytest.mark.parametrize(("file", "preset"), [(name, preset) for name in FILES for preset in FILES[name].PRESETS])
def test_no_preset_sets_a_field_that_is_refused(file, preset, tmp_path):
  config = FILES[file].get_config(preset)
  unused_fields.check(config, tmp_path / "run", INFO)
  common.suit_own_data(config)
  unused_fields.check(config, tmp_path / "run", INFO)


def test_a_run_that_was_begun_keeps_the_fields_it_was_begun_with(tmp_path):
  """As an earlier version did not refuse them, and without them it would be another configuration."""
  config = seg.get_config("phantom")
  config.loss.exponent = 0.9
  (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
  assert saved.read(tmp_path)["loss"]["exponent"] == 0.9
  for workdir in (tmp_path, tmp_path / "fold_03"):
    unused_fields.check(config, workdir, INFO)
  with pytest.raises(UserError, match="loss.exponent"):
    unused_fields.check(config, tmp_path / "fold_03" / "other", INFO)


def test_cross_validation_takes_no_fold_to_test(tmp_path):
  config = seg.get_config("phantom")
  config.split.fold = 7
  with pytest.raises(UserError, match="split.fold is 7, and cross-validation tests every fold: leave it out"):
    crossval.crossval(config, tmp_path / "run")
  assert not list(tmp_path.iterdir())


def test_a_network_made_by_name_refuses_fields_that_it_does_not_take():
  with pytest.raises(UserError, match="resunet takes no pool: expected one of classes, dtype, features, variant"):
    make_model(SEGMENTERS, "resunet", pool="banana")


def test_every_field_is_read():
  """A section is handed on whole (`**config.loss`, where one name too many raises), or each field is read by name."""
  read = {chain for path in [ROOT / "launch.py", *(ROOT / "bt_jax").rglob("*.py")] for chain in chains(path)}
  # The training step is handed its section as its options.
  read |= {chain.replace("options.", "config.train.", 1) for chain in read if chain.startswith("options.")}
  # A data set is handed the fields that its arguments name.
  read |= {f"config.data.{field}" for source in DATASETS.values() for field in fields_of(source)}
  unread = [
    name
    for name in fields(common.get_config())
    if f"config.{name}" not in read and f"**config.{name.split('.')[0]}" not in read
  ]
  assert unread == []


def test_every_field_has_a_comment_or_says_it_all():
  lines = re.findall(r"config\.([\w.]+) = (?!ConfigDict\(\)).*?(#.*)?$", (ROOT / "configs/common.py").read_text(), re.M)
  silent = {name for name, comment in lines if not comment}
  assert silent <= {"train.epochs"}


def test_no_such_preset():
  with pytest.raises(
    UserError, match="configs/seg.py has no preset 'medium': there are small, own, phantom, paper, or none"
  ):
    seg.get_config("medium")


@pytest.mark.parametrize(
  ("field", "value", "said"),
  [
    ("data.size", 100, "set data.size to 96 or 128"),
    ("data.name", "brats", "data.name is 'brats', expected one of lgg, phantom, own"),
    ("data.normalize", "none", "expected one of volume, percentiles, image"),
    ("data.channels", "flair,t2", "data.channels names 't2'"),
    ("data.contrast", "gamma", "data.contrast is 'gamma', expected one of none, stretch, clahe"),
    ("data.contrast", "stretch", "data.contrast=stretch changes intensities"),
    ("task", "detection", "task is 'detection', expected one of segmentation, classification"),
    ("model.name", "resnet50", "model.name is 'resnet50', expected one of unet, resunet, resunet_scratch"),
    ("train.stage_rates", "layer1=0", "names 'layer1', which is no stage of this network"),
    ("train.batch_stats", "freeze", "train.batch_stats is 'freeze', expected one of update, keep"),
    ("train.sampling", "tumour", "train.sampling is 'tumour', expected one of all, balanced, tumor"),
    ("train.class_weights", "balanced", "train.mixup and train.class_weights are for classification"),
    ("train.schedule", "linear", "train.schedule is 'linear', expected one of cosine, constant"),
    ("model.encoder", "lite9", "model.encoder is 'lite9', expected one of lite0, lite1, lite2"),
    ("augment.drop_sequence", 1.5, "augment.drop_sequence is 1.5, expected 0 to 1"),
    ("crossval.group", 20, "crossval.group is 20, expected 1 to 19"),
    ("model.pretrained", "missing.pth", "there is no file missing.pth"),
    ("split.fold", 22, "split.fold is 22, expected 0 to 21"),
    ("split.fold", -1, "split.fold is -1"),
    ("split.kind", "patient", "expected one of fold, group, random"),
    ("model.name", "vnet", "model.name is 'vnet', expected one of unet"),
    ("model.dtype", "float8", "expected one of float32, bfloat16"),
    ("model.norm", "group", "model.norm is 'group', and has no effect with model.name=lite_unet: leave it out"),
    ("model.width", 0, "model.width is 0, expected 1 or more"),
    ("loss.name", "mse", "loss.name is 'mse'"),
    ("loss.name", "cross_entropy", "loss.name is 'cross_entropy', expected one of bce"),
    ("train.batch_size", 0, "train.batch_size is 0"),
    ("train.batch_size", 12, "take 8 or 16"),
    (
      "train.accumulate",
      3,
      "expected a positive multiple of the number of devices (8) times train.accumulate (3): take 24",
    ),
    ("train.steps_per_dispatch", 0, "train.steps_per_dispatch is 0, expected 1 or more"),
    ("parallel", "xmap", "parallel is 'xmap', expected one of jit, pmap"),
    ("feed", "disk", "feed is 'disk', expected one of auto, resident, stream"),
    ("data.workers", -1, "data.workers is -1, expected 0 or more"),
    ("train.epochs", 0, "train.epochs is 0, expected 1 or more"),
    ("train.optimizer", "lbfgs", "train.optimizer is 'lbfgs'"),
    ("train.score", "dice", "train.score is 'dice', expected one of pooled.dice"),
    ("eval.batch_size", -1, "eval.batch_size is -1"),
    ("eval.threshold", 1.5, "eval.threshold is 1.5, expected 0 to 1"),
    ("train.seed", -1, "train.seed is -1, expected 0 or more"),
    ("augment.gamma", -2.0, "augment.gamma is -2.0, expected 0 or more"),
  ],
)
def test_an_invalid_field_is_refused_before_any_data_is_touched(field, value, said, tmp_path):
  config = seg.get_config()
  config.data.dir = str(tmp_path / "data")
  if (field, value) == ("data.contrast", "stretch"):
    config.data.normalize = "volume"
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError) as error:
    train.train(config, tmp_path / "run")
  assert said in str(error.value) and "\n" not in str(error.value)
  assert list(tmp_path.iterdir()) == []


def test_contrast_is_of_slices_of_8_bits(tmp_path):
  synthetic.write_pictures(tmp_path, cases=5)
  config = seg.get_config("phantom")
  config.data.update(
    name="own", root=str(tmp_path), dir=str(tmp_path / "built"), contrast="clahe", normalize="image", channels="all"
  )
  with pytest.raises(UserError, match="enhances slices of 8 bits"):
    components.make_components(config)


def test_largest_component_needs_whole_volumes(tmp_path):
  config = seg.get_config()
  config.split.kind, config.eval.largest_component = "random", True
  with pytest.raises(UserError, match="needs whole volumes"):
    train.train(config, tmp_path / "run")


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"train.sampling": "tumor"}, "leaves a classifier one class only"),
    ({"train.sampling": "balanced", "train.class_weights": "balanced"}, "correct for the same twice"),
    ({"eval.largest_component": True}, "is for segmentation"),
    ({"model.name": "unet"}, "model.name is 'unet', expected one of cnn, resnet50"),
    ({"model.pool": "median"}, "model.pool is 'median'"),
    ({"model.norm": "layer"}, "model.norm is 'layer', expected one of batch, group"),
    ({"model.norm": "group", "train.batch_stats": "keep"}, "is for the statistics of batch norm, and model.norm=group"),
    (
      {"model.name": "resnet50", "model.variant": "caffe"},
      "model.variant is 'caffe', expected one of torchvision, keras",
    ),
    ({"model.name": "resnet50", "model.head": "mlp"}, "model.head is 'mlp', expected one of linear, paper"),
    ({"model.name": "resnet50", "model.head": "paper", "data.size": 64}, "set data.size to 128"),
    ({"train.score": "pooled.dice"}, "expected one of accuracy, roc_auc, average_precision"),
  ],
)
def test_invalid_fields_of_a_classifier_are_refused(fields, said):
  config = cls.get_config("phantom")
  config.update_from_flattened_dict(fields)
  with pytest.raises(UserError) as error:
    components.make_components(config)
  assert said in str(error.value) and "\n" not in str(error.value)
