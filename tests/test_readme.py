"""The README's tour of prediction, its commands as they stand there."""

import json
import re
import shlex
import signal
import subprocess
import sys
import urllib.request

import pytest

from tests.helpers.launching import ROOT, environment

pytestmark = pytest.mark.slow

CHAPTER = re.search(r"## Your own scans\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL)[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", CHAPTER, re.DOTALL)


def start(place, language, block):
  text = block.replace("/tmp/bt_jax", str(place)).replace('pip install ".[serve]" && ', "")
  if language == "python":
    command = [sys.executable, "-c", text]
  else:
    text = text.replace("python ", f"{shlex.quote(sys.executable)} ")
    command = ["bash", "-ec", f"exec {text.strip()} --port=0" if "--mode=serve" in text else text]
  return subprocess.Popen(
    command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def test_the_tour_runs_and_leaves_what_it_says(run, tmp_path):
  """With a run of seconds for that of the first command."""
  (tmp_path / "phantom").symlink_to(run[0])
  *blocks, last = BLOCKS
  for language, block in blocks:
    process = start(tmp_path, language, block)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, (block, err)
  assert (tmp_path / "found" / "mask.nii.gz").is_file() and (tmp_path / "saved" / "prediction.json").is_file()
  names = {"slices", "volume", "flair_alone", "dicom", "studies.csv"}
  assert {path.name for path in (tmp_path / "all").iterdir()} == names
  assert (tmp_path / "result.npz").stat().st_size
  assert "--mode=serve" in last[1]
  pytest.importorskip("uvicorn", reason="the extra serve is not installed")
  process = start(tmp_path, *last)
  line = process.stdout.readline()
  match = re.match(r"viewer at (http://127\.0\.0\.1:\d+) ", line)
  assert match, (line, process.communicate())
  with urllib.request.urlopen(
    f"{match[1]}/about", timeout=60
  ) as answer:  # the listener holds it until the server is up
    assert json.load(answer)["model"]
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=60)
  assert process.returncode == 0
