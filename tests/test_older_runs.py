"""Runs, checkpoints, summaries and exports of other versions: read, or refused in one line that says by what they are read."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import bt_jax
from bt_jax import files
from bt_jax.errors import UserError
from bt_jax.evaluation.summary_files import read_summary, write_summary
from bt_jax.inference import jax_export, networks
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.version import __version__
from tests.helpers.arithmetic import network, volume
from tests.helpers.launching import ROOT, launch
from tests.helpers.made_up_runs import segmentation

# The preset seg.py:phantom as commit 1bc6f2b had it, written by that commit: `seg.get_config("phantom").to_dict()`.
OLD = json.loads((ROOT / "tests/data/config_1bc6f2b.json").read_text())
OPTIONS = {"tta": False, "threshold": None, "sensitivity": 0.98}


def without_newer(config, old=OLD):
  """The fields of a configuration that the old commit had."""
  return {name: without_newer(config[name], old[name]) if isinstance(old[name], dict) else config[name] for name in old}


def rewrite_record(checkpoint, change):
  """Changes the record of a checkpoint and seals it anew."""
  path = checkpoint / "record" / "metadata"
  path.write_text(json.dumps(files.sealed(change(json.loads(path.read_text())), "record_sha256")))


@pytest.fixture(scope="module")
def older(run, tmp_path_factory):
  """The shared run as if it were begun by the old commit, and stopped before its last epoch."""
  folder = tmp_path_factory.mktemp("older") / "run"
  folder.mkdir()
  for name in ("split.json", "checkpoints"):
    (shutil.copytree if (run[0] / name).is_dir() else shutil.copy)(run[0] / name, folder / name)
  files.write_json(folder / "config.json", without_newer(files.read_json(run[0] / "config.json", dict)))
  steps = {path: int(path.name) for path in folder.glob("checkpoints/*/*") if path.name.isdigit()}
  for path, step in steps.items():
    if step == max(steps.values()):
      shutil.rmtree(path)
    else:
      rewrite_record(path, lambda record: record | {"config": without_newer(record["config"])})
  return folder


def test_a_run_of_before_a_field_was_there_is_read_as_if_it_had_its_default(older, run):
  record = Checkpoints(older / "checkpoints/best", read_only=True).restore()[1]
  assert "slice_head" not in record["config"]["model"] and "folds" not in record["config"]["split"]
  found, expected = (networks.load(folder, "segmentation", "checkpoint") for folder in (older, run[0]))
  assert found.logits is expected.logits and found.view == expected.view  # the very same function
  assert (found.slice_head, found.drops_sequences) == (False, False)


def test_the_old_commit_had_the_values_of_today_but_for_the_flags_of_the_shared_run(run, tiny):
  config = flatten_dict(files.read_json(run[0] / "config.json", dict), sep=".")
  old = flatten_dict(OLD, sep=".")
  differ = {name for name in old if old[name] != config[name]}
  assert differ == {match[1] for flag in tiny if (match := re.match(r"--config\.([\w.]+)=", flag))}
  assert len(config.keys() - old.keys()) >= 10  # fields that are newer


@pytest.mark.slow
def test_a_run_begun_by_the_old_commit_trains_to_the_same_end(run, tiny, tmp_path):
  files.write_json(tmp_path / "run" / "config.json", without_newer(files.read_json(run[0] / "config.json", dict)))
  status, _, err = launch([*tiny, f"--workdir={tmp_path / 'run'}"])
  assert status == 0, err
  assert (tmp_path / "run" / "slices.csv").read_bytes() == (run[0] / "slices.csv").read_bytes()


@pytest.mark.slow
def test_a_run_of_before_a_field_was_there_goes_on_and_is_evaluated(older, run, tiny, tmp_path):
  folder = shutil.copytree(older, tmp_path / "run")
  flags = [*tiny, f"--workdir={folder}"]
  status, _, err = launch([*flags, "--config.augment.drop_sequence=0.5"])
  assert status == 1 and len(err.splitlines()) == 1
  assert "differs in augment.drop_sequence (0.0 there, 0.5 now): choose another" in err
  status, out, err = launch(flags)
  assert status == 0 and "resuming from step" in out, err
  assert (folder / "slices.csv").read_bytes() == (run[0] / "slices.csv").read_bytes()  # the same run, bit for bit
  (folder / "slices.csv").unlink()
  files.write_json(folder / "config.json", without_newer(files.read_json(folder / "config.json", dict)))
  status, _, err = launch([*flags, "--mode=evaluate"])
  assert status == 0, err
  assert (folder / "slices.csv").read_bytes() == (run[0] / "slices.csv").read_bytes()


def test_a_checkpoint_of_a_newer_format_is_left_as_it_is_and_names_its_version(tmp_path):
  tree = {"weight": np.arange(3.0)}
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(7, tree, {"bt_jax": "9.8.7"})
  checkpoints.close()
  rewrite_record(tmp_path / "7", lambda record: record | {"format": record["format"] + 1})
  for like, read_only in ((None, True), (tree, True), (tree, False), ({"other": tree}, False)):
    with pytest.raises(
      UserError, match=f"bt_jax {__version__} reads formats up to 1: use bt_jax 9.8.7, which wrote it"
    ):
      Checkpoints(tmp_path, read_only=read_only).restore(like)
  assert [path.name for path in tmp_path.iterdir() if "7" in path.name] == ["7"]
  rewrite_record(tmp_path / "7", lambda record: {name: value for name, value in record.items() if name != "format"})
  np.testing.assert_array_equal(
    Checkpoints(tmp_path).restore(tree)[0]["weight"], tree["weight"]
  )  # of before it had one


def test_a_summary_of_a_newer_format_names_its_version(tmp_path):
  folder = segmentation(tmp_path / "run")
  content = files.read_json(folder / "summary.json", dict)
  assert content["format"] == 1
  write_summary(folder, content | {"format": 2, "versions": {"bt_jax": "9.8.7"}, "test": "of another shape"})
  with pytest.raises(UserError, match="summary.json is of format 2, .*use bt_jax 9.8.7, which wrote it, or evaluate"):
    read_summary(folder)
  files.write_json(folder / "summary.json", content | {"format": 2})  # no seal of this content: damaged
  with pytest.raises(UserError, match="summary.json is damaged"):
    read_summary(folder)


def test_intervals_of_few_patients_or_of_no_width_are_not_read(tmp_path):
  folder = segmentation(tmp_path / "run")
  content = files.read_json(folder / "summary.json", dict)
  (first, *_) = content["test"]["subgroups"]["site"]
  first |= {"patients": 4, "dice_mean_ci95": [0.5, 0.75]}
  content["test"]["detection"] |= {
    "false_positive_rate": 0.0,
    "false_positive_rate_ci95": [0.0, 0.0],
    "sensitivity_ci95": [0.5, 0.75],
  }
  write_summary(folder, content)
  read = read_summary(folder)["test"]
  assert (
    read["subgroups"]["site"][0]["dice_mean_ci95"] is None and read["subgroups"]["site"][0]["dice_mean"] is not None
  )
  assert read["detection"]["false_positive_rate_ci95"] is None and read["detection"]["sensitivity_ci95"] == [0.5, 0.75]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  path = tmp_path_factory.mktemp("export") / "model.bin"
  jax_export.write(path, [network()], [], **OPTIONS)
  return path


def exported_with(described, path, function=b"no function of this JAX"):
  path.write_bytes(jax_export.seal(function + jax_export.program(described)))
  return path


def test_an_export_says_until_when_it_is_read_and_what_then(exported, tmp_path):
  _, described = jax_export.read(exported)
  assert described["format"] == 2 and described["jax"]["jax"] == jax.__version__
  assert "six months" in described["jax"]["reads"] and f"jax=={jax.__version__}" in described["jax"]["reads"]
  other = described | {"jax": described["jax"] | {"jax": "0.1", "reads": "written with jax 0.1; export the run again"}}
  with pytest.raises(
    UserError, match=rf"model.bin is not read by jax {jax.__version__} .*it was written with jax 0.1; exp"
  ):
    bt_jax.load(exported_with(other, tmp_path / "model.bin"))
  newer = described | {"format": 3, "decision": None, "about": {"bt_jax": "9.8.7"}}
  with pytest.raises(UserError, match="model.bin is of format 3, .*use bt_jax 9.8.7, which wrote it, or export"):
    bt_jax.load(exported_with(newer, tmp_path / "model.bin"))


def test_an_export_of_before_there_was_a_hash_and_a_format_is_read(exported, tmp_path):
  content, described = jax_export.read(exported)
  start = content.index(b"PK\3\4")
  first = {name: value for name, value in described.items() if name not in ("format", "jax")}
  (tmp_path / "model.bin").write_bytes(content[:start] + jax_export.program(first))
  image = volume(2, 64, 64)
  found, expected = (bt_jax.load(path).predict(image) for path in (tmp_path / "model.bin", exported))
  np.testing.assert_array_equal(found.probability, expected.probability)
  # What has a number had a hash: here its zip was packed again, with another threshold.
  changed = described | {"decision": described["decision"] | {"threshold": 0.9}}
  (tmp_path / "model.bin").write_bytes(content[:start] + jax_export.program(changed))
  with pytest.raises(UserError, match=r"model\.bin is damaged .*SHA-256"):
    bt_jax.load(tmp_path / "model.bin")
