import logging
import pathlib
import shutil
import struct
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames

from bt_jax.errors import UserError
from bt_jax.scans import reader
from bt_jax.scans.dicom import opening as dicom_files
from tests.helpers import refusals
from tests.helpers.scanners import AXIAL, BUNDLED, FLAIR, PRE, body_start, distinct, write_enhanced, write_series


def read(path, given=None):
  (study,) = reader.find(path, given or {})
  return reader.read(study)


def change(path, **attributes):
  """Sets attributes of the file at a path; those that are None are deleted."""
  data = pydicom.dcmread(path)
  for keyword, value in attributes.items():
    delattr(data, keyword) if value is None else setattr(data, keyword, value)
  data.save_as(path)


def compressed(path, source, edit):
  """A real compressed slice whose codestream is edited."""
  data = pydicom.dcmread(BUNDLED / source)
  frame = bytearray(next(generate_frames(data.PixelData, number_of_frames=1)))
  data.PixelData = encapsulate([bytes(edit(frame) or frame)])
  data.save_as(path)


def huge_jpeg2000(frame):
  struct.pack_into(">2I", frame, frame.index(b"\xff\x4f\xff\x51") + 8, 2**31, 2**31)


def huge_jpeg_ls(frame):
  struct.pack_into(">2H", frame, frame.index(b"\xff\xf7") + 5, 65535, 65535)


def endless_boxes(frame):
  return b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(16)  # of no length, so that the next one begins where it does


def deflated(path):
  head, body = (BUNDLED / "image_dfl.dcm").read_bytes(), zlib.compressobj(9, wbits=-15)
  path.write_bytes(head[: body_start("image_dfl.dcm")] + body.compress(bytes(2**21)) + body.flush())


def numbered(text):
  """The floating point pixels that `text` stands for in one of them."""
  values = np.ones(AXIAL.shape[1:], np.float32)
  values[0, 0] = float(text)
  return {"PixelData": None, "FloatPixelData": values.tobytes(), "BitsAllocated": 32}


# What is done to the files of a series (in the order of slices, from head to foot last), and words of the refusal.
BROKEN = {
  "truncated": (lambda files: files[1].write_bytes(files[1].read_bytes()[:-20]), "cannot be read", "copy it again"),
  "head only": (lambda files: files[1].write_bytes(files[1].read_bytes()[:400]), "damaged DICOM header"),
  "empty": (lambda files: files[1].write_bytes(b""), "empty, damaged or encrypted"),
  "enciphered": (lambda files: files[1].write_bytes(bytes(b ^ 99 for b in files[1].read_bytes())), "encrypted"),
  "encrypted": (lambda files: change(files[1], EncryptedAttributesSequence=[pydicom.Dataset()]), "is encrypted"),
  "no pixels": (lambda files: change(files[1], PixelData=None), "cannot be read"),
  "coloured": (lambda files: [change(one, SamplesPerPixel=3) for one in files], "coloured"),
  "100 GB": (lambda files: [change(one, Rows=65535, Columns=65535) for one in files], "a field of view of 8.52e+04 mm (voxels of 4 x 1.3 x 0.9 mm), which no MRI of a head has"),
  "fewer frames": (lambda files: change(files[1], NumberOfFrames=3), "cannot be read"),
  "many frames": (lambda files: change(files[1], NumberOfFrames=10**9), "promises 1000000000 frames"),
  "no rows": (lambda files: change(files[1], Columns=0), "contradicts itself about its size"),
  "missing": (lambda files: files[2].unlink(), "missing or too many", "4 mm apart, but 8 mm"),
  "copied": (lambda files: shutil.copy(files[2], files[2].with_name("copy.dcm")), "the same image", "copy.dcm"),
  "4-D": (
    lambda files: change(shutil.copy(files[2], files[2].with_name("later.dcm")), SOPInstanceUID="2.25.77"),
    "two images at one position", "later.dcm",
  ),
  "two patients": (lambda files: change(files[2], PatientID="another"), "2 patients", "patient 7", "another"),
  "two studies": (lambda files: change(files[2], StudyInstanceUID="2.25.70"), "2 studies", "2.25.70"),
  "size": (lambda files: change(files[2], Rows=6), "differ in size: 7 x 9", "6 x 9"),
  "direction": (lambda files: change(files[2], ImageOrientationPatient=[0, 1, 0, 0, 0, 1]), "differ in direction"),
  "astray": (lambda files: change(files[2], ImagePositionPatient=[*np.add(AXIAL.position(2), [9, 0, 0])]), "on one line"),
  "sheared": (
    lambda files: [
      change(one, ImagePositionPatient=[*np.add(AXIAL.position(at), [0, 8.0 * at, 0])]) for at, one in enumerate(files)
    ],
    "sheared by 63 degrees, more than a gantry is tilted",  # the arc tangent of 8 / 4
  ),
  "constant": (lambda files: [change(one, PixelData=bytes(7 * 9 * 2)) for one in files], "constant"),
  "NaN": (lambda files: [change(one, **numbered("nan")) for one in files], "not finite"),
  "infinite": (lambda files: [change(one, RescaleSlope="1e308") for one in files], "not finite"),
  "no decoder": (lambda files: mark(files[1], "1.2.840.10008.1.2.4.102"), "cannot be read"),
}  # fmt: skip


