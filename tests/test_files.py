import json
import os
import re

import pytest

from bt_jax import files
from bt_jax.errors import UserError


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


@pytest.mark.parametrize(
  "text", ["1_0", "\uff11\uff12", " 5", "5 ", "1x2", "0x1F", "=1+1", "1e999", "inf", "-1", "1,5", "'5"]
)
def test_a_number_is_read_only_as_it_is_written(tmp_path, text):
  path = files.write_csv(tmp_path / "a.csv", [{"name": "x", "amount": 5.0}, {"name": "x_1", "amount": text}])
  kinds = {"name": files.Text, "amount": files.Amount | None}
  with pytest.raises(UserError, match=rf"a\.csv is damaged .*row 3, column amount: {re.escape(repr(text))}, expected "):
    files.read_csv(path, kinds.get)
  path = files.write_csv(path, [{"name": "1_0", "amount": value} for value in (5.0, 1e-9, 7, None, float("nan"))])
  assert [row["amount"] for row in files.read_csv(path, kinds.get)] == [5, 1e-9, 7, None, None]
