"""The viewer in a browser: a scan is dropped, the threshold moved, slices paged, the mask downloaded."""

import gzip
import io
import json
import re
import zipfile

import nibabel
import numpy as np
import pytest
from PIL import Image

from bt_jax.scans.scan import NOTICE
from bt_jax.serving import app
from tests.helpers.pages import PROBABILITY, VOLUME, move, shown, sides, text, upload
from tests.helpers.viewers import VOXEL_MM3, Brightness, nifti_bytes, png_bytes, serving

pytest_plugins = ["tests.helpers.browsing"]
pytestmark = pytest.mark.slow

sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser")
EVIL = "<img src=x onerror=alert(1)>"


def test_mask_and_volume_follow_the_threshold(visit):
  page = visit()
  upload(page, ("scan.nii.gz", nifti_bytes(VOLUME, compressed=True)))
  assert page.locator("#threshold").input_value() == "49" and "0.50, the model's own" in text(page, "threshold-value")
  slice_probability = PROBABILITY.max((1, 2))
  for threshold in (0.5, 0.4, 0.8, 0.3, 0.99, 0.5):
    move(page, threshold)
    mask = np.float32(threshold) <= PROBABILITY
    count = int(mask.sum())
    assert text(page, "voxels") == f"{count:,}"
    assert text(page, "cubic") == f"{count * VOXEL_MM3:,} mm³"
    assert text(page, "volume") == f"{count * VOXEL_MM3 / 1000:,.2f} ml"
    assert text(page, "tumor") == ("yes" if count else "no")
    assert text(page, "marked") == f"in {mask.any((1, 2)).sum()} of 12 slices"
    area = int(mask[shown(page) - 1].sum())
    assert text(page, "pixels") == f"{area:,} pixels" and text(page, "area") == f"{area * 6:,} mm²"
    assert page.locator("#strip .marked").count() == mask.any((1, 2)).sum()
  assert shown(page) == 1 + (PROBABILITY >= 0.5).sum((1, 2)).argmax()
  heights = page.locator("#strip i").evaluate_all("(all) => all.map((bar) => parseFloat(bar.style.height))")
  assert heights == pytest.approx(100 * slice_probability, abs=0.01)
  assert text(page, "probability") == f"probability {slice_probability.max():.3f}"
  page.locator("#threshold").focus()
  page.keyboard.press("ArrowLeft")
  assert text(page, "threshold-value") == "0.49"
  page.get_by_role("button", name="Back to the model's").click()
  assert text(page, "threshold-value").startswith("0.50")


def orange(page):
  """How many voxels of the slice are tinted."""
  return page.evaluate(
    """() => {
      const canvas = document.querySelector("#stage canvas"), copy = new OffscreenCanvas(canvas.width, canvas.height);
      const context = copy.getContext("2d", { willReadFrequently: true });
      context.drawImage(canvas, 0, 0);
      let count = 0;
      for (let y = 0; y < 60; y++) for (let x = 0; x < 64; x++) {
        const [red, , blue] = context.getImageData((x + .5) * canvas.width / 64, (y + .5) * canvas.height / 60, 1, 1).data;
        count += red - blue > 100;
      }
      return count;
    }"""
  )


def test_the_picture_shows_the_mask_as_fill_and_outline(visit):
  page = visit()
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))
  canvas = page.locator("#stage canvas").bounding_box()
  assert canvas["width"] / canvas["height"] == pytest.approx(64 * 2 / (60 * 3), rel=0.02)  # mm
  page.locator("#opacity").fill("1")
  for threshold in (0.5, 0.6):
    move(page, threshold)
    assert orange(page) == (PROBABILITY[shown(page) - 1] >= np.float32(threshold)).sum() > 50
  page.keyboard.press("o")
  page.keyboard.press("f")
  assert orange(page) == 0 and not page.locator("#outline").is_checked() and not page.locator("#fill").is_checked()


