"""The viewer's server starts, says where it is, and ends; names of files lead nowhere else."""

import contextlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from bt_jax.errors import UserError
from bt_jax.scans.scan import NOTICE
from bt_jax.serving import server, uploads
from tests.helpers.launching import ROOT
from tests.helpers.viewers import Brightness, ask, form, png_bytes


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
  code = (
    "from bt_jax.serving import server; from tests.helpers.viewers import Brightness; server.serve(Brightness, port=0)"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  port = int(process.stdout.readline().split("127.0.0.1:")[1].split()[0])
  assert NOTICE in process.stdout.readline()
  assert ask(port, "GET", "/")[0] == 200
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=20) == ("", "") and process.returncode == 0


def start(predictor, *, options=""):
  """A server of `tests.helpers.viewers.Brightness(...)` in a process whose temporary files go to $TMPDIR, and its port."""
  code = f"import threading; from bt_jax.serving import server; from tests.helpers.viewers import Brightness; server.serve(lambda: {predictor}, port=0{options})"
  process = subprocess.Popen(
    [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  return process, int(process.stdout.readline().split("127.0.0.1:")[1].split()[0])


@pytest.mark.slow
@pytest.mark.parametrize(
  ("how", "state"),
  [
    (signal.SIGTERM, "half an upload"),
    (signal.SIGINT, "half an upload"),
    (signal.SIGINT, "half a header"),
    (signal.SIGTERM, "predicting and waiting"),
  ],
)
def test_it_stops_whatever_it_is_doing_and_leaves_no_file(how, state, tmp_path, monkeypatch):
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  waits = "Brightness(waits=type('Never', (), {'wait': lambda self, seconds: __import__('time').sleep(600)})())"
  process, port = start(waits, options=f", keep=__import__('pathlib').Path({str(tmp_path / 'kept')!r})")
  body, headers = form(("scan", "a.png", png_bytes(np.eye(64, dtype=np.uint8) * 200)))
  head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": len(body)}.items())
  request = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n".encode() + body
  sent = {"half a header": request[:40], "half an upload": request[:-30]}.get(state, request)
  with contextlib.ExitStack() as stack:
    stack.callback(process.kill)
    for _ in range(3):
      stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(sent)
    deadline = time.monotonic() + 20
    while state != "half a header" and len([*tmp_path.rglob("scan/*")]) < 3 and time.monotonic() < deadline:
      time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(how)
    out, err = process.communicate(timeout=5)
  assert (process.returncode, err) == (0, "") and out.count("\n") <= 1
  assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith("bt_jax_")]


def test_an_address_that_cannot_be_had_and_a_missing_extra_are_told(monkeypatch):
  with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose others"):
    server.serve(Brightness, port=taken.getsockname()[1])
  for host, port in (("nowhere.invalid", 0), ("127.0.0.1", 99999)):
    with pytest.raises(UserError, match="cannot listen"):
      server.serve(Brightness, host=host, port=port)
  monkeypatch.setitem(sys.modules, "uvicorn", None)
  with pytest.raises(UserError, match=r'pip install "\.\[serve\]"'):
    server.serve(Brightness)
