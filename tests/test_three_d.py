"""Three planes and 3-D in the viewer, in a browser with and without WebGL."""

import io
import re

import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.helpers.pages import VOLUME, shown, text, upload
from tests.helpers.viewers import AFFINE, nifti_bytes, png_bytes

sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser")
pytest_plugins = ["tests.helpers.browsing"]
pytestmark = pytest.mark.slow

OBLIQUE = np.array([[-1.6, 1.8, 0, 10], [-1.2, -2.4, 0, -20], [0, 0, 5, 30], [0, 0, 0, 1]])  # turned by 37 degrees


def nifti_with(affine):
  return nibabel.Nifti1Image(VOLUME.transpose(2, 1, 0), affine).to_bytes()


def open_view(page):
  page.get_by_role("button", name="Three planes and 3-D").click()
  sync_api.expect(page.get_by_role("button", name="Back to the slices")).to_be_enabled(timeout=60_000)


def picture(page):
  """The pixels of NiiVue's canvas, [height, width, 3]."""
  page.wait_for_timeout(200)  # for the frame to be on the screen
  return np.asarray(Image.open(io.BytesIO(page.locator("#three-d-canvas").screenshot())).convert("RGB")).astype(int)


def tinted(pixels):
  return pixels[..., 0] - pixels[..., 2] > 60


@pytest.fixture
def page(visit, browser_with_webgl):
  return visit(browser=browser_with_webgl)


@pytest.mark.parametrize("width", [1280, 400])
def test_the_view_is_drawn_and_fetched_only_when_it_is_asked_for(visit, browser_with_webgl, width):
  page, asked = visit(width=width, browser=browser_with_webgl), []
  page.on("request", lambda request: asked.append(request.url))
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))
  page.locator("#coronal").check()
  assert not [url for url in asked if "niivue" in url]
  open_view(page)
  assert len([url for url in asked if "niivue" in url]) == 1
  page.locator("#opacity").fill("1")
  pixels = picture(page)
  height, across = pixels.shape[0] // 2, pixels.shape[1] // 2
  for tile in (pixels[:height, :across], pixels[:height, across:], pixels[height:, :across], pixels[height:, across:]):
    assert len(np.unique(tile.reshape(-1, 3), axis=0)) > 20 and tinted(tile).sum() > 50
  assert page.evaluate("document.documentElement.scrollWidth") <= width and not page.locator("#stage").is_visible()
  page.locator("#fill").uncheck()
  assert tinted(picture(page)).sum() == 0


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE, AFFINE * [-1, 1, 1, 1]], ids=["plain", "oblique", "mirrored"])
def test_the_patient_s_right_is_at_the_left_and_the_front_at_the_top(page, affine):
  upload(page, ("scan.nii", nifti_with(affine)))
  page.locator("#opacity").fill("1")
  open_view(page)
  pixels = picture(page)
  axial = pixels[pixels.shape[0] // 2 :, : pixels.shape[1] // 2]
  marked, head = np.argwhere(tinted(axial)).mean(0), np.argwhere(axial.min(-1) > 30).mean(0)
  mirrored = affine[0, 0] > 0
  # What is bright is in columns that run to the left of the patient, to the right where they are mirrored, and in front.
  assert (marked[1] < head[1]) == mirrored and marked[0] < head[0]


def test_slices_and_cross_show_one_point(page):
  upload(page, ("scan.nii", nifti_with(OBLIQUE)))
  page.locator("#stage").press("Home")
  for _ in range(3):
    page.locator("#stage").press("ArrowRight")
  open_view(page)
  assert "axial slice 4 of 12" in text(page, "three-d-where")
  box = page.locator("#three-d-canvas").bounding_box()
  page.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.7)
  slices = {name: int(number) for name, number in re.findall(r"(\w+) slice (\d+) of", text(page, "three-d-where"))}
  assert slices["axial"] == 4 and slices["sagittal"] > 32
  page.get_by_role("button", name="Back to the slices").click()
  for name, number in slices.items():
    page.locator(f"#{name}").check()
    assert text(page, "where").lower().split("slice ")[1].startswith(f"{number} of")


def test_a_correction_is_shown_and_stays_the_reader_s(page):
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))
  number = shown(page)
  page.locator("#opacity").fill("1")
  open_view(page)
  before = tinted(picture(page)).sum()
  page.get_by_role("button", name="Back to the slices").click()
  page.locator("#tool-brush").check()
  page.locator("#brush-size").fill("30")
  page.locator("#frame").click(position={"x": 150, "y": 350})
  corrected, voxels = text(page, "corrected"), text(page, "voxels")
  assert f"in slice {number}" in corrected
  open_view(page)
  after = tinted(picture(page)).sum()
  assert after > before + 100
  page.keyboard.press("Control+z")
  assert tinted(picture(page)).sum() < after
  page.keyboard.press("Control+y")
  page.get_by_role("button", name="Back to the slices").click()
  assert text(page, "corrected") == corrected and text(page, "voxels") == voxels and shown(page) == number


def test_another_scan_is_shown_in_slices_and_then_its_own_volume(page):
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))
  open_view(page)
  page.locator("#files").set_input_files(
    {"name": "other.nii", "mimeType": "", "buffer": nifti_bytes(VOLUME[:, ::-1, :50])}
  )
  sync_api.expect(page.locator("#study")).to_have_text("other")
  assert page.locator("#stage").is_visible() and not page.locator("#three-d-canvas").is_visible()
  open_view(page)
  assert "of 50." in text(page, "three-d-where") and len(np.unique(picture(page))) > 20


def test_without_webgl_one_line_says_so_and_the_slices_stay(visit):
  page, asked = visit(), []
  page.on("request", lambda request: asked.append(request.url))
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))
  page.get_by_role("button", name="Three planes and 3-D").click()
  sync_api.expect(page.locator("#three-d-note")).to_have_text(re.compile("no WebGL 2"))
  assert page.locator("#stage").is_visible() and not page.locator("#three-d-view").is_visible()
  page.locator("#stage").press("Home")
  assert shown(page) == 1 and not [url for url in asked if "niivue" in url]


def test_images_without_spacing_have_slices_alone(visit):
  page = visit()
  upload(page, ("slice.png", png_bytes(VOLUME[4])))
  assert page.get_by_role("button", name="Three planes and 3-D").is_disabled() and "Only the axial" in text(
    page, "flat"
  )


def made_by_the_page(page, values, affine):
  """The NIfTI file that the page makes of a volume."""
  content = page.evaluate(
    """async ([values, shape, affine, float]) => {
      const { niftiOf } = await import("/nifti.js");
      return [...new Uint8Array(niftiOf(float ? Float32Array.from(values) : Uint8Array.from(values), shape, affine))];
    }""",
    [values.ravel().tolist(), list(values.shape), affine.tolist(), values.dtype == np.float32],
  )
  return nibabel.Nifti1Image.from_bytes(bytes(content))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_another_reader_finds_every_voxel_of_the_page_s_nifti_where_the_files_put_it(visit, dtype):
  values = np.random.default_rng(4).integers(0, 256, (3, 4, 5)).astype(dtype)
  image = made_by_the_page(visit(), values, OBLIQUE)
  np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)
  np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), values)
  assert image.get_data_dtype() == dtype and image.header.get_xyzt_units()[0] == "mm"