def test_the_patient_s_sides_are_shown_where_the_files_give_them(visit):
  page = visit()
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))
  assert sides(page) == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
  assert "patient's right" in text(page, "sides")
  upload(page, ("slice.png", png_bytes(VOLUME[4])))
  sync_api.expect(page.locator("#study")).to_have_text("slice")
  assert set(sides(page).values()) == {""} and "Left and right are not known" in text(page, "sides")


def test_wheel_and_keys_page_through_slices(visit):
  page = visit()
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))
  start = shown(page)
  assert 1 < start < 11
  for key, there in {
    "ArrowRight": start + 1, "ArrowDown": start + 2, "ArrowLeft": start + 1, "ArrowUp": start, "End": 12, "PageUp": 2,
    "PageDown": 12, "Home": 1,
  }.items():  # fmt: skip
    page.keyboard.press(key)
    assert shown(page) == there and page.locator("#slice").input_value() == str(there)
  page.locator("#stage").hover()
  page.mouse.wheel(0, 100)
  sync_api.expect(page.locator("#where")).to_have_text(re.compile("^Slice 2 "))
  page.locator("#strip span").nth(6).click()
  assert shown(page) == 7 and page.locator("#strip .current").count() == 1
  page.get_by_label("Next slice").click()
  page.keyboard.press("ArrowRight")
  page.locator("#slice").focus()
  page.keyboard.press("ArrowRight")  # of the range itself: one step, not two
  assert shown(page) == 10
  page.locator("#threshold").focus()
  page.keyboard.press("ArrowRight")
  assert shown(page) == 10


def test_the_mask_as_shown_and_the_numbers_are_downloaded(visit):
  page = visit()
  upload(page, ("scan.nii.gz", nifti_bytes(VOLUME, compressed=True)))
  for threshold in (0.5, 0.37):
    move(page, threshold)
    with page.expect_download() as download:
      page.get_by_role("button", name="Download the mask").click()
    assert download.value.suggested_filename == f"scan_threshold_{threshold:.2f}_mask.nii.gz"
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(download.value.path().read_bytes()))
    mask = np.asarray(image.dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(mask > 0, np.float32(threshold) <= PROBABILITY)
  with page.expect_download() as download:
    page.get_by_role("button", name="Download prediction.json").click()
  assert download.value.suggested_filename == "scan_prediction.json"
  described = json.loads(download.value.path().read_text())
  assert described["voxels"] == (PROBABILITY >= 0.5).sum() and described["threshold"] == 0.5


def test_a_folder_of_slices_whose_names_are_markup(visit, tmp_path):
  folder = tmp_path / EVIL
  folder.mkdir()
  for at, picture in enumerate(VOLUME, start=1):
    (folder / f"<b>x_{at}.png").write_bytes(png_bytes(picture))
  page = visit()
  page.locator("#folder").set_input_files(folder)
  page.wait_for_selector("#result:not([hidden])")
  assert page.locator("main img, #result li b, #where b, #facts b, #model b").count() == 0
  assert "<b>brightness</b>" in text(page, "model") and "img src" in text(page, "study")
  assert text(page, "volume") == "—" and text(page, "voxels") == f"{(PROBABILITY >= 0.5).sum():,}"
  assert "no pre" in text(page, "warnings") and "<b>odd</b>" in text(page, "warnings")
  page.keyboard.press("Home")
  page.keyboard.press("ArrowRight")
  page.keyboard.press("ArrowRight")
  assert text(page, "pixels") == f"{(PROBABILITY[2] >= 0.5).sum()} pixels"  # slice 10 does not come before slice 2
  with page.expect_download() as download:
    page.get_by_role("button", name="Download the mask").click()
  with zipfile.ZipFile(download.value.path()) as archive:
    marked = sorted(
      int((np.asarray(Image.open(io.BytesIO(archive.read(name)))) > 0).sum()) for name in archive.namelist()
    )
  assert marked == sorted((PROBABILITY >= 0.5).sum((1, 2)).tolist())


def test_what_is_wrong_is_said_and_the_page_goes_on(visit):
  page = visit()
  page.locator("#files").set_input_files({"name": "a.nii", "mimeType": "", "buffer": nifti_bytes(VOLUME)[:400]})
  page.get_by_role("alert").wait_for()
  assert "a.nii" in page.get_by_role("alert").inner_text() and not page.locator("#result").is_visible()
  page.locator("#files").set_input_files({"name": "a.nii", "mimeType": "", "buffer": bytes(2**20 + 1)})
  sync_api.expect(page.locator("#error")).to_have_text(re.compile("1 MB|takes 1"))
  page.get_by_text("Name the sequences yourself").click()
  page.get_by_role("button", name="Predict these files").click()
  sync_api.expect(page.locator("#error")).to_contain_text("choose a scan")
  page.locator("#flair-file").set_input_files({"name": "b.nii", "mimeType": "", "buffer": nifti_bytes(VOLUME)})
  page.get_by_role("button", name="Predict these files").click()
  page.wait_for_selector("#result:not([hidden])")
  assert not page.get_by_role("alert").is_visible() and text(page, "voxels") == f"{(PROBABILITY >= 0.5).sum():,}"
  # A refused scan takes the result of the one before away, and its error is in view.
  page.locator("#files").set_input_files({"name": "a.nii", "mimeType": "", "buffer": nifti_bytes(VOLUME)[:400]})
  sync_api.expect(page.get_by_role("alert")).to_be_in_viewport()
  assert not page.locator("#result").is_visible()


def test_a_folder_that_is_dropped_is_gone_through(visit, tmp_path):
  folder = tmp_path / "case" / "deeper"
  folder.mkdir(parents=True)
  many = np.resize(VOLUME, (120, *VOLUME.shape[1:]))  # a directory is listed a hundred at a time
  for at, picture in enumerate(many, start=1):
    (folder / f"slice_{at}.png").write_bytes(png_bytes(picture))
  page = visit()
  box = page.locator("#drop").bounding_box()
  mouse = page.context.new_cdp_session(page)
  for kind in ("dragEnter", "dragOver", "drop"):
    data = {"items": [], "files": [str(folder.parent)], "dragOperationsMask": 1}
    mouse.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 20, "y": box["y"] + 20, "data": data})
  page.wait_for_selector("#result:not([hidden])")
  assert text(page, "voxels") == f"{10 * (PROBABILITY >= 0.5).sum():,}" and "of 120 slices" in text(page, "marked")


