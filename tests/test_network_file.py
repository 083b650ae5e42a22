"""A trained network in one file: what is kept, what is refused, and what cross-validation chooses for it."""

import copy
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from bt_jax import zoo
from bt_jax.datasets.lgg_mri.lgg_mri_dataset_builder import published_folds
from bt_jax.errors import UserError
from bt_jax.inference import networks
from bt_jax.runs import out_of_fold, transfer
from bt_jax.training import checkpoint_record, network_file
from bt_jax.training.train_state import tree_hash
from configs import saved
from tests.helpers.arithmetic import PROFILE
from tests.helpers.launching import ROOT
from tests.helpers.refusals import refused

PATIENTS = sorted(published_folds())
FOLDS = ROOT / "docs" / "results" / "lite_unet_all"


def variables(seed=0):
  generator = np.random.default_rng(seed)
  array = lambda *shape: generator.normal(size=shape).astype(np.float32)
  return {
    "params": {"head": {"kernel": array(3, 3, 4, 2), "bias": array(2)}},
    "batch_stats": {"norm": {"var": array(4) * 1e6}},
  }


def record(**fields):
  """The record of a network that was trained on all patients with the configuration of the committed folds."""
  config = saved.read(FOLDS / "folds_00-01")
  config["split"] |= {"kind": "all"}
  decision = {"threshold": 0.5, "temperature": 1.0, "tumor_probabilities": []}
  return {
    "config": config, "decision": decision, "profile": PROFILE, "normalize": "volume", "data": "TCGA-LGG", "history": [],
    "patients": {"train": PATIENTS, "validation": []}, "split": "all_patients", "step": 8, "arrays_sha256": "-",
    "bt_jax": "0.2.0", **fields,
  }  # fmt: skip


@pytest.fixture
def written(tmp_path):
  return network_file.write(tmp_path / "network.safetensors", variables(), record())


def test_kernels_are_halved_and_all_else_is_kept(written):
  read, about = network_file.read(written)
  ours = variables()
  np.testing.assert_allclose(read["params"]["head"]["kernel"], ours["params"]["head"]["kernel"], rtol=2**-11, atol=1e-7)
  np.testing.assert_array_equal(read["params"]["head"]["bias"], ours["params"]["head"]["bias"])
  np.testing.assert_array_equal(read["batch_stats"]["norm"]["var"], ours["batch_stats"]["norm"]["var"])
  assert {leaf.dtype.name for leaf in jax.tree.leaves(read)} == {"float32"}
  assert about["arrays_sha256"] == tree_hash(read)
  assert "history" not in about
  assert {name: about[name] for name in ("decision", "split", "patients")} == {
    name: record()[name] for name in ("decision", "split", "patients")
  }
  checkpoint_record.check(about, written)


def test_it_is_found_as_a_network_and_published_weights_are_not(written, tmp_path):
  published = tmp_path / "published.safetensors"
  safetensors.numpy.save_file({"conv.weight": np.ones((2, 2), np.float32)}, published)
  assert network_file.is_network(written)
  assert not network_file.is_network(published)
  assert not network_file.is_network(tmp_path / "none.safetensors")
  assert transfer.find(str(written)) == written
  assert transfer.find(str(published)) is None
  refused(lambda: network_file.read(published), "holds weights, and not a trained network", str(published))


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_refused(written, share):
  content = written.read_bytes()
  written.write_bytes(content[: int(len(content) * share)])
  assert not network_file.is_network(written)
  refused(lambda: network_file.read(written), str(written), "damaged")


def test_every_changed_byte_is_refused_or_has_no_effect(written):
  content, (before, about) = written.read_bytes(), network_file.read(written)
  for position in np.random.default_rng(0).integers(8, len(content), 300):
    changed = bytearray(content)
    changed[position] ^= 4
    written.write_bytes(changed)
    try:
      read, now = network_file.read(written)
    except UserError as error:
      assert "\n" not in str(error)
    else:
      assert tree_hash(read) == tree_hash(before)
      assert now == about


def test_a_kernel_beyond_half_precision_is_refused(tmp_path):
  large = variables()
  large["params"]["head"]["kernel"][0, 0, 0, 0] = 1e5
  path = tmp_path / "network.safetensors"
  refused(lambda: network_file.write(path, large, record()), "params/head/kernel", "half precision")
  assert not path.exists()


def test_folds_choose_what_a_validation_set_would():
  chosen = out_of_fold.choose(record(), [str(FOLDS / "folds_00-01"), str(FOLDS / "folds_02-03")])
  decision = chosen["decision"]
  assert decision["threshold"] == pytest.approx((0.2 + 0.3) / 2)  # of their summaries
  assert len(decision["tumor_probabilities"]) == 126 + 114  # slices with a tumour in their tables
  assert decision["tumor_probabilities"] == sorted(decision["tumor_probabilities"])
  assert chosen["chosen_by"]["patients"] == 20
  # An unfinished folder among them is no fold.
  assert out_of_fold.choose(record(), [str(FOLDS / "folds_0[0-3]*")]) == chosen


def test_folds_of_another_configuration_are_refused():
  other = record()
  other["config"] = copy.deepcopy(other["config"])
  other["config"]["train"]["epochs"] = 9
  refused(lambda: out_of_fold.choose(other, [str(FOLDS)]), "another configuration", "train.epochs (8 there, 9 now)")


def test_folds_of_other_patients_or_named_twice_are_refused(tmp_path):
  few = record(patients={"train": [name for name in PATIENTS if name != "TCGA_CS_4944"], "validation": []})
  refused(lambda: out_of_fold.choose(few, [str(FOLDS / "folds_00-01")]), "TCGA_CS_4944", "not trained on")
  shutil.copytree(FOLDS / "folds_00-01", tmp_path / "copy")
  refused(
    lambda: out_of_fold.choose(record(), [str(FOLDS / "folds_00-01"), str(tmp_path)]), "is tested in", "leave one"
  )


def test_folds_may_have_other_loggers():
  other = record()
  other["config"] = other["config"] | {"log": "mlflow"}
  folds = [str(FOLDS / name) for name in ("folds_00-01", "folds_02-03")]
  assert out_of_fold.choose(other, folds) == out_of_fold.choose(record(), folds)


def test_folds_for_a_network_with_a_validation_set_are_refused():
  own = record(split="patient_fold_00")
  refused(lambda: out_of_fold.choose(own, [str(FOLDS)]), "validation set of its own")


def test_no_folds_are_refused(tmp_path):
  refused(lambda: out_of_fold.choose(record(), [str(tmp_path)]), "holds no finished fold")
  shutil.copytree(FOLDS / "folds_00-01", tmp_path / "run")
  (tmp_path / "run" / "summary.json").unlink()
  refused(lambda: out_of_fold.choose(record(), [str(tmp_path)]), "holds no finished fold")


def test_a_name_that_does_not_ship_is_answered_with_those_that_do():
  assert zoo.path_of("lgg/..") is None
  refused(lambda: networks.find(["no_such_network"], "checkpoint"), "there is no no_such_network", *zoo.names())
