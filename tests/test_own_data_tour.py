"""What docs/own-data.md shows, as it stands there, with a network of seconds."""

import json
import re
import shlex
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from bt_jax.datasets.own_data import synthetic
from tests.helpers.launching import ROOT, environment, launch

pytestmark = pytest.mark.slow

BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "docs/own-data.md").read_text(), re.DOTALL)
FAST = [
  "--config.model.name=unet", "--config.model.width=8", "--config.model.depth=3", "--config.model.pretrained=",
  "--config.data.size=64", "--config.train.epochs=6", "--config.train.batch_size=8", "--config.train.learning_rate=5e-3",
]  # fmt: skip


def commands(text):
  """Each line of a block, its flags behind those of a small network, which they override."""
  for line in text.strip().splitlines():
    words = shlex.split(line)
    assert words[0] == "python" and words[1] in ("launch.py", "-m")
    config = next((index for index, word in enumerate(words) if word.startswith("--config=")), None)
    if config is not None:
      words[config + 1 : config + 1] = FAST
    yield words[1:]


def done(words):
  """What a command printed; launch.py runs in a process forked from one that has the libraries."""
  if words[0] == "launch.py":
    status, out, err = launch(words[1:])
  else:
    process = subprocess.run(
      [sys.executable, *words], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    status, out, err = process.returncode, process.stdout, process.stderr
  assert status == 0, (words, err)
  return out


def test_the_tour_runs_and_leaves_what_it_says(tmp_path, monkeypatch):
  place = tmp_path / "own"
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  printed = []
  for language, block in BLOCKS:
    text = block.replace("/tmp/bt_jax/own", str(place))
    printed += [done(words) for words in ([["-c", text]] if language == "python" else commands(text))]
  text = "".join(printed)
  assert "cases: 12 of 12 patients" in text and "numbers: whole (1, 2, 3), core (2, 3), enhancing (3)" in text
  assert "120 (120, 120, 4) uint16 (120, 120, 3) b'case_000'" in text
  assert "arrays are taken over" in text and "('whole', 'core', 'enhancing') (10, 96, 96, 3)" in text

  summary = json.loads((place / "run/summary.json").read_text())
  assert set(summary["test"]["classes"]) == set(synthetic.REGIONS) and summary["synthetic"]
  assert {group["group"] for group in summary["test"]["subgroups"]["scanner"]} <= {"A", "B"}
  pooled = json.loads((place / "crossval/summary.json").read_text())
  tested = [json.loads((place / f"crossval/fold_{fold:02d}/split.json").read_text())["test"] for fold in (0, 1)]
  assert pooled["test"]["slices"] == sum(map(len, tested)) and not set(tested[0]) & set(tested[1])
  assert (place / "crossval/report.html").stat().st_size and (place / "check.png").stat().st_size
  for number in (12, 13):
    name = f"case_{number:03d}"
    mask, scan = (
      nibabel.load(place / path) for path in (f"predicted/{name}.nii.gz", f"data/imagesTs/{name}_0000.nii.gz")
    )
    assert mask.shape == scan.shape and np.allclose(mask.affine, scan.affine)
    _, truth, _ = synthetic.make_case(number)
    whole, predicted = truth > 0, np.swapaxes(np.asarray(mask.dataobj), 0, 2) > 0
    assert 2 * (whole & predicted).sum() / (whole.sum() + predicted.sum()) > 0.7
    bids = place / f"bids/sub-case{number:03d}/anat/sub-case{number:03d}_desc-btjax_dseg"
    same = nibabel.load(f"{bids}.nii.gz")
    np.testing.assert_array_equal(np.asarray(same.dataobj), np.asarray(mask.dataobj))
    assert (
      bids.with_suffix(".json").is_file()
      and bids.with_suffix(".tsv").read_text() == "index\tname\n1\twhole\n2\tcore\n3\tenhancing\n"
    )
