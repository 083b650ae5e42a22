import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from bt_jax.pretrained.conversion import load_weights
from bt_jax.runs import restoring, warm_start
from bt_jax.runs.components import make_components
from bt_jax.training.checkpoints import AS_SAVED, Checkpoints
from configs import seg
from tests.golden import weights
from tests.helpers.launching import launch


@pytest.mark.slow
def test_weights_are_converted_once_and_a_run_starts_from_them_and_another_from_that_run(tiny, tmp_path):
  arrays = weights.random_arrays(weights.naming("torchvision"))
  safetensors.numpy.save_file(arrays, tmp_path / "resnet50.safetensors")
  converted = tmp_path / "converted"
  convert = ["--mode=convert", "--config=configs/cls.py", f"--workdir={converted}"]
  for _ in range(2):
    status, out, err = launch([*convert, f"--config.model.pretrained={tmp_path / 'resnet50.safetensors'}"])
    assert status == 0 and "ResNet-50 (torchvision), inputs normalised as imagenet" in out, err
  assert {path.name for path in converted.iterdir()} == {"weights.safetensors", "weights.json"}

  places = [flag for flag in tiny if flag.startswith("--config.data")]
  frozen = "--config.train.stage_rates=stem=0,stage1=0,stage2=0,stage3=0,stage4=0"
  common = [
    *places,
    "--config.train.epochs=1",
    "--config.train.batch_size=32",
    "--config.train.score=loss",
    "--config.eval.baselines=False",
    frozen,
  ]
  first = [
    "--config=configs/cls.py:phantom", *common, "--config.model.name=resnet50", f"--config.model.pretrained={converted}",
    f"--workdir={tmp_path / 'classifier'}",
  ]  # fmt: skip
  status, out, err = launch(first, devices=1)  # compiles several times faster than for more
  assert status == 0 and "encoder from" in out and "beyond the encoder is left out" in out, err
  assert json.loads((tmp_path / "classifier/summary.json").read_text())["normalize"] == "imagenet"
  # All stages are frozen, so the encoder is what the file holds, bit for bit, in parameters and statistics; and a
  # segmenter that starts from the classifier has it too.
  config = seg.get_config("phantom")
  config.update_from_flattened_dict({"data.size": 32, "model.name": "resunet"})
  weights_of_run = warm_start.load(str(tmp_path / "classifier"))
  segmenter = make_components(config, weights_of_run.normalize)
  warm_start.check_fits(segmenter, weights_of_run)
  started, _ = warm_start.fill(
    segmenter, restoring.first_state(config, segmenter, abstract=False).variables, weights_of_run
  )
  classifier, record = Checkpoints(tmp_path / "classifier/checkpoints/best").restore(AS_SAVED)
  assert record["normalize"] == segmenter.normalize == "imagenet"
  expected = load_weights(str(converted)).variables
  for variables in (classifier, started):
    for collection in ("params", "batch_stats"):
      jax.tree.map(np.testing.assert_array_equal, variables[collection]["encoder"], expected[collection]["encoder"])

  second = ["--config=configs/seg.py:phantom", *common, "--config.model.name=resunet"]
  for flags, said in (
    ([*second, f"--config.model.pretrained={tmp_path / 'classifier'}", "--config.split.fold=1"], "that leaks"),
    ([*second, "--config.model.pretrained=missing.pth"], "there is no file missing.pth"),
    ([*tiny, f"--config.model.pretrained={converted}"], "this network has no published encoder"),
    ([*first[:-1], "--config.model.variant=keras"], "(--config.model.variant=torchvision, --config.model.name)"),
    (["--mode=convert", "--config=configs/cls.py:phantom"], "nothing to convert"),
  ):
    status, _, err = launch([*flags, f"--workdir={tmp_path / 'refused'}"])
    assert status == 1 and said in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "refused").exists()


def test_a_run_of_another_network_is_refused(run, tiny, tmp_path):
  flags = [
    *(flag for flag in tiny if "model." not in flag),
    "--config.model.name=resunet",
    f"--config.model.pretrained={run[0]}",
    f"--workdir={tmp_path / 'refused'}",
  ]
  status, _, err = launch(flags)
  assert status == 1 and "is of unet, and this network is resunet" in err and len(err.splitlines()) == 1
