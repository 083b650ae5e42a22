"""The viewer: what the server answers and refuses, and that nothing of a scan stays."""

import errno
import gzip
import io
import json
import os
import socket
import threading
import time
import zipfile

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from bt_jax.inference import writer
from bt_jax.scans import archives, reader
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.scan import NOTICE
from bt_jax.serving import app, guard, uploads
from tests.helpers.launching import ROOT
from tests.helpers.scanners import AXIAL, PLANES, distinct, write_series
from tests.helpers.viewers import (
  AFFINE,
  Brightness,
  ask,
  error_in,
  form,
  nifti_bytes,
  post,
  predict,
  serving,
  slices_of,
  temporary_files,
)

PAGE = ROOT / "bt_jax/serving/page"


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
  """Where the server puts uploads."""
  with temporary_files(tmp_path_factory.mktemp("temporary")) as folder:
    yield folder


@pytest.fixture(scope="module")
def port(temporary):
  with serving(app.make_app(Brightness(), limit_mb=2, limit_files=20)) as port:
    yield port


@pytest.fixture(autouse=True)
def nothing_stays(temporary):
  yield
  until = time.monotonic() + 5  # the folder goes just after the answer
  while any(temporary.iterdir()) and time.monotonic() < until:
    time.sleep(0.01)
  assert [*temporary.iterdir()] == []


def test_the_page_comes_with_its_headers_and_loads_nothing_from_elsewhere(port):
  files = [f"/{path.relative_to(PAGE)}" for path in PAGE.rglob("*") if path.is_file()]
  assert {"/viewer.js", "/niivue/niivue.js"} <= {*files}
  for path in ("/", *files, "/about", "/nothing"):
    status, headers, content = ask(port, "GET", path)
    assert status == (404 if path == "/nothing" else 200)
    assert headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' data: blob:;")
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    links = b"//" in content.replace(b"// ", b"").replace(b"/**", b"").replace(b"\xe2", b"")
    assert not links or path == "/about" or path.startswith("/niivue/")  # NiiVue's comments cite their sources
  assert NOTICE in (PAGE / "index.html").read_text(encoding="utf-8")
  assert ask(port, "GET", "/../app.py")[0] == ask(port, "GET", "/%2e%2e/app.py")[0] == 404


def test_a_folder_of_slices_is_predicted_exactly_at_every_threshold(port):
  slices = slices_of(seed=1)
  head, channels, levels, bits = predict(
    port, *[("scan", f"case/case_{at}.png", png) for at, png in slices.files.items()]
  )
  probability = slices.volume / np.float32(255)
  assert head["shape"] == [3, 20, 24] and head["thresholds"][head["own"]] == 0.5 and head["plain"]
  for at, threshold in enumerate(head["thresholds"]):
    np.testing.assert_array_equal(levels > at, probability >= np.float32(threshold))
  np.testing.assert_array_equal(np.unpackbits(bits, count=levels.size).reshape(levels.shape), probability >= 0.5)
  (flair,) = channels  # stands for pre and post, too
  np.testing.assert_array_equal(flair, slices.volume)
  assert head["channels"][0]["title"] == "FLAIR" and head["channels"][0]["bytes"] == 1
  assert head["channels"][0]["presets"]["usual"] == pytest.approx(np.percentile(slices.volume, (1, 99.5)))
  said = head["prediction"]
  assert said["voxels"] == (probability >= 0.5).sum() and said["volume_mm3"] is None and said["tumor"] is True
  assert [one["area_pixels"] for one in said["slices"]] == (probability >= 0.5).sum((1, 2)).tolist()


@pytest.mark.parametrize("scale, offset", [(1, -30000), (37, 5), (0.001, -7), (1e6, 0)])
def test_intensities_of_any_scale_reach_the_page(temporary, tmp_path, scale, offset):
  volume = np.random.default_rng(3).integers(0, 1500, (3, 20, 24)).astype(np.float32) * np.float32(scale) + offset
  nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), AFFINE), tmp_path / "a.nii")
  with serving(app.make_app(Brightness())) as port:
    head, (shown,), *_ = predict(port, ("scan", "a.nii", (tmp_path / "a.nii").read_bytes()))
  (about,) = head["channels"]
  assert about["step"] == 1 if scale in (1, 37) else np.abs(shown - volume).max() <= np.ptp(volume) / 2**16
  if about["step"] == 1:
    np.testing.assert_array_equal(shown, volume)
  assert (about["lowest"], about["highest"]) == pytest.approx((volume.min(), volume.max()))
  for low, high in about["presets"].values():
    assert volume.min() <= low < high <= volume.max()


