"""Several studies in the viewer: dropped, listed by uncertainty, opened by a click or the keyboard, each with its downloads."""

import io
import json
import zipfile

import numpy as np
import pydicom
import pytest

from bt_jax.inference import measurements
from tests.helpers.pages import PROBABILITY, VOLUME, move, text
from tests.helpers.scanners import AXIAL, write_series
from tests.helpers.viewers import nifti_bytes

pytest_plugins = ["tests.helpers.browsing"]
pytestmark = pytest.mark.slow

sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser")
GRID = AXIAL._replace(shape=VOLUME.shape)
SHARP = np.where(VOLUME > 140, 255, VOLUME // 4).astype(np.uint8)  # of which the networks are surer


def write_study(folder, values, number):
  def edit(data, index):
    data.StudyInstanceUID, data.PatientID = f"2.25.88{number}", f"patient {number}"
    data.SOPInstanceUID = f"{data.SOPInstanceUID}.{number}"

  return write_series(folder, values.astype(np.uint16), GRID, edit=edit)


def drop(page, *paths):
  box = page.locator("#drop").bounding_box()
  mouse = page.context.new_cdp_session(page)
  for kind in ("dragEnter", "dragOver", "drop"):
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    mouse.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 20, "y": box["y"] + 20, "data": data})


def rows(page):
  """Of each study its name, uncertainty, what is segmented, and what is remarked."""
  parts = ("button", "td:nth-child(2)", "td:nth-child(3)", "small")
  return [[row.locator(part).inner_text() for part in parts] for row in page.locator("#studies-rows tr").all()]


def finished(page, count):
  sync_api.expect(page.locator("#studies-count")).to_contain_text(f"{count} predicted", timeout=60_000)
  page.locator("#busy").wait_for(state="hidden", timeout=60_000)


def uncertainty(volume):
  probability = volume.astype(np.float32) / np.float32(255)
  return measurements.uncertainty(probability, probability >= 0.5, probability.max((1, 2)))


@pytest.fixture
def drive(tmp_path):
  """A folder of three studies, one of which lacks a slice, and a copy of one."""
  folder = tmp_path / "drive"
  write_study(folder / "sure/a/b", SHARP, 1)
  write_study(folder / "unsure/a", VOLUME, 2)
  write_study(folder / "unsure copy/a", VOLUME, 2)
  write_study(folder / "broken", VOLUME, 3)[5].unlink()
  (folder / "README.txt").write_text("of the hospital")
  return folder


def test_a_dropped_folder_of_studies_is_a_list_by_uncertainty(visit, drive):
  page = visit()
  drop(page, drive)
  finished(page, "2 of 3")
  unsure, sure, broken = rows(page)
  assert unsure[:2] == ["drive/unsure/a", f"{uncertainty(VOLUME):.2f}"]
  assert sure[:2] == ["drive/sure/a/b", f"{uncertainty(SHARP):.2f}"] and uncertainty(SHARP) < uncertainty(VOLUME) - 0.1
  assert broken[0] == "drive/broken" and broken[2] == "failed" and "missing" in broken[3]
  assert "\n" not in broken[3] and "/tmp" not in broken[3]
  assert "Look first at drive/unsure/a" in text(page, "studies-count") and "1 failed" in text(page, "studies-count")
  assert "unsure copy/a are the same as in drive/unsure/a" in text(page, "twice")
  assert page.locator("#result").is_hidden() and text(page, "error") == ""
  assert page.get_by_role("button", name="drive/broken").is_disabled()


def test_each_study_is_opened_by_a_click_or_a_key_with_its_own_downloads(visit, drive):
  page = visit()
  page.locator("#folder").set_input_files(drive)
  finished(page, "2 of 3")
  for name, volume, patient in (("drive/unsure/a", VOLUME, 2), ("drive/sure/a/b", SHARP, 1)):
    button = page.get_by_role("button", name=name, exact=True)
    if patient == 2:
      button.click()
    else:
      button.focus()
      page.keyboard.press("Enter")
    sync_api.expect(page.locator("#study")).to_have_text(name)
    assert page.locator("tr[aria-current]").count() == 1 and name in page.locator("tr[aria-current]").inner_text()
    mask = volume.astype(np.float32) / np.float32(255) >= 0.5
    assert text(page, "voxels") == f"{mask.sum():,}"
    with page.expect_download() as download:
      page.get_by_role("button", name="Download the mask").click()
    data = pydicom.dcmread(download.value.path())
    assert data.PatientID == f"patient {patient}" and int(data.pixel_array.sum()) == mask.sum()
    with page.expect_download() as download:
      page.get_by_role("button", name="Download prediction.json").click()
    assert json.loads(download.value.path().read_text())["voxels"] == mask.sum()
  page.get_by_role("link", name="All studies").click()
  sync_api.expect(page.locator("#studies-heading")).to_be_in_viewport()


