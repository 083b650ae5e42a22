"""The picture in the viewer, in a browser: planes, window and level, sequences, zoom, and fingers."""

import nibabel
import numpy as np
import pytest

from bt_jax.serving import app
from tests.helpers.pages import PROBABILITY, VOLUME, move, shown, sides, text, upload
from tests.helpers.viewers import Brightness, nifti_bytes, png_bytes, serving

pytest_plugins = ["tests.helpers.browsing"]
pytestmark = pytest.mark.slow

SPACING = {"slices": 5, "rows": 3, "columns": 2}  # mm, of `nifti_bytes`
# What each plane shows of a volume [slices, rows, columns], with the head at the top; its number of slices.
VIEWS = {
  "axial": (lambda volume, index: volume[index], 12, 2, 3),
  "coronal": (lambda volume, index: volume[::-1, index], 60, 2, 5),
  "sagittal": (lambda volume, index: volume[::-1, :, index], 64, 3, 5),
}


def colours(page, height, width):
  """The colour at the centre of each voxel, [height, width, 3], where the whole slice is shown."""
  values = page.evaluate(
    """([height, width]) => {
      const canvas = document.querySelector("#stage canvas");
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      const all = [];
      for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
        const at = Math.floor((y + .5) * canvas.height / height) * canvas.width + Math.floor((x + .5) * canvas.width / width);
        all.push(data[4 * at], data[4 * at + 1], data[4 * at + 2]);
      }
      return all;
    }""",
    [height, width],
  )
  return np.array(values).reshape(height, width, 3)


def greys(page, shape=(60, 64)):
  """The grey of each voxel of a slice, without its mask."""
  for layer in ("outline", "fill"):
    page.locator(f"#{layer}").uncheck()
  found = colours(page, *shape)
  assert (found == found[..., :1]).all()
  return found[..., 0]


def expected(values, low, high):
  return 255 * np.clip((values.astype(float) - low) / (high - low), 0, 1)


def assert_like(found, wanted):
  """The same greys, but for what smoothing does where neighbours differ much."""
  assert np.quantile(np.abs(found - wanted), 0.98) <= 3


@pytest.fixture
def page(visit):
  page = visit()
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))
  return page


@pytest.mark.parametrize("plane", VIEWS)
def test_each_plane_shows_its_slices_and_masks_at_true_aspect(page, plane):
  view, count, across_mm, down_mm = VIEWS[plane]
  page.locator(f"#{plane}").check()
  assert page.locator("#slice").get_attribute("max") == str(count) and page.locator("#strip span").count() == count
  mask = PROBABILITY >= 0.5
  areas = [int(view(mask, index).sum()) for index in range(count)]
  start = int(page.locator("#slice").input_value()) - 1
  assert areas[start] == max(areas)
  assert page.locator("#strip .marked").count() == np.count_nonzero(areas)
  page.locator("#opacity").fill("1")
  page.locator("#outline").uncheck()
  for step in (0, 2):
    for _ in range(step):
      page.get_by_label("Next slice").click()
    here = view(mask, start + step)
    assert text(page, "pixels") == f"{areas[start + step]} pixels" and f"lice {start + step + 1} of {count}" in text(
      page, "where"
    )
    assert text(page, "area") == f"{areas[start + step] * across_mm * down_mm:,} mm²"
    found = colours(page, *here.shape)
    np.testing.assert_array_equal(found[..., 0] - found[..., 2] > 100, here)
  box = page.locator("#stage canvas").bounding_box()
  assert box["width"] / box["height"] == pytest.approx(here.shape[1] * across_mm / (here.shape[0] * down_mm), rel=0.02)
  assert (
    text(page, "voxels") == f"{mask.sum():,}" and text(page, "marked") == f"in {mask.any((1, 2)).sum()} of 12 slices"
  )


def test_the_sides_of_each_plane_are_those_of_the_patient(page):
  page.locator("#coronal").check()
  assert sides(page) == {"left": "R", "right": "L", "top": "S", "bottom": "I"}
  page.locator("#sagittal").check()
  assert sides(page) == {"left": "A", "right": "P", "top": "S", "bottom": "I"}
  page.locator("#axial").check()
  assert sides(page) == {"left": "R", "right": "L", "top": "A", "bottom": "P"}


def test_without_spacing_there_is_the_axial_plane_alone(visit):
  page = visit()
  upload(page, *[(f"x_{number}.png", png_bytes(picture)) for number, picture in enumerate(VOLUME, start=1)])
  assert page.locator("#coronal").is_disabled() and "no spacing" in text(page, "flat")