def test_a_mask_that_is_cleaned_up_shows_so_at_the_model_s_threshold_alone(visit):
  with serving(app.make_app(Brightness(threshold=0.437, cleans=True))) as port:
    page = visit(address=f"http://127.0.0.1:{port}")
    upload(page, ("scan.nii", nifti_bytes(VOLUME)))
    mask = np.float32(0.437) <= PROBABILITY
    mask[:, ::2] = False
    assert text(page, "voxels") == f"{mask.sum():,}" and page.locator("#cleaned").is_visible()
    page.locator("#threshold").focus()
    page.keyboard.press("ArrowRight")
    assert text(page, "voxels") == f"{(np.float32(0.44) <= PROBABILITY).sum():,}"
    page.close()


def test_the_page_fits_a_telephone_and_can_be_used_without_a_mouse(visit):
  page = visit(width=400)
  assert page.evaluate("document.documentElement.scrollWidth") <= 400
  page.get_by_text("Name the sequences yourself").click()
  upload(page, ("a_rather_long_name_of_a_scan_" * 4 + ".nii", nifti_bytes(VOLUME)))
  assert page.evaluate("document.documentElement.scrollWidth") <= 400
  assert page.evaluate("document.activeElement.id") == "stage"
  notice = page.get_by_text(NOTICE).bounding_box()  # the page is scrolled to the result
  assert page.evaluate("scrollY") > 300 and 0 <= notice["y"] < 10
  nameless = page.evaluate(
    """() => [...document.querySelectorAll("button, input:not([hidden]), [role]")].filter((element) =>
      !element.labels?.length && !element.ariaLabel && !element.textContent.trim() && !element.closest("[hidden]"))
      .map((element) => element.outerHTML)"""
  )
  assert nameless == []
