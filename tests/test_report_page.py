"""The report in a browser: clicks, keys, both widths, print."""

import itertools
import re

import pytest

from bt_jax.reporting.page import phrases
from tests.helpers.made_up_pages import PAGES
from tests.helpers.made_up_runs import EVIL, KINDS

pytest_plugins = ["tests.helpers.browsing"]
pytestmark = pytest.mark.slow

LARGEST = r"--column:\s*0;\s*--line:\s*1;"  # the ninth slice of case A


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
  return {name: write(tmp_path_factory.mktemp("run")) for name, write in PAGES.items()}


@pytest.fixture
def visit(browser):
  """Opens a page at a width; at the end there must be no error and no request but for the page."""
  opened, asked, errors = [], [], []

  def open_page(path, width=1280, **options):
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    opened.append((page, path))
    return page

  yield open_page
  assert errors == []
  assert {url for url in asked if not url.startswith("data:")} == {path.as_uri() for _, path in opened}
  for page, _ in opened:
    page.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_fits_a_telephone_and_describes_its_pictures(visit, reports, kind):
  page = visit(reports[kind], width=400)
  assert page.evaluate("document.documentElement.scrollWidth") <= 400
  pictures = page.locator("img").all()
  assert len(pictures) >= 3 and all(len(picture.get_attribute("alt")) > 20 for picture in pictures)
  page.evaluate("document.querySelectorAll('img').forEach((picture) => { picture.loading = 'eager'; })")
  page.wait_for_function("[...document.images].every((picture) => picture.complete && picture.naturalWidth > 0)")
  headings = page.locator("h1, h2, h3").evaluate_all("(all) => all.map((one) => Number(one.tagName[1]))")
  assert headings[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(headings))
  targets = page.locator("nav a").evaluate_all("(all) => all.map((one) => one.hash.slice(1))")
  assert len(targets) > 5 and all(page.locator(f"[id='{target}']").count() == 1 for target in targets)


def test_a_name_is_never_markup(visit, reports):
  page = visit(reports["segmentation"])
  assert page.locator("main b").filter(has_text="x").count() == 0
  assert page.locator("option").all_inner_texts()[1].startswith(f"{EVIL}: ")
  assert page.get_by_role("button", name=f"patient {EVIL}").count() == 1


def column(page, head):
  table = page.locator("#patients table")
  at = [text.strip() for text in table.locator("thead th").all_inner_texts()].index(head)
  return [row.locator("th, td").nth(at).inner_text().strip() for row in table.locator("tbody tr").all()]


def test_a_click_sorts_patients_by_number_and_leaves_the_missing_last(visit, reports):
  page = visit(reports["segmentation"])
  head = lambda name: page.locator("#patients thead th").filter(has_text=name)
  assert column(page, "HD95") == [phrases.MISSING, "1.2", "2.2"] and column(page, "slices") == ["9", "3", "4"]
  head("HD95").get_by_role("button").focus()
  page.keyboard.press("Enter")
  assert column(page, "HD95") == ["1.2", "2.2", phrases.MISSING]
  page.keyboard.press("Enter")
  assert column(page, "HD95") == ["2.2", "1.2", phrases.MISSING]
  assert head("HD95").get_attribute("aria-sort") == "descending"
  head("true px").get_by_role("button").click()  # 1 to 8 times 8, squared and added up: 13056, of 2 320, of 3 896
  assert column(page, "true px") == ["320", "896", "13,056"]
  assert [head(name).get_attribute("aria-sort") for name in ("true px", "HD95")] == ["ascending", None]