def mark(path, syntax):
  """Says that the pixels are encoded otherwise than they are."""
  data = pydicom.dcmread(path)
  data.PixelData = encapsulate([data.PixelData])
  data.file_meta.TransferSyntaxUID = syntax
  data.save_as(path)


def refused(path, *words):
  error = refusals.refused(lambda: read(path), *words)
  assert path.name in str(error) or FLAIR in str(error), error


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_series_is_refused_in_one_line(tmp_path, kind):
  harm, *words = BROKEN[kind]
  harm(write_series(tmp_path, distinct(AXIAL.shape)))
  refused(tmp_path, *words)


@pytest.mark.parametrize(
  "source, edit, words",
  [
    ("MR_small_jp2klossless.dcm", huge_jpeg2000, "2147483648 x 2147483648 x 1 samples, 64 x 64 x 1 declared"),
    ("MR_small_jpeg_ls_lossless.dcm", huge_jpeg_ls, "65535 x 65535 x 1 samples, 64 x 64 x 1 declared"),
    ("MR_small_jp2klossless.dcm", endless_boxes, "nothing of the kind"),
  ],
)
def test_a_codestream_of_another_size_never_reaches_a_decoder(tmp_path, source, edit, words):
  compressed(path := tmp_path / "a.dcm", source, edit)
  refused(path, words, "decompress it")


