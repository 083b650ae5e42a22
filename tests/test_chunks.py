"""Validation and test in chunks of patients say what they say of all slices at once."""

import csv
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax import losses
from bt_jax.distributed import global_batch
from bt_jax.evaluation import calibration
from tests.helpers.launching import ROOT, environment, launch
from tests.helpers.own_folders import nnunet
from tests.helpers.slices import make_slices

FIELDS = {"fp_weight": 0.3, "fn_weight": 0.7, "exponent": 0.75, "smooth": 1.0, "label_smoothing": 0.0}


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("name", losses.SEGMENTATION_LOSSES)
def test_the_loss_of_a_batch_in_chunks_is_that_of_the_batch(name, pooled):
  loss = losses.make_loss(name=name, pooled=pooled, **FIELDS)
  rng = np.random.default_rng(0)
  logits, masks = (
    jnp.asarray(rng.normal(0, 2, (7, 6, 6, 2)), jnp.float32),
    jnp.asarray(rng.integers(0, 2, (7, 6, 6, 1)) * [1.0, 0.0], jnp.float32),
  )
  parts, totals = (slice(0, 1), slice(1, 3), slice(3, 7)), global_batch.Totals()
  alone, together = [], []
  for part in parts:
    with totals.add():
      alone.append(loss(logits[part], masks[part]))
  for part in parts:
    with totals.use():
      together.append(loss(logits[part], masks[part]))
  whole = loss(logits, masks)
  np.testing.assert_allclose(np.concatenate(together), whole, rtol=1e-5)
  assert totals.matter == (pooled and name != "bce")  # otherwise one pass is enough
  assert np.allclose(np.concatenate(alone), whole) != totals.matter


def test_the_temperature_of_counted_pixels_is_that_of_the_pixels():
  rng = np.random.default_rng(0)
  odds = rng.normal(-2, 3, (6, 40, 40)).astype(np.float32)
  odds[:, :20] = -20  # as most of a background is, beyond the edge of what is counted
  truth = rng.random(odds.shape) < jax.nn.sigmoid(odds / 2)
  slices, probability = make_slices(np.asarray(truth), "AABBCC"), np.asarray(jax.nn.sigmoid(odds))[..., None]
  counts = calibration.PixelCounts()
  counts.add(slices, probability)
  expected = calibration.fit_temperature(probability.ravel(), slices.mask.ravel())
  assert counts.temperature() == pytest.approx(expected, rel=1e-5) and expected == pytest.approx(2, rel=0.1)


IN_CHUNKS = (
  "from bt_jax import cli; from bt_jax.runs import chunks; chunks.CHUNK_BYTES, chunks.KEPT_BYTES = 1, 0; cli.main()"
)


@pytest.mark.slow
@pytest.mark.parametrize(
  "flags", [[], ["--config.eval.largest_component", "--config.eval.mirror"]], ids=["plain", "volumes"]
)
def test_a_run_in_chunks_of_one_patient_ends_as_one_that_holds_all_slices(flags, tmp_path):
  words = [
    "--config=configs/seg.py:own", f"--config.data.root={nnunet(tmp_path / 'data', cases=12)}", f"--config.data.dir={tmp_path / 'tfds'}",
    "--config.data.folds=3", "--config.data.size=16", "--config.model.name=unet", "--config.model.width=4", "--config.model.depth=2",
    "--config.model.pretrained=", "--config.train.epochs=2", "--config.train.batch_size=8", "--config.eval.batch_size=8", *flags,
  ]  # fmt: skip
  status, _, err = launch([*words, f"--workdir={tmp_path / 'whole'}"])
  assert status == 0, err
  command = [sys.executable, "-c", IN_CHUNKS, *words, f"--workdir={tmp_path / 'chunks'}"]
  subprocess.run(command, cwd=ROOT, env=environment() | {"GLIBC_TUNABLES": ""}, check=True)
  for name in ("slices", "patients", "reliability", "metrics"):
    one, other = (list(csv.DictReader((tmp_path / run / f"{name}.csv").open())) for run in ("whole", "chunks"))
    assert len(one) == len(other) > 0
    for row, same in zip(one, other, strict=True):
      for column in row.keys() - {"slices_per_second", "input_share"}:
        try:
          assert float(same[column]) == pytest.approx(float(row[column]), rel=1e-4, abs=1e-6, nan_ok=True), column
        except ValueError:
          assert same[column] == row[column], column
  one, other = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("whole", "chunks"))
  assert one["threshold"] == other["threshold"] and one["temperatures"] == pytest.approx(
    other["temperatures"], rel=1e-4
  )
  assert one["validation"] == pytest.approx(other["validation"], rel=1e-4)
  one, other = (sorted((tmp_path / run).glob("volumes/*/*.png")) for run in ("whole", "chunks"))
  assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other] and len(
    one
  ) == 3 * 3  # three patients
