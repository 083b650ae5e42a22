"""Fixtures: a browser, a viewer, and pages of it that must be without errors; named in `pytest_plugins` of a test module."""

import shutil

import pytest

from bt_jax.serving import app
from tests.helpers.viewers import Brightness, serving, temporary_files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
  if CHROMIUM is None:
    pytest.skip("no Chromium to open the page in")
  sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser")
  with sync_api.sync_playwright() as playwright:
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
    yield browser
    browser.close()


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

  def open_page(width=1280, address=address, **options):
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
  assert [error for error in errors if "status of 422" not in error] == []
  known = tuple(address for _, address in opened)
  assert all(url.startswith(("data:", "blob:", *known)) for url in asked)
  for page, _ in opened:
    page.close()
