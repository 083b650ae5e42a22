"""Fixtures: a browser, a viewer, and pages of it that must be without errors; named in `pytest_plugins` of a test module."""

import shutil

import pytest

from bt_jax.serving import app
from tests.helpers.viewers import Brightness, serving, temporary_files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


SOFTWARE_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@pytest.fixture(scope="module")
def launch():
  """Starts a browser with further options."""
  if CHROMIUM is None:
    pytest.skip("no Chromium to open the page in")
  sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser")
  with sync_api.sync_playwright() as playwright:
    opened = []

    def start(*options):
      arguments = ["--no-sandbox", "--disable-background-networking", *options]
      opened.append(playwright.chromium.launch(executable_path=CHROMIUM, args=arguments))
      return opened[-1]

    yield start
    for browser in opened:
      browser.close()


@pytest.fixture(scope="module")
def browser(launch):
  """One without WebGL."""
  return launch("--disable-gpu", "--disable-3d-apis")


@pytest.fixture(scope="module")
def browser_with_webgl(launch):
  return launch(*SOFTWARE_WEBGL)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
  with temporary_files(tmp_path_factory.mktemp("temporary")) as folder:
    with serving(app.make_app(Brightness(), limit_mb=1)) as port:
      yield f"http://127.0.0.1:{port}"
    assert [*folder.iterdir()] == []


@pytest.fixture
def visit(browser, address):
  """Opens the page at a width; at the end there must be no error and no request but to the server."""
  opened, asked, errors = [], [], []

  def open_page(width=1280, address=address, browser=browser, **options):
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(address)
    page.locator("#model:not(:empty)").wait_for()  # a function that is polled is not allowed by the page's policy
    opened.append((page, address))
    return page

  yield open_page
  expected = ("status of 422", "GL Driver Message")  # the second: software draws slowly
  assert [error for error in errors if not any(words in error for words in expected)] == []
  known = tuple(address for _, address in opened)
  assert all(url.startswith(("data:", "blob:", *known)) for url in asked)
  for page, _ in opened:
    page.close()
