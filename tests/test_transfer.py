"""A network that starts from a run: what it computes, by channels and classes of other names and orders."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.datasets.channels import own_channels, parse_channels
from bt_jax.datasets.info import DatasetInfo
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.datasets.splits import Split
from bt_jax.datasets.store import SliceId
from bt_jax.errors import UserError
from bt_jax.models import SEGMENTERS
from bt_jax.runs import components, transfer
from configs import seg


def made(**fields):
  """Components of a small network, by its fields."""
  config = seg.get_config("phantom")
  config.data.size, config.model.depth, config.model.width = 32, 2, 4
  config.model.update(fields)
  return components.make_components(config)


def variables_of(model, channels, seed):
  return jax.tree.map(
    lambda leaf: leaf + 0.01 * jax.random.normal(jax.random.key(seed), leaf.shape),  # no bias stays 0
    model.init(jax.random.key(seed), jnp.zeros((1, 32, 32, channels))),
  )


def run_of(info, *, channels="all", width=4, name="unet", classes=1, patients=None):
  model = SEGMENTERS[name](width=width, depth=2, classes=classes)
  seen = parse_channels(channels, info)
  fields = {**seg.get_config("phantom").model.to_dict(), "name": name, "width": width, "depth": 2}
  run = transfer.TrainedRun(variables_of(model, len(seen), 1), fields, seen, info, "volume", "/run", "0", patients, 64)
  return run, model


IMAGE = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))


def test_channels_are_matched_by_name_whatever_their_order():
  turned = dataclasses.replace(INFO, channels=("POST", "pre", "Flair"), reference="Flair")
  run, model = run_of(turned)
  ours = made()
  transfer.check_fits(ours, run)
  variables, notes = transfer.fill(ours, variables_of(ours.model, 3, 2), run)
  expected = model.apply(run.variables, IMAGE[..., jnp.array([2, 0, 1])])
  np.testing.assert_allclose(ours.model.apply(variables, IMAGE), expected, atol=1e-4)
  assert "channels by name: pre, flair, post" in notes


def test_a_channel_that_is_new_sees_the_mean_of_the_others():
  run, _ = run_of(dataclasses.replace(INFO, channels=("flair", "t2"), reference="flair"))
  ours = made()
  before = variables_of(ours.model, 3, 2)
  variables, notes = transfer.fill(ours, before, run)
  first = lambda tree: np.asarray(jax.tree.leaves(tree["params"]["encoder1"]["conv1"])[-1])
  kernel, source = first(variables), first(run.variables)
  assert kernel.shape[2] == 3 and source.shape[2] == 2
  np.testing.assert_allclose(kernel[:, :, 1], source[:, :, 0] * 2 / 3, rtol=1e-6)
  np.testing.assert_allclose(kernel[:, :, 0], source.mean(2) * 2 / 3, rtol=1e-6)
  assert any("from the mean of the others: pre,post" in note for note in notes)


def test_a_head_of_other_classes_starts_anew_and_the_rest_is_taken_over():
  several = dataclasses.replace(INFO, classes=("core", "rim"), ids=(1, 2))
  run, _ = run_of(several, classes=2)
  ours = made()
  before = variables_of(ours.model, 3, 2)
  variables, notes = transfer.fill(ours, before, run)
  jax.tree.map(np.testing.assert_array_equal, variables["params"]["head"], before["params"]["head"])
  for name in ("encoder1", "bottom", "up1", "decoder1"):
    jax.tree.map(np.testing.assert_array_equal, variables["params"][name], run.variables["params"][name])
  assert any("the head is initialised at random, as it was for core, rim, and is for tumor" in note for note in notes)


def test_a_head_of_one_class_goes_on_whatever_the_class_is_called():
  run, model = run_of(dataclasses.replace(INFO, classes=("lesion",)))
  ours = made()
  variables, notes = transfer.fill(ours, variables_of(ours.model, 3, 2), run)
  np.testing.assert_allclose(ours.model.apply(variables, IMAGE), model.apply(run.variables, IMAGE), atol=1e-5)
  assert any("lesion" in note and "tumor" in note for note in notes)


def test_another_network_or_size_is_refused_in_one_line_that_names_the_field():
  run, _ = run_of(INFO, width=8)
  with pytest.raises(UserError, match=r"set model\.width=8") as refused:
    transfer.check_fits(made(), run)
  assert refused.value.arguments == ("model.width=8",)
  run, _ = run_of(INFO, name="resunet_scratch")
  with pytest.raises(UserError, match=r"is of resunet_scratch, and this network is unet"):
    transfer.check_fits(made(), run)
  run, _ = run_of(INFO)  # whose arrays would all fit
  with pytest.raises(UserError, match="has batch norm, and this network has group norm: set model.norm=batch"):
    transfer.check_fits(made(norm="group"), run)


INDEX = [
  SliceId(0, "s", number, patient, f"{patient}_a", f"{patient}_a/1", 1) for number, patient in enumerate("ABCDEF")
]
SPLIT = Split("s", False, ("A_a/1", "B_a/1"), ("C_a/1",), ("D_a/1",))


@pytest.mark.parametrize(
  ("train", "validation", "leaks"),
  [("AB", "C", None), ("D", "E", "D"), ("E", "D", "D"), ("C", "E", "C"), ("E", "A", None)],
)
def test_a_run_that_saw_patients_of_the_test_is_refused(train, validation, leaks):
  run, _ = run_of(INFO, patients={"train": list(train), "validation": list(validation)})
  if leaks is None:
    transfer.check_no_leak(SPLIT, INDEX, run)
  else:
    with pytest.raises(UserError, match=rf"learned from 1 patients .*, {leaks} among them: that leaks"):
      transfer.check_no_leak(SPLIT, INDEX, run)


def test_a_patient_of_tcga_is_known_in_any_spelling():
  index = [
    dataclasses.replace(entry, patient="tcga-cs-4941-19960909") if entry.patient == "D" else entry for entry in INDEX
  ]
  run, _ = run_of(INFO, patients={"train": ["TCGA_CS_4941"], "validation": ["E"]})
  with pytest.raises(UserError, match="TCGA_CS_4941 among them"):
    transfer.check_no_leak(SPLIT, index, run)


def test_own_channels_are_all():
  info = DatasetInfo("d", ("a", "b"), ("c",), (1,), "a", 8)
  assert parse_channels("all", info) == own_channels(info)
