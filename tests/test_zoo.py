"""The weights that ship: what is in their files and cards, and what they do."""

import re
import subprocess

import nibabel
import numpy as np
import pytest

import bt_jax
from bt_jax import zoo
from bt_jax.datasets import samples
from bt_jax.datasets.lgg_mri import phantom
from bt_jax.datasets.splits import Split
from bt_jax.datasets.store import SliceId
from bt_jax.inference import networks, ood
from bt_jax.runs import transfer
from bt_jax.training import checkpoint_record, network_file
from tests.helpers.launching import ROOT, environment
from tests.helpers.refusals import refused

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", zoo.names())
def test_weights_are_of_all_patients_with_choices_by_cross_validation(name):
  path = zoo.path_of(name)
  variables, record = network_file.read(path)
  checkpoint_record.check(record, path)
  assert path.stat().st_size < 1e7
  assert len(record["patients"]["train"]) == 110 and not record["patients"]["validation"]
  assert record["chosen_by"]["splits"] and record["decision"]["tumor_probabilities"]
  assert "never clinical use" in record["research_use"]
  assert variables["params"]


@pytest.mark.parametrize("name", zoo.names())
def test_a_card_says_what_it_saw_its_licence_and_what_it_is_not_for(name):
  card = zoo.path_of(name).with_suffix(".md").read_text()
  for words in ("CC BY-NC-SA 4.0", "110 patients", "never clinical use", "Not for"):
    assert words in card, words
  # The choices it states are those in the file.
  _, record = network_file.read(zoo.path_of(name))
  assert f"threshold {record['decision']['threshold']:.2f}" in card
  assert f"{record['chosen_by']['patients']} patients" in card


def test_a_training_that_tests_its_patients_is_refused():
  run = transfer.load(zoo.path_of("lgg"))
  index = [
    SliceId(fold, "s", number, name, f"{name}_1", f"{name}_1/1", 1)
    for number, (fold, name) in enumerate([(0, "A"), (1, "TCGA_CS_4941"), (2, "B")])
  ]
  split = Split("made up", False, *((entry.id,) for entry in index))
  refused(lambda: transfer.check_no_leak(split, index, run), "TCGA_CS_4941", "that leaks")
  transfer.check_no_leak(Split("made up", False, split.train, split.test, ()), [index[0], index[2]], run)


def test_a_head_has_a_skull_as_the_weights_know_it_and_a_brain_alone_has_none():
  """By the feature that prediction checks, whose range over training volumes the weights carry."""
  profile = networks.load(zoo.path_of("lgg"), "segmentation", "checkpoint").profile
  make = lambda **skull: phantom.make_volume(np.random.default_rng(3), 12, **skull)
  (head, _), (brain, _) = make(has_skull=True), make()
  assert ood.warnings(head[..., 1], profile) == []
  assert any("skull" in line for line in ood.warnings(brain[..., 1], profile))


@pytest.mark.slow
def test_the_command_of_the_readme_outlines_the_lesion_of_the_sample(tmp_path):
  command = re.search(r"```sh\n(python -m bt_jax\.datasets\.samples --head.*?)\n```", README, re.DOTALL)[1]
  command = command.replace("/tmp/bt_jax", str(tmp_path))
  done = subprocess.run(["bash", "-ec", command], cwd=ROOT, env=environment(), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "For research only, never clinical use." in done.stdout
  written = nibabel.load(tmp_path / "mask" / "mask.nii.gz")
  predicted = np.transpose(np.asarray(written.dataobj) > 0, (1, 0, 2))  # as the sample is written
  _, truth = phantom.make_volume(np.random.default_rng(samples.HEAD_SEED), samples.HEAD_SLICES, has_skull=True)
  truth = truth > 0
  assert 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()) > 0.8
  assert "warning" not in done.stdout


@pytest.mark.slow
def test_loaded_by_name_it_is_the_same_network():
  image, _ = phantom.make_volume(np.random.default_rng(samples.HEAD_SEED), 8, has_skull=True)
  by_name, by_path = (bt_jax.load(name) for name in ("lgg", str(zoo.path_of("lgg"))))
  np.testing.assert_array_equal(by_name.predict(image).mask, by_path.predict(image).mask)
  assert type(by_name.module).__name__ == "LiteUNet" and set(by_name.variables) == {"params", "batch_stats"}
