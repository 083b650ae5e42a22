"""A mask is corrected in a browser: brush, eraser, fill, undo, and what becomes of it."""

import dataclasses
import gzip

import nibabel
import numpy as np
import pytest

from bt_jax.datasets.own_data import layouts
from bt_jax.serving import app
from tests.helpers.pages import PROBABILITY, VOLUME, shown, text, upload
from tests.helpers.viewers import VOXEL_MM3, Brightness, nifti_bytes, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser")
pytest_plugins = ["tests.helpers.browsing"]
pytestmark = pytest.mark.slow

HEIGHT, WIDTH = VOLUME.shape[1:]
MASK = PROBABILITY >= 0.5


def point(page, row, column):
  """Where the centre of a pixel is on the page, if the whole slice is shown."""
  box = page.locator("#frame").bounding_box()
  return box["x"] + (column + 0.5) / WIDTH * box["width"], box["y"] + (row + 0.5) / HEIGHT * box["height"]


def stroke(page, tool, *pixels):
  """Draws with the mouse from pixel to pixel, each (row, column)."""
  page.locator(f"#tool-{tool}").check()
  page.locator("#frame").scroll_into_view_if_needed()
  page.mouse.move(*point(page, *pixels[0]))
  page.mouse.down()
  for pixel in pixels[1:]:
    page.mouse.move(*point(page, *pixel), steps=8)
  page.mouse.up()


def downloaded(page):
  """The name and the mask of the download, [slices, height, width]."""
  with page.expect_download() as download:
    page.get_by_role("button", name="Download the mask").click()
  content = gzip.decompress(download.value.path().read_bytes())
  image = nibabel.Nifti1Image.from_bytes(content)
  return download.value.suggested_filename, np.asarray(image.dataobj).transpose(2, 1, 0) > 0, image.header


def assert_shows(page, mask):
  """Numbers follow a mask."""
  area = int(mask[shown(page) - 1].sum())
  assert text(page, "voxels") == f"{mask.sum():,}" and text(page, "cubic") == f"{mask.sum() * VOXEL_MM3:,} mm³"
  assert text(page, "pixels") == f"{area:,} pixels" and text(page, "area") == f"{area * 6:,} mm²"
  assert text(page, "marked") == f"in {mask.any((1, 2)).sum()} of 12 slices"


@pytest.fixture
def page(visit):
  page = visit()
  upload(page, ("scan.nii.gz", nifti_bytes(VOLUME, compressed=True)))
  page.locator("#brush-size").fill("1")
  return page


def test_strokes_change_the_mask_and_all_that_follows_from_it(page):
  page.locator("#stage").focus()
  page.keyboard.press("End")
  page.keyboard.press("ArrowLeft")  # slice 11 of 12, where nothing is marked
  assert not MASK[10].any() and text(page, "pixels") == "0 pixels"
  mask = MASK.copy()
  stroke(page, "brush", (40, 10), (40, 20), (50, 20), (50, 10), (40, 10))
  mask[10, [40, 50], 10:21] = True
  mask[10, 40:51, [[10], [20]]] = True
  assert_shows(page, mask)
  outline = mask.copy()
  stroke(page, "bucket", (45, 15))
  mask[10, 40:51, 10:21] = True
  assert_shows(page, mask)
  stroke(page, "bucket", (5, 5))  # no outline is around it
  assert_shows(page, mask)
  assert "closed outline" in text(page, "pen-note")
  stroke(page, "eraser", (45, 12), (45, 14))
  mask[10, 45, 12:15] = False
  assert_shows(page, mask)
  assert page.locator("#strip .marked").count() == mask.any((1, 2)).sum()
  assert "in slice 11: 118 voxels added, 0 removed" in text(page, "corrected")
  assert page.locator("#threshold").is_disabled() and page.locator("#locked").is_visible()
  page.keyboard.press("Control+z")
  page.get_by_role("button", name="Undo").click()
  assert_shows(page, outline)
  page.keyboard.press("Control+y")
  page.get_by_role("button", name="Redo").click()
  assert_shows(page, mask)
  name, found, header = downloaded(page)
  assert name == "scan_threshold_0.50_corrected_mask.nii.gz" and b"corrected by hand" in header["descrip"].item()
  np.testing.assert_array_equal(found, mask)
  page.get_by_role("button", name="Back to the prediction").click()
  assert_shows(page, MASK)
  assert text(page, "corrected") == "" and page.locator("#threshold").is_enabled()
  name, found, header = downloaded(page)
  assert name == "scan_threshold_0.50_mask.nii.gz" and b"corrected" not in header["descrip"].item()
  np.testing.assert_array_equal(found, MASK)
  page.get_by_role("button", name="Undo").click()  # a reset too
  assert_shows(page, mask)


def test_the_brush_is_round_in_mm_and_stays_in_the_volume(page):
  page.locator("#stage").focus()
  page.keyboard.press("End")
  page.locator("#brush-size").fill("9")  # of 2 mm
  stroke(page, "brush", (30, 30))
  rows, columns = np.indices((HEIGHT, WIDTH))
  disc = np.hypot(3 * (rows - 30), 2 * (columns - 30)) <= 9
  page.locator("#brush-size").fill("20")
  stroke(page, "brush", (0, 0))
  corner = np.hypot(3 * rows, 2 * columns) <= 20
  expected = MASK.copy()
  expected[11] |= disc | corner
  _, found, _ = downloaded(page)
  np.testing.assert_array_equal(found, expected)


