"""The report of a run: one self-contained HTML file, which loads nothing from anywhere."""

import pathlib
from typing import Any

from bt_jax import files
from bt_jax.errors import needs
from bt_jax.inference import overlays
from bt_jax.reporting.page import cascade_page, classification_page, phrases, sections, segmentation_page, viewer
from bt_jax.reporting.page.run_files import RunFiles, read
from bt_jax.scans.scan import NOTICE
from bt_jax.version import __version__

with needs("train", "the report of a run"):
  import jinja2
  from markupsafe import Markup

PAGES = {
  "segmentation": segmentation_page.PAGE,
  "classification": classification_page.PAGE,
  "cascade": cascade_page.PAGE,
}
NAME = "report.html"
_PAGE_BYTES = 9_500_000  # largest size of the file
_ENOUGH_BYTES = 5_000_000  # size of volumes above which only the best, median and worst patients are still added


def write_report(workdir: pathlib.Path, *, show_slices: bool) -> pathlib.Path:
  """Writes `report.html` in the folder of a finished run, from the tables and images there.

  Args:
    workdir: folder of a run, a cascade or a pooled cross-validation.
    show_slices: whether the report may show images of slices.

  Raises:
    UserError: the folder holds no finished run, or one without any slice.
  """
  record = read(workdir)
  results = PAGES[record.task].sections(record, show_slices)
  page = _page(record, results, show_slices, [])
  if show_slices and (shown := viewer.choose(record, room=_PAGE_BYTES - len(page), enough=_ENOUGH_BYTES)):
    page = _page(record, results, show_slices, shown)
  return files.write_bytes(workdir / NAME, page)


def _page(record: RunFiles, results: list[sections.Section], show_slices: bool, shown: list[viewer.Shown]) -> bytes:
  patient_of = {row["case"]: row["patient"] for row in record.rows}
  kind = PAGES[record.task]
  in_viewer = {patient_of[volume.case]: volume.case for volume in shown}
  beside = [kind.published(record, results)] if phrases.is_lgg(record.summary) else []
  parts = [sections.patients(record, in_viewer, kind.patients), *results, *beside, sections.about(record)]
  return render(
    title=phrases.model(record.summary),
    task=kind.about,
    split=phrases.split(record.summary),
    data=record.summary["data"],
    notices=phrases.notices(record.summary),
    sentences=phrases.sentences(record.summary, kind.result),
    headline=phrases.headline(kind.headline(record.summary["test"])),
    sections=[part for part in parts if part],
    volumes=shown,
    reference=record.info.reference_title,
    classes=list(zip(record.info.classes, overlays.colours(record.info), strict=True)),
    no_volumes=_no_volumes(show_slices, record),
    volumes_note=viewer.note(record, shown),
  )


def render(**content: Any) -> bytes:
  """A page of these contents, see `report.html.j2`; without `volumes` and `no_volumes` it has no viewer."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("bt_jax.reporting.page", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  inline = lambda name: Markup(environment.loader.get_source(environment, name)[0])  # our own files: no escaping
  page = environment.get_template("report.html.j2").render(
    style=inline("style.css"),
    script=inline("viewer.js"),
    version=__version__,
    research=NOTICE,
    **{"volumes": [], "no_volumes": "", **content},
  )
  return page.encode()


def _no_volumes(show_slices: bool, record: RunFiles) -> str:
  if not show_slices:
    return "Images of slices are switched off for this report, so there are none here."
  return PAGES[record.task].no_volumes
