"""The viewer's server starts, says where it is, and ends; names of files lead nowhere else."""

import signal
import socket
import subprocess
import sys

import pytest

from bt_jax.errors import UserError
from bt_jax.scans.scan import NOTICE
from bt_jax.serving import server, uploads
from tests.conftest import ROOT
from tests.viewers import Brightness, ask


@pytest.mark.parametrize(
  "name", ["../../etc/passwd", "..\\..\\x", "/etc/x", "C:\\x", "a/./../b", "....", "", "\0x", "é" * 300, "a/" * 90]
)
def test_a_name_leads_nowhere_else(name, tmp_path):
  path = tmp_path / uploads.safe_path(name)
  assert path.resolve().is_relative_to(tmp_path) and path != tmp_path
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b"")


def test_an_ordinary_name_stays():
  for name in ("case/TCGA_CS_1_2.tif", "a b (1).nii.gz", "Müller.dcm"):
    assert str(uploads.safe_path(name)) == name


def test_it_says_where_it_is_and_ends_quietly_on_ctrl_c():
  code = "from bt_jax.serving import server; from tests.viewers import Brightness; server.serve(Brightness, port=0)"
  process = subprocess.Popen(
    [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  port = int(process.stdout.readline().split("127.0.0.1:")[1].split()[0])
  assert NOTICE in process.stdout.readline()
  assert ask(port, "GET", "/")[0] == 200
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=20) == ("", "") and process.returncode == 0


def test_an_address_that_cannot_be_had_and_a_missing_extra_are_told(monkeypatch):
  with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose another --port"):
    server.serve(Brightness, port=taken.getsockname()[1])
  for host, port in (("nowhere.invalid", 0), ("127.0.0.1", 99999)):
    with pytest.raises(UserError, match="cannot listen"):
      server.serve(Brightness, host=host, port=port)
  monkeypatch.setitem(sys.modules, "uvicorn", None)
  with pytest.raises(UserError, match=r'pip install "\.\[serve\]"'):
    server.serve(Brightness)