# JPEG holds no length: with the mark of an end behind it, a cut frame is one of dull pixels to every decoder.
CUT = [
  (source, end)
  for source in ("MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "JPEG-lossy.dcm", "JPGExtended.dcm")
  for end in ([b"", bytes(3000), b"\xff\xd9"] if source.startswith("MR") else [b"", bytes(3000)])
]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(("source", "end"), CUT)
def test_a_frame_that_is_cut_short_is_refused(tmp_path, source, share, end):
  compressed(path := tmp_path / "a.dcm", source, lambda frame: frame[: int(len(frame) * share)] + end)
  refused(path, "cannot be read")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_run_length_frame_that_is_cut_short_is_refused(tmp_path, share):
  compressed(path := tmp_path / "a.dcm", "MR_small_RLE.dcm", lambda frame: frame[: int(len(frame) * share)])
  refused(path, "cannot be read")


@pytest.fixture
def root_records():
  """What reaches the handlers of a program, which pytest's own also fetches elsewhere."""
  handler, records = logging.Handler(), []
  handler.emit = records.append
  logging.getLogger().addHandler(handler)
  yield records
  logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_libraries_are_silent_over_damage(tmp_path, name, capfd, root_records):
  content = (BUNDLED / name).read_bytes()
  rng, outcomes = np.random.default_rng(3), set()
  for turn in range(30):
    damaged = bytearray(content if turn % 2 else content[: rng.integers(400, len(content))])
    for position in rng.integers(300, len(damaged), 8):
      damaged[position] = rng.integers(256)
    (tmp_path / "a.dcm").write_bytes(damaged)
    try:
      outcomes.add(bool(read(tmp_path / "a.dcm").image.any()))
    except UserError as error:
      assert "\n" not in str(error)
      outcomes.add("refused")
  assert "refused" in outcomes
  assert capfd.readouterr() == ("", "") and not root_records


def test_what_pydicom_logs_for_others_goes_on(root_records):
  read(BUNDLED / "MR_small.dcm")
  logging.getLogger("pydicom").warning("of another program")
  assert [record.getMessage() for record in root_records] == ["of another program"]


def test_no_truncated_file_is_left_out_of_its_series(tmp_path):
  last = write_series(tmp_path, distinct(AXIAL.shape))[-1]  # without which the others are a volume, too
  content = last.read_bytes()
  for size in range(133, len(content), 7):
    last.write_bytes(content[:size])
    refused(tmp_path, last.name)


@pytest.mark.parametrize("keyword", ["SeriesNumber", "SOPClassUID"])
def test_a_slice_without_a_number_or_class_is_not_left_out_of_its_series(tmp_path, keyword):
  paths = write_series(tmp_path, distinct(AXIAL.shape))
  expected = read(tmp_path).image
  change(paths[-1], **{keyword: None if keyword == "SeriesNumber" else "1.2.840.10008.5.1.4"})
  np.testing.assert_array_equal(read(tmp_path).image, expected)


def test_a_deflated_file_that_inflates_to_too_much_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(dicom_files, "_MOST_BYTES", 2**20)
  deflated(path := tmp_path / "a.dcm")
  refused(path, "inflates to over 1,048,576 bytes")
  read(BUNDLED / "image_dfl.dcm")  # an honest one


def test_a_missing_decoder_is_named_with_its_cure(monkeypatch):
  decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLSLossless)
  monkeypatch.setattr(decoder, "_available", {})
  refused(BUNDLED / "MR_small_jpeg_ls_lossless.dcm", "JPEG-LS Lossless", "no decoder", "pip install")


def test_of_several_series_none_called_flair_is_refused_with_what_there_is(tmp_path):
  for series, description in ((PRE, "AX T1"), (FLAIR, "AX T2")):
    write_series(tmp_path, distinct(AXIAL.shape), series=series, description=description)
  refused(tmp_path, "AX T1", PRE, "AX T2", FLAIR, "--flair=UID")


def test_a_broken_series_that_was_only_guessed_does_not_stop_the_study(tmp_path):
  write_series(tmp_path, distinct(AXIAL.shape), series=FLAIR)
  write_series(tmp_path, distinct(AXIAL.shape), series=PRE, description="T1")[2].unlink()
  assert any("pre is left out" in warning and "missing" in warning for warning in read(tmp_path).warnings)
  with pytest.raises(UserError, match="missing"):
    read(tmp_path, {"pre": PRE})


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLED.glob("*.dcm")))
def test_every_bundled_file_is_a_scan_or_one_line(name):
  try:
    scan = read(BUNDLED / name)
  except UserError as error:
    assert "\n" not in str(error) and pathlib.Path(name).stem in str(error)
  else:
    assert np.isfinite(scan.image).all() and scan.format == "dicom"


@pytest.mark.parametrize("source", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "enhanced"])
def test_random_damage_ends_in_a_scan_or_in_one_line(tmp_path, source):
  path = BUNDLED / source
  if source == "enhanced":
    (path,) = write_enhanced(tmp_path / "whole", distinct(AXIAL.shape))
  content = np.frombuffer(path.read_bytes(), np.uint8)
  rng = np.random.default_rng(5)
  broken, refusals = tmp_path / "broken.dcm", 0
  for turn in range(40):
    damaged = content[: rng.integers(len(content))].copy() if turn % 4 == 0 else content.copy()
    places = rng.integers(128, min(len(content), 2500), 6)
    damaged[places[places < len(damaged)]] = rng.integers(256)
    broken.write_bytes(damaged.tobytes())
    try:
      read(broken)
    except UserError as error:
      assert "\n" not in str(error)
      refusals += 1
  assert refusals > 0