@pytest.mark.parametrize("plane", ["coronal", "oblique"])
def test_the_page_gets_where_each_voxel_lies(port, tmp_path, plane):
  grid = PLANES[plane]
  values, world = distinct(grid.shape), grid.world() * (-1, -1, 1)  # from the axes of DICOM to RAS
  paths = write_series(tmp_path, values, grid)
  head, (flair, *_), *_ = predict(port, *(("scan", path.name, path.read_bytes()) for path in paths))
  there = {int(values[index]): world[index] for index in np.ndindex(values.shape)}
  for slice_, row, column in np.ndindex(flair.shape):
    position = np.array(head["affine"]) @ (column, row, slice_, 1)
    np.testing.assert_allclose(position[:3], there[round(flair[slice_, row, column])], atol=1e-3)


def test_of_images_the_page_gets_no_place(port):
  assert predict(port, ("scan", "a.png", slices_of(4).files[1])).head["affine"] is None


def test_a_threshold_of_the_model_between_the_stops_is_one_itself(temporary):
  with serving(app.make_app(Brightness(threshold=0.437))) as port:
    head, _, levels, _ = predict(port, ("scan", "a.nii", nifti_bytes(slices_of(seed=2).volume)))
  assert len(head["thresholds"]) == 100 and head["thresholds"][head["own"]] == 0.437
  assert head["thresholds"] == sorted(head["thresholds"]) and (
    head["prediction"]["voxels"] == (levels > head["own"]).sum()
  )


def test_a_mask_that_is_more_than_a_threshold_is_sent_as_it_is(temporary):
  with serving(app.make_app(Brightness(cleans=True))) as port:
    volume = slices_of(seed=3).volume
    head, _, levels, bits = predict(port, ("scan", "a.nii", nifti_bytes(volume)))
  mask = np.unpackbits(bits, count=levels.size)
  assert not head["plain"] and mask.sum() == head["prediction"]["voxels"] < (levels > head["own"]).sum()


def test_a_mask_comes_back_in_the_file_s_format_and_place(port, tmp_path):
  volume = slices_of(seed=4).volume
  _, _, levels, _ = predict(port, ("scan", "scan.nii.gz", nifti_bytes(volume, compressed=True)))
  mask = levels > 70
  status, headers, content = post(
    port,
    "/mask",
    ("scan", "scan.nii.gz", nifti_bytes(volume, compressed=True)),
    ("mask", "m", np.packbits(mask).tobytes()),
  )
  assert status == 200 and headers["Content-Disposition"] == "attachment; filename*=UTF-8''mask.nii.gz"
  image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
  np.testing.assert_allclose(image.affine, AFFINE)
  assert NOTICE[:30] in str(image.header["descrip"])
  (tmp_path / "scan.nii.gz").write_bytes(nifti_bytes(volume, compressed=True))
  (study,) = reader.find(tmp_path / "scan.nii.gz", {})
  scan = reader.read(study)
  (path,) = reader.FORMATS["nifti"].write(scan, tmp_path, mask, {}, algorithm=Algorithm("bt_jax"))
  np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(nibabel.load(path).dataobj))


def test_a_scan_just_below_the_limit_gets_its_mask_too(port):
  scan = ("scan", "a.nii", nifti_bytes(slices_of(seed=9, shape=(30, 256, 256)).volume))
  *_, bits = predict(port, scan)
  assert len(scan[2]) < 2 * 2**20 < len(scan[2]) + len(bits)
  assert post(port, "/mask", scan, ("mask", "m", bits.tobytes()))[0] == 200


def test_a_dicom_mask_records_the_networks_and_the_threshold_it_is_shown_at(port, tmp_path):
  values = slices_of(seed=4).volume.astype(np.uint16)
  paths = write_series(tmp_path, values, AXIAL._replace(shape=values.shape))
  parts = [("scan", path.name, path.read_bytes()) for path in paths]
  mask = ("mask", "m", np.packbits(values > 70).tobytes())
  status, _, content = post(port, "/mask", *parts, mask, ("threshold", None, b"0.37"))
  assert status == 200
  (item,) = pydicom.dcmread(io.BytesIO(content)).SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
  assert item.AlgorithmName == "bt_jax <b>brightness</b>" and item.AlgorithmParameters == "threshold=0.37"
  assert item.AlgorithmVersion == writer.SOFTWARE
  for threshold in (b"much", b"nan", b"1.5", b""):
    status, _, content = post(port, "/mask", *parts, mask, ("threshold", None, threshold))
    assert status == 422 and "from 0 to 1" in error_in(content)