def test_window_and_level(page):
  slice_ = VOLUME[shown(page) - 1]
  low, high = np.percentile(VOLUME, (1, 99.5))
  usual = greys(page)
  assert_like(usual, expected(slice_, low, high))
  page.locator("#preset").select_option("whole range")
  assert_like(greys(page), expected(slice_, VOLUME.min(), VOLUME.max()))
  span = int(np.ptp(VOLUME))
  for tool, button in (("window", "left"), ("move", "right")):
    page.locator("#preset").select_option("whole range")
    page.locator(f"#tool-{tool}").check()
    page.locator("#frame").scroll_into_view_if_needed()
    box = page.locator("#frame").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    page.mouse.down(button=button)
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.6, steps=5)
    page.mouse.up(button=button)
    middle = (int(VOLUME.min()) + int(VOLUME.max())) / 2 + 0.1 * span  # a quarter narrower, a tenth higher
    assert_like(greys(page), expected(slice_, middle - 0.375 * span, middle + 0.375 * span))
    assert page.locator("#preset").input_value() == "own"
  page.locator("#reset-window").click()
  np.testing.assert_array_equal(greys(page), usual)
  page.locator("#width").focus()
  page.keyboard.press("Home")  # as narrow as can be: black and white
  assert set(np.unique(greys(page))) <= {0, 255} or np.isin(greys(page), (0, 255)).mean() > 0.9


