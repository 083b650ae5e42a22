"""A viewer to try: a server in a thread, a predictor that is plain arithmetic, and scans."""

import contextlib
import gzip
import http.client
import io
import json
import pathlib
import struct
import tempfile
import threading
import time
from typing import NamedTuple

import nibabel
import numpy as np
import uvicorn
from PIL import Image

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.inference.decision import Decision
from bt_jax.inference.ensemble import Outputs
from bt_jax.inference.predictor import Prediction, Predictor

# Spacing of 2 mm between columns, 3 between rows, 5 between slices; the axes run as those of scans.
AFFINE = np.array([[-2.0, 0, 0, 10], [0, -3, 0, -20], [0, 0, 5, 30], [0, 0, 0, 1]])
VOXEL_MM3 = 30


class Slices(NamedTuple):
  """A volume of bytes, float32 [slices, height, width], and its slices as PNG."""

  volume: np.ndarray
  files: dict[int, bytes]


class Answer(NamedTuple):
  """What the page gets of a scan: the JSON, the intensities of each sequence, and of one class levels and mask."""

  head: dict
  channels: list[np.ndarray]
  levels: np.ndarray
  bits: np.ndarray


def slices_of(seed: int, shape: tuple[int, int, int] = (3, 20, 24)) -> Slices:
  volume = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  return Slices(volume.astype(np.float32), {at: png_bytes(picture) for at, picture in enumerate(volume, start=1)})


def png_bytes(picture: np.ndarray) -> bytes:
  content = io.BytesIO()
  Image.fromarray(picture).save(content, "PNG")
  return content.getvalue()


def nifti_bytes(volume: np.ndarray, compressed: bool = False) -> bytes:
  """A volume [slices, height, width] of bytes; 5, 3 and 2 mm."""
  content = nibabel.Nifti1Image(volume.transpose(2, 1, 0).astype(np.uint8), AFFINE).to_bytes()
  return gzip.compress(content, 1) if compressed else content


@contextlib.contextmanager
def serving(application):
  """Runs an application in a thread; its port."""
  config = uvicorn.Config(application, port=0, log_level="critical", access_log=False)
  server = uvicorn.Server(config)
  thread = threading.Thread(target=server.run)
  thread.start()
  while not server.started:
    time.sleep(0.01)
  try:
    yield server.servers[0].sockets[0].getsockname()[1]
  finally:
    server.should_exit = True
    thread.join()


@contextlib.contextmanager
def temporary_files(folder: pathlib.Path):
  """Temporary files go to this folder."""
  before, tempfile.tempdir = tempfile.tempdir, str(folder)
  try:
    yield folder
  finally:
    tempfile.tempdir = before


def form(*parts):
  """A multipart body and its headers; parts are (field, file name or None, content)."""
  lines = []
  for field, name, content in parts:
    file = "" if name is None else f'; filename="{name}"'
    lines += [f'--edge\r\nContent-Disposition: form-data; name="{field}"{file}\r\n\r\n'.encode(), content, b"\r\n"]
  return b"".join([*lines, b"--edge--\r\n"]), {"Content-Type": "multipart/form-data; boundary=edge"}


def ask(port, method, path, body=None, headers=None):
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
  with contextlib.closing(connection):
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def post(port, path, *parts, **headers):
  body, kind = form(*parts)
  return ask(port, "POST", path, body, kind | headers)


def predict(port, *parts):
  status, headers, content = post(port, "/predict", *parts)
  assert status == 200, content
  assert headers["Content-Encoding"] == "gzip"
  content = gzip.decompress(content)
  (length,) = struct.unpack("<I", content[:4])
  head = json.loads(content[4 : 4 + length])
  start, size, channels = 4 + length, int(np.prod(head["shape"])), []
  for channel in head["channels"]:
    stored = np.frombuffer(content, f"<u{channel['bytes']}", size, start).reshape(head["shape"])
    channels.append(channel["lowest"] + channel["step"] * stored)
    start += size * channel["bytes"]
  levels = np.frombuffer(content, np.uint8, size, start).reshape(head["shape"])
  start += size * (2 if head["disagreement"] else 1)
  return Answer(head, channels, levels, np.frombuffer(content, np.uint8, offset=start))


def error_in(content):
  """The one line of an error."""
  (line,) = json.loads(content).values()
  assert "\n" not in line
  return line


class Brightness:
  """Calls tumour what is bright: FLAIR / 255 is the probability."""

  about = {"title": "<b>brightness</b>"}
  info = INFO

  def __init__(self, threshold=0.5, cleans=False, fails=False, waits=None, passes=1):
    self.passes = passes
    self.threshold, self.cleans, self.fails, self.waits = threshold, cleans, fails, waits
    self.started, self._count = threading.Event(), threading.Lock()
    self.calls = self.at_once = self.most_at_once = 0

  def predict(self, scan):
    with self._count:
      self.calls, self.at_once = self.calls + 1, self.at_once + 1
      self.most_at_once = max(self.most_at_once, self.at_once)
    self.started.set()
    if self.waits:
      self.waits.wait(10)
    if self.fails:
      raise ZeroDivisionError
    probability = scan.image[..., 1] / np.float32(255)
    mask = probability >= self.threshold
    if self.cleans:
      mask[:, ::2] = False
    with self._count:
      self.at_once -= 1
    return Prediction(
      scan=scan,
      masks=mask[..., None],
      probabilities=probability[..., None],
      slice_probability=probability.max((1, 2)),
      members=mask[None],
      gated=np.zeros(len(mask), bool),
      threshold=self.threshold,
      warnings=[*scan.warnings, "<b>odd</b>"],
      looks_wrong=False,
      info=INFO,
      about=self.about,
      disagreement=probability * (1 - probability) if self.passes > 1 else None,
    )


def brightness_predictor(threshold: float = 0.5) -> Predictor:
  """A real predictor with `Brightness` for its network; no scan looks unusual to it."""

  def segment(image, aspect):
    probability = image[..., INFO.reference_index] / np.float32(255)
    yield Outputs(probability[None, ..., None], probability.max((1, 2)), np.zeros(len(image), bool))

  decision = Decision(
    threshold=threshold, temperature=1.0, gate=None, tta=False, largest_component=False, info=INFO, profile={}
  )
  return Predictor(decision, Brightness.about | {"threshold": threshold}, segment)
