"""The README's tour of prediction, its commands as they stand there."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT, VARIABLES

CHAPTER = re.search(r"## Your own scans\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL)[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", CHAPTER, re.DOTALL)


@pytest.fixture(scope="module")
def place(run, tmp_path_factory):
  """Stands for /tmp/bt_jax, with a run of seconds for that of the first command."""
  folder = tmp_path_factory.mktemp("tour")
  (folder / "phantom").symlink_to(run[0])
  return folder


def begin(place, language, block):
  text = block.replace("/tmp/bt_jax", str(place)).replace('pip install ".[serve]" && ', "")
  text = text.replace("python ", f"{shlex.quote(sys.executable)} ") if language == "sh" else text
  if "--mode=serve" in text:
    text = f"exec {text.strip()} --port=0"
  command = ["bash", "-ec", text] if language == "sh" else [sys.executable, "-c", text]
  return subprocess.Popen(
    command, cwd=ROOT, env={**os.environ, **VARIABLES}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


@pytest.mark.parametrize("language, block", BLOCKS, ids=[block.split("\n")[0][:40] for _, block in BLOCKS])
def test_each_block_of_the_tour_runs(place, language, block):
  process = begin(place, language, block)
  if "--mode=serve" not in block:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return
  pytest.importorskip("uvicorn", reason="the extra serve is not installed")
  with contextlib.closing(process.stdout):
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.wait(60)
  assert re.match(r"viewer at http://127\.0\.0\.1:\d+ ", line), line


def test_the_tour_leaves_what_it_says(place):
  """Runs after the blocks."""
  assert (place / "found" / "mask.nii.gz").is_file() and (place / "saved" / "prediction.json").is_file()
  assert {path.name for path in (place / "all").iterdir()} == {
    "slices",
    "volume",
    "flair_alone",
    "dicom",
    "studies.csv",
  }
  assert (place / "result.npz").stat().st_size