def test_a_drop_while_scans_are_predicted_is_refused_and_the_first_goes_on(visit, drive):
  page, held = visit(), []
  page.route("**/predict", lambda route: held.append(route))
  drop(page, drive / "unsure")
  drop(page, drive / "sure")  # at once, while the folder of the first is gone through
  sync_api.expect(page.locator("#error")).to_contain_text("still being predicted")
  page.wait_for_function("!document.getElementById('busy').hidden")
  while not held:
    page.wait_for_timeout(50)
  held.pop().continue_()
  page.wait_for_selector("#result:not([hidden])")
  assert "unsure" in text(page, "study") and page.locator("#error").is_hidden() and not held


def test_secondary_captures_and_a_report_of_the_mask_as_shown_are_downloaded(visit, drive):
  page = visit()
  drop(page, drive / "unsure")
  page.wait_for_selector("#result:not([hidden])")
  assert page.locator("#studies").is_hidden()  # a single study is shown at once
  move(page, 0.4)
  for button, name, inside in (
    ("Download secondary captures", "secondary_capture.zip", 12),
    ("Download a report (DICOM SR)", "report.zip", 2),
  ):
    with page.expect_download() as download:
      page.get_by_role("button", name=button).click()
    assert download.value.suggested_filename.endswith(f"threshold_0.40_{name}")
    with zipfile.ZipFile(download.value.path()) as archive:
      assert len(archive.namelist()) == inside
      files = {file: pydicom.dcmread(io.BytesIO(archive.read(file))) for file in archive.namelist()}
  assert int(files["mask.dcm"].pixel_array.sum()) == (np.float32(0.4) <= PROBABILITY).sum()
  page.locator("#files").set_input_files({"name": "scan.nii", "mimeType": "", "buffer": nifti_bytes(VOLUME)})
  sync_api.expect(page.locator("#study")).to_have_text("scan")
  assert page.locator("#download-sc").is_hidden() and page.locator("#download-sr").is_hidden()


def test_a_correction_that_is_not_saved_keeps_the_other_studies_closed(visit, drive):
  page = visit()
  drop(page, drive)
  finished(page, "2 of 3")
  page.get_by_role("button", name="drive/unsure/a", exact=True).click()
  sync_api.expect(page.locator("#study")).to_have_text("drive/unsure/a")
  page.locator("#tool-brush").check()
  page.locator("#frame").scroll_into_view_if_needed()
  box = page.locator("#frame").bounding_box()
  page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 3)
  sync_api.expect(page.locator("#undo")).to_be_enabled()
  page.get_by_role("button", name="drive/sure/a/b").click()
  sync_api.expect(page.locator("#error")).to_contain_text("is not saved")
  assert text(page, "study") == "drive/unsure/a"
  page.get_by_role("button", name="Undo").click()
  page.get_by_role("button", name="drive/sure/a/b").click()
  sync_api.expect(page.locator("#study")).to_have_text("drive/sure/a/b")
  page.evaluate("window.onbeforeunload = null")


def test_a_zip_of_several_studies_fits_a_telephone_and_a_new_scan_takes_the_list_away(visit, drive):
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
    for path in sorted(path for path in drive.rglob("*") if path.is_file()):
      archive.write(path, f"{'a_rather_long_name_' * 3}/{path.relative_to(drive)}")
  page = visit(width=400)
  page.locator("#files").set_input_files({"name": "all.zip", "mimeType": "", "buffer": content.getvalue()})
  finished(page, "2 of 3")
  assert page.evaluate("document.documentElement.scrollWidth") <= 400
  assert [row[0].split("/")[2] for row in rows(page)] == ["unsure", "sure", "broken"]
  page.locator("#files").set_input_files({"name": "scan.nii", "mimeType": "", "buffer": nifti_bytes(VOLUME)})
  page.wait_for_selector("#result:not([hidden])")
  assert page.locator("#studies").is_hidden() and page.locator("#to-studies").is_hidden()
