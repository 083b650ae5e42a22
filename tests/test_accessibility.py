"""axe-core looks at the viewer and at the page of each kind of run, at two widths."""

import pytest

from tests.helpers.made_up_pages import PAGES
from tests.helpers.pages import VOLUME, upload
from tests.helpers.viewers import nifti_bytes

sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="carries axe-core")
pytest_plugins = ["tests.helpers.browsing"]
pytestmark = pytest.mark.slow

WIDTHS = (1280, 400)


def findings(page):
  """What axe-core objects to, a line for each element."""
  return [
    f"{found['impact']} {found['id']}: {found['help']}: {node['html'][:120]} {node['failureSummary'][-200:]}"
    for found in axe.Axe().run(page).response["violations"]
    for node in found["nodes"]
  ]


def failed(page):
  page.locator("#files").set_input_files({"name": "a.nii", "mimeType": "", "buffer": nifti_bytes(VOLUME)[:400]})
  page.get_by_role("alert").wait_for()


def shown(page):
  upload(page, ("scan.nii", nifti_bytes(VOLUME)))


def naming(page):
  page.get_by_text("Name the sequences yourself").click()


def correcting(page):
  shown(page)
  page.locator("#tool-brush").check()
  page.locator("#frame").click()
  page.locator("#corrected:not(:empty)").wait_for()


def in_another_plane(page):
  shown(page)
  page.locator("#layer").select_option("entropy")
  page.locator("#sagittal").check()


STATES = {
  "before a scan": lambda page: None,
  "sequences by name": naming,
  "a failed upload": failed,
  "a result": shown,
  "a correction": correcting,
  "another plane and layer": in_another_plane,
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("state", STATES)
def test_the_viewer(visit, state, width, scheme):
  page = visit(width=width, color_scheme=scheme)
  STATES[state](page)
  assert findings(page) == []
  page.close(run_before_unload=False)


def test_the_viewer_in_3d(visit, browser_with_webgl):
  page = visit(browser=browser_with_webgl)
  shown(page)
  page.locator("#three-d").click()
  sync_api.expect(page.get_by_role("button", name="Back to the slices")).to_be_enabled(timeout=60_000)
  assert findings(page) == []


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
  return {name: write(tmp_path_factory.mktemp("run")) for name, write in PAGES.items()}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", PAGES)
def test_a_report(browser, reports, kind, width):
  page = browser.new_page(viewport={"width": width, "height": 900})
  page.goto(reports[kind].as_uri())
  assert findings(page) == []
  page.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
  assert findings(page) == []
  page.close()


def test_axe_finds_what_it_should(browser):
  page = browser.new_page()
  page.set_content("<main><h1>x</h1><img src='data:,'><p style='color: #ccc'>faint</p><button></button></main>")
  found = " ".join(findings(page))
  assert all(name in found for name in ("image-alt", "color-contrast", "button-name"))
  page.close()
