import contextlib

import jax
import numpy as np
import pytest

from bt_jax.pipeline import feed
from bt_jax.runs import input_pipeline, run_data
from bt_jax.runs.components import make_components
from configs import seg


@pytest.fixture(scope="module")
def inputs(phantom_root, data_dir):
  """Makes the configuration of a feed, its parts and its data, by fold."""

  def make(fold, **fields):
    config = seg.get_config("phantom")
    config.update_from_flattened_dict(
      {
        "data.root": str(phantom_root), "data.dir": str(data_dir), "data.size": 32, "model.width": 2, "model.depth": 2,
        "split.fold": fold,
      }
      | {name.replace("__", "."): value for name, value in fields.items()}
    )  # fmt: skip
    parts = make_components(config, "volume")
    data = run_data.open_data(config, parts)
    groups = feed.sampling_groups("all", data.labels("train"))
    rates = np.linspace(0, 1, 40, dtype=np.float32)
    pipeline = input_pipeline.make_input_pipeline(config, parts, data, groups=groups, rates=rates, start=0, stack=stack)
    return pipeline.take, data, rates

  with contextlib.ExitStack() as stack:
    yield make


def test_inputs_of_several_steps_have_one_shape_for_all_folds_and_counts(inputs):
  shapes, sizes = set(), set()
  for fold in (0, 5):
    take, data, rates = inputs(fold, train__steps_per_dispatch=4)
    sizes.add(len(data.split.train))
    for done, most, taken in ((0, 11, 4), (8, 3, 3), (10, 1, 1)):
      count, batches, learning_rates = take(done, most)
      assert count == batches.count == taken
      assert batches.indices.shape == (8, 4) and batches.indices.max() < len(data.split.train)
      np.testing.assert_array_equal(learning_rates[:count], rates[done : done + count])
      shapes.add(str(jax.tree.map(lambda x: (x.shape, x.dtype), (batches, learning_rates))))
  assert len(sizes) == 2 and len(shapes) == 1


def test_all_feeds_hold_the_same_slices(inputs):
  several, _, _ = inputs(0, train__steps_per_dispatch=3)
  batches = several(0, 9).batch
  memory, *_ = inputs(0, feed="resident")
  disk, *_ = inputs(0, feed="stream", data__workers=0)
  for step in range(3):
    (one, batch, rate), same = memory(step, 9), disk(step, 9).batch
    assert one == 1 and rate == np.linspace(0, 1, 40, dtype=np.float32)[step]
    for name, array in batch.items():
      np.testing.assert_array_equal(array, same[name])
      np.testing.assert_array_equal(array, np.asarray(batches.slices[name])[np.asarray(batches.indices)[:, step]])