def test_sequences_are_switched_and_keep_their_windows(visit):
  page = visit()
  flair, post = VOLUME, (VOLUME[:, :, ::-1] // 2 + 3).astype(np.uint8)
  page.get_by_text("Name the sequences yourself").click()
  for role, volume in (("flair", flair), ("post", post)):
    page.locator(f"#{role}-file").set_input_files(
      {"name": f"{role}.nii", "mimeType": "", "buffer": nifti_bytes(volume)}
    )
  page.get_by_role("button", name="Predict these files").click()
  page.wait_for_selector("#result:not([hidden])")
  assert page.locator("#channel option").all_inner_texts() == ["FLAIR", "post"]  # FLAIR stands for pre
  number = shown(page)
  page.locator("#preset").select_option("whole range")
  page.locator("#channel").select_option("post")
  assert page.locator("#preset").input_value() == "usual" and shown(page) == number
  assert_like(greys(page), expected(post[number - 1], *np.percentile(post, (1, 99.5))))
  page.locator("#channel").select_option("FLAIR")
  assert page.locator("#preset").input_value() == "whole range"
  assert_like(greys(page), expected(flair[number - 1], flair.min(), flair.max()))


def test_one_sequence_needs_no_choice(page):
  assert not page.locator("#channel").is_visible()


VIRIDIS = np.array([[0x44, 0x01, 0x54], [0x3B, 0x52, 0x8B], [0x21, 0x91, 0x8C], [0x5E, 0xC9, 0x62], [0xFD, 0xE7, 0x25]])


def test_layers_show_probability_entropy_and_disagreement(visit):
  with serving(app.make_app(Brightness(passes=2))) as port:
    page = visit(address=f"http://127.0.0.1:{port}")
    upload(page, ("scan.nii", nifti_bytes(VOLUME)))
    p = PROBABILITY[shown(page) - 1]
    page.locator("#outline").uncheck()
    page.locator("#opacity").fill("1")
    entropy = -(p * np.log2(p, where=p > 0) + (1 - p) * np.log2(1 - p, where=p < 1))
    for layer, share, most in (
      ("probability", p, "1.0"),
      ("entropy", entropy, "1.0"),
      ("disagreement", p * (1 - p) / 0.5, "0.5"),
    ):
      page.locator("#layer").select_option(layer)
      found, seen = colours(page, *p.shape), (share > 0.15) & (p > 0.05)
      wanted = np.stack([np.interp(share * 4, range(5), part) for part in VIRIDIS.T], -1)
      # Probabilities come in steps of a hundredth.
      assert np.abs(found - wanted)[seen].max() <= 12 and np.abs(found - wanted)[seen].mean() <= 3 and seen.sum() > 500
      assert text(page, "most") == most and page.locator("#scale").is_visible()
    page.locator("#layer").select_option("")
    assert not page.locator("#scale").is_visible()
    page.close()


def test_a_single_pass_offers_no_disagreement_and_the_study_has_one_number(page):
  assert page.locator("#layer option:not([hidden])").count() == 3
  assert page.locator("#layer option[value=disagreement]").is_disabled()
  page.locator("#layer").focus()
  for _ in range(5):
    page.keyboard.press("ArrowDown")
  assert page.locator("#layer").input_value() == "entropy"  # the last that is there
  mask = PROBABILITY >= 0.5
  expected = 1 - 2 * PROBABILITY[mask].sum() / (PROBABILITY.sum() + mask.sum())
  assert text(page, "uncertainty") == f"{expected:.2f}"


def middle(page):
  box = page.locator("#frame").bounding_box()
  return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_zoom_by_buttons_keys_and_wheel_and_then_drag(page):
  whole = greys(page)
  page.get_by_label("Zoom in").click()
  page.get_by_label("Zoom in").click()
  assert text(page, "zoom") == "225 %" and not np.array_equal(greys(page), whole)
  page.get_by_label("Zoom out").click()
  page.get_by_label("Zoom out").click()
  np.testing.assert_array_equal(greys(page), whole)
  page.locator("#stage").focus()
  page.keyboard.press("+")
  assert text(page, "zoom") == "150 %"
  page.keyboard.press("0")
  assert text(page, "zoom") == "100 %"
  number = shown(page)
  page.mouse.move(*middle(page))
  page.keyboard.down("Shift")
  for _ in range(3):
    page.mouse.wheel(0, -100)
  page.keyboard.up("Shift")
  page.wait_for_selector("#zoom:text-is('195 %')")
  x, y = middle(page)
  page.mouse.down()
  page.mouse.move(x + 10_000, y + 10_000, steps=3)
  page.mouse.up()
  corner = greys(page, (30, 32))  # the upper left quarter fills the picture, about
  assert np.corrcoef(corner.ravel(), whole[:30, :32].ravel())[0, 1] > 0.99
  assert shown(page) == number  # a drag of what is enlarged turns no slice
  page.get_by_role("button", name="Whole picture").click()
  np.testing.assert_array_equal(greys(page), whole)


def test_the_wheel_with_control_stays_the_browser_s(page):
  number = shown(page)
  kept = page.evaluate(
    """() => [true, false].map((ctrlKey) => {
      const event = new WheelEvent("wheel", { deltaY: 100, ctrlKey, bubbles: true, cancelable: true });
      document.querySelector("#frame").dispatchEvent(event);
      return event.defaultPrevented;
    })"""
  )
  assert kept == [False, True] and shown(page) == number + 1 and text(page, "zoom") == "100 %"


def touch(page, *steps):
  """Fingers at these points, one step after another, [[(x, y), ...], ...]; then they are lifted."""
  session = page.context.new_cdp_session(page)
  send = lambda kind, points: session.send(
    "Input.dispatchTouchEvent",
    {"type": kind, "touchPoints": [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]},
  )
  for number, points in enumerate(steps):
    send("touchMove" if number else "touchStart", points)
  send("touchEnd", [])


def test_fingers_turn_slices_zoom_and_set_the_window(visit):
  page = visit(width=400, has_touch=True, is_mobile=True)
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))
  number = shown(page)
  page.locator("#frame").scroll_into_view_if_needed()
  x, y = middle(page)
  touch(page, *[[(x - 60 + 10 * step, y)] for step in range(11)])  # 100 pixels to the right
  assert number < shown(page) <= number + 4
  number = shown(page)
  touch(page, *[[(x - 30 - 6 * step, y), (x + 30 + 6 * step, y)] for step in range(6)])  # from 60 to 120 apart
  assert int(text(page, "zoom").split()[0]) == pytest.approx(200, abs=20) and shown(page) == number
  page.get_by_role("button", name="Whole picture").click()
  page.locator("#tool-window").check()
  page.locator("#frame").scroll_into_view_if_needed()
  x, y = middle(page)
  touch(page, *[[(x, y - 5 * step)] for step in range(8)])
  assert page.locator("#preset").input_value() == "own" and shown(page) == number
  assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_threshold_holds_in_all_planes(page):
  move(page, 0.4)
  page.locator("#sagittal").check()
  mask = np.float32(0.4) <= PROBABILITY
  index = int(page.locator("#slice").input_value()) - 1
  assert text(page, "voxels") == f"{mask.sum():,}" and text(page, "pixels") == f"{mask[:, :, index].sum()} pixels"
  image = nibabel.Nifti1Image.from_bytes(nifti_bytes(VOLUME))
  assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")  # as the views above expect it
