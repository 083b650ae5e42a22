import errno
import os
import resource
import struct
import subprocess
import sys
import threading

import pytest
from tensorboardX.proto import event_pb2

from bt_jax.errors import UserError
from bt_jax.runs.tensorboard import Board
from bt_jax.runs.workdir import begin, claim
from configs import common
from tests.helpers.launching import ROOT

CONFIG = common.get_config().to_dict()


def changed(section, **fields):
  """The configuration with other values in one section."""
  return CONFIG | {section: CONFIG[section] | fields}


def test_start_that_fails_leaves_nothing_and_the_cure_works(tmp_path):
  workdir = tmp_path / "a" / "run"
  with pytest.raises(UserError, match="no data"), claim(workdir, CONFIG, new=True):
    raise UserError("no data")
  assert not workdir.exists()
  with claim(workdir, changed("train", epochs=4), new=True):
    begin(workdir, CONFIG)
  assert (workdir / "config.json").is_file()


def test_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / "letter.txt").touch()
  with pytest.raises(UserError), claim(tmp_path, CONFIG, new=True):
    raise UserError("no data")
  assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_folders_may_differ_and_one_section_where_allowed(tmp_path):
  begin(tmp_path, CONFIG)
  with claim(tmp_path, changed("data", root="/elsewhere", dir="/there"), new=True):
    pass
  other = changed("eval", threshold=0.5)
  with claim(tmp_path, other, new=False, may_differ="eval"):
    pass
  with (
    pytest.raises(UserError, match=r"eval.threshold \(None there, 0.5 now\): evaluate it again"),
    claim(tmp_path, other, new=True),
  ):
    pass
  with (
    pytest.raises(UserError, match=r"differs in train.epochs \(60 there, 4 now\): choose another"),
    claim(tmp_path, changed("train", epochs=4), new=True),
  ):
    pass


def test_a_run_with_loggers_is_resumed_and_evaluated_without_them(tmp_path):
  begin(tmp_path, CONFIG | {"log": "mlflow"})
  for new in (True, False):
    with claim(tmp_path, CONFIG, new=new):
      pass


@pytest.mark.parametrize("gone", ["drop_sequence", "flip", None])
def test_a_run_of_before_a_field_was_there_goes_on_and_not_with_another_value(gone, tmp_path):
  augment = {name: value for name, value in CONFIG["augment"].items() if name != gone}
  older = {name: value for name, value in CONFIG.items() if gone or name != "augment"}  # or of before the section was
  begin(tmp_path, older | ({"augment": augment} if gone else {}))
  with claim(tmp_path, CONFIG, new=True):
    pass
  other = {"drop_sequence": 0.5, "flip": False}[gone or "flip"]
  with (
    pytest.raises(UserError, match=rf"differs in augment.{gone or 'flip'} \(.* there, {other} now\): choose another"),
    claim(tmp_path, changed("augment", **{gone or "flip": other}), new=True),
  ):
    pass


def test_a_configuration_that_lacks_what_every_run_has_is_damaged(tmp_path):
  begin(tmp_path, {name: value for name, value in CONFIG.items() if name != "train"})
  with pytest.raises(UserError, match="config.json is damaged .*it lacks train"), claim(tmp_path, CONFIG, new=True):
    pass


@pytest.mark.slow
def test_one_process_at_a_time(tmp_path):
  begin(tmp_path, CONFIG)
  program = (
    "import sys, pathlib; from bt_jax.runs.workdir import claim; from bt_jax.errors import UserError\n"
    f"try:\n  with claim(pathlib.Path(sys.argv[1]), {CONFIG!r}, new=True): print('held')\n"
    "except UserError as error: print(error)"
  )
  second = lambda: (
    subprocess.run(
      [sys.executable, "-c", program, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
  )
  with claim(tmp_path, CONFIG, new=True):
    assert "is in use by another process" in second()
  assert second() == "held\n"


def test_no_run_to_evaluate(tmp_path):
  with pytest.raises(UserError, match="holds no run"), claim(tmp_path / "none", CONFIG, new=False):
    pass


def events_of(folder):
  """The events of the one file in a folder: records of 8 bytes that say their length, a checksum, and one behind."""
  (path,) = folder.iterdir()
  content, at = path.read_bytes(), 0
  while at < len(content):
    (length,) = struct.unpack_from("<Q", content, at)
    yield event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
    at += 16 + length


def test_tensorboard_gets_every_number_at_once_and_without_a_thread(tmp_path, monkeypatch):
  printed, threads = [], threading.active_count()
  monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(unraisable.exc_value))
  board = Board(tmp_path / "whole", 7)
  board.add({"run": "a title", "loss": 0.25}, 8)
  version, start, text, number = events_of(tmp_path / "whole")  # nothing waits to be written
  board.close()
  assert version.file_version == "brain.Event:2" and (start.step, start.session_log.status) == (8, 1)
  assert text.summary.value[0].tensor.string_val == [b"a title"]
  assert (number.step, number.summary.value[0].tag, number.summary.value[0].simple_value) == (8, "loss", 0.25)
  full = Board(tmp_path / "full", 0)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))  # no file grows beyond, as on a full disk
  try:
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
      full.add({"loss": 0.5}, 1)
    full.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  del full
  assert not printed and threading.active_count() == threads