@pytest.mark.parametrize("path", ["/predict", "/mask"])
def test_the_limit_holds_for_what_a_zip_unpacks_to(port, path):
  volume = np.zeros((30, 260, 260), np.uint8)  # 2 MB are the limit, and zeros pack to nothing
  volume[:, 9:20, 9:20] = slices_of(seed=8, shape=(30, 11, 11)).volume
  for shape, refused in (((30, 260, 260), False), ((32, 260, 260), True)):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
      archive.writestr("a.nii", nifti_bytes(np.resize(volume, shape)))
    assert len(content.getvalue()) < 2**18
    mask = ("mask", "m", bytes(30 * 260 * 260 // 8))
    status, _, answer = post(port, path, ("scan", "a.zip", content.getvalue()), *[mask] * (path == "/mask"))
    assert status == (422 if refused else 200)
    assert not refused or "unpacks to over 2,097,152 bytes" in error_in(answer)


def test_masks_of_a_folder_come_zipped(port):
  slices = slices_of(seed=5)
  parts = [("scan", f"case/case_{at}.png", png) for at, png in slices.files.items()]
  mask = slices.volume > 200
  status, headers, content = post(port, "/mask", *parts, ("mask", "m", np.packbits(mask).tobytes()))
  assert status == 200 and headers["Content-Disposition"].endswith("''masks.zip")
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    pictures = [np.asarray(Image.open(archive.open(name))) for name in sorted(archive.namelist())]
  np.testing.assert_array_equal(np.array(pictures) > 0, mask)


def test_sequences_by_role_may_share_a_name(port):
  flair, post_contrast = slices_of(seed=6).volume, slices_of(seed=7).volume
  head, shown, *_ = predict(
    port, ("post", "scan.nii", nifti_bytes(post_contrast)), ("flair", "scan.nii", nifti_bytes(flair))
  )
  assert [channel["title"] for channel in head["channels"]] == ["FLAIR", "post"]
  np.testing.assert_array_equal(shown, [flair, post_contrast])
  assert "pre" in " ".join(head["prediction"]["warnings"])


GOOD = ("scan", "a.nii", nifti_bytes(slices_of(seed=8).volume))
REFUSED = {
  "a broken file": (422, "a.nii", [("scan", "a.nii", GOOD[2][:500])]),
  "an empty file": (422, "a.png", [("scan", "a.png", b"")]),
  "no scan at all": (422, "notes.txt", [("scan", "notes.txt", b"hello")]),
  "no file": (400, "no file", [("flair", None, b"  ")]),
  "a name twice": (400, "two files", [GOOD, GOOD]),
  "an unknown field": (400, "'other'", [("other", "a.nii", GOOD[2])]),
  "a field without its file": (400, "'scan'", [("scan", None, b"x")]),
  "a long field": (400, "'flair'", [("flair", None, b"1" * 65)]),
  "a path of the server's": (400, "'flair'", [("flair", None, str(ROOT / "README.md").encode())]),
  "a series of no scan": (400, "no file", [("flair", None, b"1.2.3")]),
  "a series of a scan without any": (422, "a.nii", [GOOD, ("flair", None, b"1.2.3")]),
  "a role twice": (400, "'flair'", [("flair", *GOOD[1:]), ("flair", *GOOD[1:])]),
  "a scan that is a role too": (422, "a.nii", [GOOD, ("flair", *GOOD[1:])]),
  "too many files": (413, "20 files", [("scan", f"a_{at}.png", b"x") for at in range(21)]),
  "too many bytes": (413, "2 MB", [("scan", "a.nii", bytes(2 * 2**20))]),
}


@pytest.mark.parametrize("status, words, parts", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_predicted_is_refused_in_one_line(port, temporary, status, words, parts):
  got, headers, content = post(port, "/predict", *parts)
  assert got == status, content
  assert words in error_in(content) and str(temporary) not in error_in(content) and "Content-Security-Policy" in headers


def test_too_many_bytes_are_noticed_without_a_length_too(port):
  body, kind = form(("scan", "a.nii", bytes(3 * 2**20)))
  pieces = (body[at : at + 65536] for at in range(0, len(body), 65536))
  status, _, content = ask(port, "POST", "/predict", pieces, kind)
  assert status == 413 and "2 MB" in error_in(content)


def test_too_long_a_request_is_refused_before_it_is_sent(port):
  with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
    line.sendall(
      b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
      b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n"
    )
    assert line.recv(100).startswith(b"HTTP/1.1 413")


def test_other_media_and_broken_forms_are_refused(port):
  status, _, content = ask(port, "POST", "/predict", b"{}", {"Content-Type": "application/json"})
  assert status == 415 and "multipart" in error_in(content)
  body, kind = form(GOOD)
  for broken in (body[:-20], b"nothing of a form", b""):
    status, _, content = ask(port, "POST", "/predict", broken, kind)
    assert status == 400 and "send it again" in error_in(content)


def test_a_mask_must_be_of_the_scan(port):
  assert post(port, "/mask", GOOD)[0] == 400
  status, _, content = post(port, "/mask", GOOD, ("mask", "m", b"123"))
  assert status == 422 and "3 bytes" in error_in(content) and "180" in error_in(content)


def test_pages_and_names_of_others_are_refused(port):
  for origin in ("http://evil.example", f"http://localhost:{port + 1}", "null"):
    status, _, content = post(port, "/predict", GOOD, Origin=origin)
    assert status == 403 and origin in error_in(content)
  assert post(port, "/predict", GOOD, Origin=f"http://127.0.0.1:{port}")[0] == 200
  assert ask(port, "GET", "/", headers={"Host": "evil.example"})[0] == 400
  assert ask(port, "GET", "/", headers={"Host": f"localhost:{port}"})[0] == 200


def test_an_address_beyond_this_machine_answers_to_every_name(temporary):
  assert [guard.is_local(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
  assert not any(guard.is_local(host) for host in ("0.0.0.0", "::", "192.168.0.7", "scanner"))
  with serving(app.make_app(Brightness(), host="0.0.0.0")) as port:
    assert ask(port, "GET", "/", headers={"Host": "scanner"})[0] == 200
    assert post(port, "/predict", GOOD, Host="scanner", Origin="http://evil.example")[0] == 403


def test_a_fault_of_the_server_is_one_line_too(temporary):
  with serving(app.make_app(Brightness(fails=True))) as port:
    status, headers, content = post(port, "/predict", GOOD)
  assert status == 500 and "ZeroDivisionError" in error_in(content) and headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("kind", ["an upload", "a zip"])
def test_a_machine_that_cannot_write_is_no_fault_of_the_scan(port, monkeypatch, kind, number):
  def fail(*_):
    raise OSError(number, os.strerror(number))

  async def fail_late(*_):
    fail()

  content = io.BytesIO()
  with zipfile.ZipFile(content, "w") as archive:
    archive.writestr(*GOOD[1:])
  if kind == "an upload":
    monkeypatch.setattr(uploads, "receive", fail_late)
  else:
    monkeypatch.setattr(archives, "unpack", fail)
  status, _, answer = post(port, "/predict", ("scan", "a.zip", content.getvalue()))
  assert status == 507 and os.strerror(number) in error_in(answer) and "make room" in error_in(answer)


def test_who_leaves_in_the_middle_leaves_nothing(port, temporary):
  body, _ = form(GOOD)
  with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
    line.sendall(
      b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
      b"Content-Length: %d\r\n\r\n" % len(body) + body[:-100]
    )
    until = time.monotonic() + 5
    while not any(temporary.glob("*/scan/a.nii")) and time.monotonic() < until:
      time.sleep(0.01)
    assert any(temporary.glob("*/scan/a.nii"))


def test_scans_are_predicted_one_at_a_time_and_the_page_comes_meanwhile(temporary):
  predictor = Brightness(waits=threading.Event())
  with serving(app.make_app(predictor)) as port:
    threads = [threading.Thread(target=post, args=(port, "/predict", GOOD)) for _ in range(3)]
    for thread in threads:
      thread.start()
    assert predictor.started.wait(5)
    assert ask(port, "GET", "/")[0] == 200
    predictor.waits.set()
    for thread in threads:
      thread.join()
  assert predictor.calls == 3 and predictor.most_at_once == 1


def test_each_prediction_is_kept_in_a_folder_of_its_own_if_told(temporary, tmp_path):
  with serving(app.make_app(Brightness(), keep=tmp_path / "kept")) as port:
    assert json.loads(ask(port, "GET", "/about")[2])["keeps"] is True
    for _ in range(2):
      head, *_ = predict(port, GOOD)
  assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["0001", "0002"]
  for folder in (tmp_path / "kept").iterdir():
    assert json.loads((folder / "prediction.json").read_text()).items() >= head["prediction"].items()
    assert np.asarray(nibabel.load(folder / "mask.nii").dataobj).sum() == head["prediction"]["voxels"]
