"""What docs/extending.md shows is run as it stands there."""

import pathlib
import re

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest

from bt_jax import losses, metrics, models
from bt_jax.datasets import registry, store
from bt_jax.errors import UserError
from bt_jax.evaluation import aggregation, records
from bt_jax.runs import components, restoring, unused_fields
from bt_jax.training.step import make_predict_step, make_train_step
from configs import common, saved, seg
from tests.helpers.launching import ROOT
from tests.helpers.slices import PROBABILITY, TRUTH, make_slices

TABLES = (models.SEGMENTERS, losses.SEGMENTATION_LOSSES, metrics.METRICS, registry.DATASETS, components.RANGES)


@pytest.fixture
def shown(monkeypatch):
  """The names that the page defines; what it puts into tables is taken out again, and the defaults have its fields."""
  before = [dict(table) for table in TABLES]
  names = {}
  text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
  blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
  fields = [block for block in blocks if block.startswith("config.")]
  for block in blocks:
    if block not in fields:
      exec(compile(block, "docs/extending.md", "exec", dont_inherit=True), names)
  defaults = common.get_config

  def with_fields():
    config = defaults()
    for block in fields:
      exec(compile(block, "docs/extending.md", "exec", dont_inherit=True), {"config": config})
    return config

  monkeypatch.setattr(common, "get_config", with_fields)
  yield names
  for table, own in zip(TABLES, before, strict=True):
    table.clear()
    table.update(own)


def test_the_network_and_the_loss_train_and_predict_by_their_names(shown):
  config = seg.get_config("phantom")
  config.data.size, config.model.name, config.model.width, config.model.depth = 32, "dilated", 4, 2
  config.model.pretrained, config.loss.name = "", "squared"
  made = components.make_components(config)
  unused_fields.check(config, pathlib.Path("no run yet"), made.info)
  assert isinstance(made.model, shown["Dilated"]) and made.model.classes == 1
  rng = np.random.default_rng(0)
  mask = np.zeros((8, 32, 32, 1), np.uint8)
  mask[:, 8:20, 8:20] = 1
  image = np.clip(60 + 120 * mask + rng.normal(0, 5, (8, 32, 32, 3)), 0, 255).astype(np.uint8)
  statistics = {"volume_mean": image.mean((1, 2)), "volume_std": image.std((1, 2))}
  batch = {"image": image, "mask": mask, "label": np.ones(8, np.int32), "weight": np.ones(8, np.float32)}
  batch |= {name: array.astype(np.float32) for name, array in statistics.items()}
  step = jax.jit(make_train_step(made, config.train))
  state, values = restoring.first_state(config, made, abstract=False), []
  for _ in range(30):
    state, value = step(state, batch, 1e-2)
    values.append(float(value))
  assert values[-1] < 0.5 * values[0]
  predict = make_predict_step(model=made.model, task=made.task, preprocess=made.preprocess)
  assert jax.jit(predict)(state.variables, batch).pixels.shape == (8, 32, 32, 1)


def test_a_new_field_of_a_network_is_set_checked_and_refused_by_others(shown, tmp_path):
  config = seg.get_config("phantom")
  assert "spread" in config.model and "spread" not in seg.get_config("phantom").loss
  config.model.update(name="dilated", width=4, depth=3, spread=3)
  config.data.size = 32
  made = components.make_components(config)
  assert made.model.spread == 3
  unused_fields.check(config, tmp_path / "run", made.info)
  # A pixel reaches 1 + 3 + 9 pixels far through convolutions of 3 x 3.
  image = jnp.zeros((1, 64, 64, 3))
  variables = made.model.init(jax.random.key(0), image)
  seen = jax.grad(lambda image: made.model.apply(variables, image)[0, 32, 32, 0])(
    image + jax.random.normal(jax.random.key(1), image.shape)
  )
  rows = np.flatnonzero(np.abs(seen).sum((0, 2, 3)))
  assert (rows.min(), rows.max()) == (32 - 13, 32 + 13)
  config.model.name = "unet"
  with pytest.raises(
    UserError, match="model.spread is 3, and has no effect with model.name=unet: .* model.name=dilated"
  ):
    unused_fields.check(config, tmp_path / "run", made.info)
  config.model.update(name="dilated", spread=0)
  with pytest.raises(UserError, match="model.spread is 0, expected 1 or more"):
    components.make_components(config)
  before = {name: value for name, value in config.model.to_dict().items() if name != "spread"}
  assert saved.over_defaults(config.to_dict() | {"model": before}, "config.json")["model"]["spread"] == 2


def test_the_loss_by_hand(shown):
  logits, masks = jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1)).at[0, 0, 0, 0].set(0.0)
  with pytest.raises(UserError, match=r"no loss takes smoth: did you mean smooth\?"):
    losses.make_loss(name="squared", smoth=1.0)
  loss = losses.make_loss(name="squared", smooth=1.0, pooled=True, overlapping=False)
  np.testing.assert_allclose(loss(logits, masks), 0.25)


def test_the_metric_is_in_rows_and_summaries(shown):
  slices = make_slices(TRUTH, "ABCDEF")  # six patients: below five there are no intervals
  masks = PROBABILITY[..., None] >= 0.5
  rows = records.slice_records(slices, PROBABILITY.max((1, 2)), masks, data="d", split="s", classes=("tumor",))
  wrong, predicted = sum(row["fp"] for row in rows), sum(row["tp"] + row["fp"] for row in rows)
  summary = aggregation.summarize(rows, intervals=True)
  assert summary["pooled"]["false_discovery"] == pytest.approx(wrong / predicted)
  assert summary["patient"]["false_discovery_mean_ci95"] is not None
  a, *_ = records.patient_records(rows)
  assert a["false_discovery"] == pytest.approx(a["fp"] / (a["tp"] + a["fp"]))


def test_the_data_set_is_built_and_read_back(shown, tmp_path):
  rng = np.random.default_rng(0)
  drawn = {}
  for number in range(6):
    image = rng.integers(0, 4000, (24, 24, 5)).astype(np.int16)
    mask = np.zeros((24, 24, 5), np.uint8)
    mask[number : number + 8, 3:9, 1:4] = 2
    for name, array in (("scan", image), ("drawn", mask)):
      nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, -1, 3, 1])), tmp_path / f"{name}_{number}.nii.gz")
    drawn[str(number)] = mask
  config = seg.get_config("own")
  config.data.update(name="scribbles", root=str(tmp_path), dir=str(tmp_path / "tfds"), folds=3)
  source = registry.source_of(config)
  builder = source.open_or_build()
  index = source.read_index(builder)
  assert source.info.classes == ("tumor",) and source.info.ids == (2,) and source.info.size == 24
  assert len(index) == 30 and {entry.fold for entry in index} == {0, 1, 2}
  slices = store.Reader.of(builder, source.info, index).read([entry.id for entry in index])
  for name, mask in drawn.items():
    np.testing.assert_array_equal(slices.mask[slices.case == name, ..., 0], mask.transpose(2, 1, 0) == 2)