def test_the_viewer_pages_and_switches_layers_by_click_key_and_wheel(visit, reports):
  page = visit(reports["segmentation"])
  chosen = page.locator(".volume.chosen")
  where = lambda: chosen.locator(".where").inner_text()
  assert chosen.count() == 1 and re.search(LARGEST, chosen.get_attribute("style"))
  # 64 pixels wide and moved by one: 63 of 64 columns overlap.
  assert where() == "Slice 9 (9 of 9): tumour; Dice 0.984; highest probability 0.900"
  page.keyboard.press("ArrowLeft")
  assert where().startswith("Slice 8 (8 of 9)") and page.locator("#slice").input_value() == "8"
  page.get_by_label("Previous slice").click()
  assert where().startswith("Slice 7 (7 of 9)")
  page.locator("#slice").focus()
  page.keyboard.press("Home")
  assert where() == "Slice 1 (1 of 9): no tumour; nothing segmented, correct; highest probability 0.000"
  page.keyboard.press("ArrowRight")  # of the range itself: one step, not two
  assert where().startswith("Slice 2 (2 of 9)")
  chosen.locator(".stage").hover()
  page.mouse.wheel(0, 100)
  page.wait_for_function("document.querySelector('.chosen .where').textContent.startsWith('Slice 3')")
  assert "--column: 2" in chosen.get_attribute("style") and page.locator("#strip .current").count() == 1
  for layer in ("truth", "prediction"):
    outline = chosen.locator(f".outline.{layer}")
    assert outline.is_visible()
    page.keyboard.press(layer[0])
    assert not outline.is_visible() and not page.locator(f"#show-{layer}").is_checked()
    page.locator(f"#show-{layer}").click()
    assert outline.is_visible()
  page.locator("#choice").select_option(index=1)
  assert "median" in chosen.inner_text() and chosen.count() == 1
  page.get_by_role("button", name="patient case A").click()
  assert chosen.get_attribute("data-case") == "case A" and where().startswith("Slice 3")


def test_every_picture_is_there_at_once_and_a_section_is_where_its_link_leads(visit, reports):
  page = visit(reports["segmentation"])
  assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
  page.emulate_media(reduced_motion="reduce")
  page.get_by_role("link", name="Training").click()
  page.wait_for_function("Math.abs(document.getElementById('training').getBoundingClientRect().top) < 40")


PAPER = 688  # pixels across A4 within its margins of 14 mm


@pytest.mark.parametrize("kind", PAGES)
def test_nothing_is_cut_at_the_edge_of_the_paper(visit, reports, kind):
  page = visit(reports[kind], width=PAPER)
  page.evaluate("dispatchEvent(new Event('beforeprint'))")
  page.emulate_media(media="print")
  beyond = page.locator("main *").evaluate_all(
    """(all) => all.filter((one) => one.getClientRects().length && !one.closest(".stage, svg"))
      .filter((one) => one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 100))"""
  )
  assert beyond == []
  assert page.locator("details:not([open])").count() == 0


@pytest.mark.parametrize("kind", PAGES)
def test_no_printed_page_ends_with_a_heading(visit, reports, kind):
  pdfium = pytest.importorskip("pypdfium2", reason="reads what was printed")
  page = visit(reports[kind])
  words = lambda text: "".join(text.split())
  openings = page.locator("h1, h2, h3, .opening > p:not(:last-child), #viewer > p").evaluate_all(
    "(all) => all.map((one) => one.textContent)"
  )
  openings = [words(text) for text in openings]
  sheets = [sheet.get_textpage().get_text_range() for sheet in pdfium.PdfDocument(page.pdf(format="A4"))]
  assert len(sheets) > 1 and any(words(page.locator("h2").last.text_content()) in words(text) for text in sheets)
  # A heading has its lines to itself; the last row of a table may end with the same word.
  last = [(words(text), words(text.splitlines()[-1])) for text in sheets]
  assert not [
    text[-80:] for text, line in last for opening in openings if text.endswith(opening[-40:]) and opening.endswith(line)
  ]


def test_print_shows_every_volume_at_its_largest_tumour(visit, reports):
  page = visit(reports["segmentation"])
  page.keyboard.press("ArrowLeft")
  page.keyboard.press("t")
  page.emulate_media(media="print")
  assert all(figure.is_visible() for figure in page.locator(".volume").all())
  assert not page.locator(".controls").first.is_visible() and not page.locator("nav").is_visible()
  first = page.locator(".volume").first
  assert (
    first.locator(".where-print").inner_text().startswith("Slice 9") and first.locator(".outline.truth").is_visible()
  )
  stage, sprite = (first.locator(name).bounding_box() for name in (".stage", ".stage img"))
  assert sprite["x"] == pytest.approx(stage["x"], abs=1)
  assert sprite["y"] == pytest.approx(stage["y"] - stage["height"], abs=1)  # the ninth slice begins the second line


def test_without_scripts_the_page_can_be_read(browser, reports):
  context = browser.new_context(java_script_enabled=False)
  page = context.new_page()
  page.goto(reports["segmentation"].as_uri())
  assert page.locator(".volume").count() == 3 and all(figure.is_visible() for figure in page.locator(".volume").all())
  assert "needs JavaScript" in page.locator("noscript").inner_text() and not page.locator("#choice").is_visible()
  context.close()
