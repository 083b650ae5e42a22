import json
import os

import pytest

from bt_jax import files


def test_rows_come_back_and_the_folder_is_made(tmp_path):
  path = files.write_csv(tmp_path / "a" / "b.csv", [{"x": 1, "y": 0.1}, {"x": 2, "y": 1 / 3}])
  lines = path.read_text().splitlines()
  assert lines[0] == "x,y" and float(lines[2].split(",")[1]) == 1 / 3
  assert json.loads(files.write_json(tmp_path / "c.json", {"b": [1], "a": None}).read_text()) == {"b": [1], "a": None}


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
  path = files.write_bytes(tmp_path / "kept", b"old")

  def fail(descriptor):
    raise OSError("disk full")

  monkeypatch.setattr(os, "fsync", fail)
  with pytest.raises(OSError, match="disk full"):
    files.write_bytes(path, b"new and longer")
  assert path.read_bytes() == b"old"
  assert list(tmp_path.iterdir()) == [path]