def test_planes_that_the_network_does_not_see_are_not_corrected_but_follow(page):
  number = shown(page)
  stroke(page, "brush", (2, 3), (2, 8))
  mask = MASK.copy()
  mask[number - 1, 2, 3:9] = True
  page.locator("#coronal").check()
  assert page.locator("#tool-brush").is_disabled() and page.locator("#tool-move").is_checked()
  page.locator("#slice").fill("3")
  assert text(page, "pixels") == f"{mask[:, 2].sum()} pixels"


def test_a_correction_that_is_not_saved_is_not_dropped_for_another_scan(page):
  stroke(page, "brush", (2, 3))
  upload_other = {"name": "other.nii", "mimeType": "", "buffer": nifti_bytes(VOLUME)}
  page.locator("#files").set_input_files(upload_other)
  page.get_by_role("alert").wait_for()
  assert "correction of scan is not saved" in text(page, "error") and text(page, "study") == "scan"
  downloaded(page)
  page.locator("#files").set_input_files(upload_other)
  sync_api.expect(page.locator("#study")).to_have_text("other")
  assert text(page, "corrected") == "" and page.get_by_role("button", name="Undo").is_disabled()


def test_a_finger_draws_and_two_take_the_stroke_back_and_zoom(visit):
  page = visit(width=400, has_touch=True, is_mobile=True)
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))
  page.locator("#brush-size").fill("1")
  page.locator("#tool-brush").check()
  page.locator("#frame").scroll_into_view_if_needed()
  session = page.context.new_cdp_session(page)

  def touch(kind, *points):
    touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

  before, number = int(text(page, "voxels").replace(",", "")), shown(page)
  first, last, other = point(page, 55, 5), point(page, 55, 14), point(page, 40, 50)
  touch("touchStart", first)
  touch("touchMove", last)
  touch("touchEnd")
  assert int(text(page, "voxels").replace(",", "")) == before + 10 and shown(page) == number
  touch("touchStart", point(page, 58, 5))
  touch("touchMove", point(page, 58, 14))
  touch("touchStart", point(page, 58, 14), other)
  touch("touchMove", point(page, 58, 5), (other[0] + 40, other[1]))
  touch("touchEnd")
  assert int(text(page, "voxels").replace(",", "")) == before + 10 and text(page, "zoom") != "100 %"
  assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_correction_is_kept_and_how_to_train_from_it_is_shown(visit, tmp_path):
  command = lambda root, patients, info: f"train <b>from</b> {root.name} with {patients}"
  with serving(app.make_app(Brightness(), keep=tmp_path / "kept", fine_tuning=command)) as port:
    page = visit(address=f"http://127.0.0.1:{port}")
    upload(page, ("scan.nii", nifti_bytes(VOLUME)))
    page.locator("#brush-size").fill("1")
    keep = page.get_by_role("button", name="Keep the correction")
    assert keep.is_disabled()
    number = shown(page)
    stroke(page, "brush", (2, 3), (2, 8))
    keep.click()
    sync_api.expect(page.locator("#kept-command")).to_have_text("train <b>from</b> corrections with 1")
    assert "1 correction of 1 patient" in text(page, "kept-line") and text(page, "error") == ""
    mask = MASK.copy()
    mask[number - 1, 2, 3:9] = True
    (case,) = layouts.find(tmp_path / "kept/corrections").cases
    for path in (case.masks[0], tmp_path / "kept/0001/corrected/mask.nii"):
      np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0), mask)
    # What is kept is saved: another scan is taken, and its result says nothing of this one.
    upload(page, ("other.nii", nifti_bytes(VOLUME)))
    sync_api.expect(page.locator("#study")).to_have_text("other")
    assert not page.locator("#kept-correction").is_visible()
    (tmp_path / "kept/0002/prediction.json").unlink()
    stroke(page, "brush", (2, 3))
    keep.click()
    page.get_by_role("alert").wait_for()
    assert "no kept prediction '0002'" in text(page, "error") and page.locator("#result").is_visible()
    page.close()


def test_a_server_that_keeps_nothing_offers_no_keeping_and_says_so(page):
  assert not page.locator("#keep").is_visible() and "is not kept" in text(page, "keeping")


class Two(Brightness):
  """What is bright is the core, and what is less so the rim."""

  info = dataclasses.replace(Brightness.info, classes=("rim", "core"), ids=(1, 2))

  def predict(self, scan):
    one = super().predict(scan)
    core = (one.probability >= 0.7)[..., None]
    rim = one.masks & ~core
    probabilities = np.concatenate([one.probabilities * ~core, one.probabilities * core], -1)
    return dataclasses.replace(one, masks=np.concatenate([rim, core], -1), probabilities=probabilities, info=self.info)


def test_of_classes_that_exclude_each_other_the_brush_moves_voxels_to_its_own(visit):
  with serving(app.make_app(Two())) as port:
    page = visit(address=f"http://127.0.0.1:{port}")
    upload(page, ("scan.nii.gz", nifti_bytes(VOLUME, compressed=True)))
    number, row = shown(page) - 1, 22
    core = PROBABILITY >= 0.7
    rim = MASK & ~core
    assert core[number, row].any() and rim[number, row].any()
    page.locator("#brush-size").fill("1")
    page.locator("#pen-class").select_option("rim")
    stroke(page, "brush", (row, 0), (row, WIDTH - 1))
    page.locator("#pen-class").select_option("core")
    stroke(page, "eraser", (row, 0), (row, WIDTH - 1))  # there is none any more
    rim[number, row], core[number, row] = True, False
    with page.expect_download() as download:
      page.get_by_role("button", name="Download the mask").click()
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(download.value.path().read_bytes()))
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), rim + 2 * core)
    volumes = page.locator("#classes small").all_inner_texts()
    assert volumes == [f"{mask.sum() * VOXEL_MM3 / 1000:,.2f} ml" for mask in (rim, core)]
    page.close()
