import contextlib
import html as markup
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from bt_jax import files
from bt_jax.datasets.lgg_mri.constants import INFO as LGG
from bt_jax.datasets.registry import source_of
from bt_jax.errors import UserError
from bt_jax.evaluation import subgroups
from bt_jax.evaluation.record_tables import kind_of
from bt_jax.evaluation.summary_files import write_summary
from bt_jax.reporting.page import charts, html, phrases, sprites, statistics_tables
from bt_jax.schema import Slices
from configs.common import get_config
from tests.helpers import made_up_pages
from tests.helpers.made_up_runs import (
  CHECKPOINT,
  KINDS,
  classification,
  estimates,
  make_slices,
  pooled,
  segmentation,
  shifted,
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
  return {
    name: html.write_report(make(tmp_path_factory.mktemp("run")), show_slices=True) for name, make in KINDS.items()
  }


def text_of(path):
  """What a reader sees, without markup."""
  page = re.sub(r"<(script|style)\b.*?</\1>", " ", path.read_text(), flags=re.S)
  return " ".join(markup.unescape(re.sub(r"<[^>]*>", " ", page)).replace("\N{NO-BREAK SPACE}", " ").split())


def floats_of(group):
  members = group.values() if isinstance(group, dict) else group
  for member in members:
    if isinstance(member, dict | list):
      yield from floats_of(member)
    elif isinstance(member, float):
      yield member


def test_volumes_come_back_in_the_order_of_their_slices(tmp_path):
  slices = make_slices({"A": 10, "B": 2})
  mixed = Slices(
    *(
      getattr(slices, name)[::-1]
      for name in ("case", "patient", "number", "image", "mask", "volume_mean", "volume_std")
    )
  )
  written = sprites.save_volumes(tmp_path, mixed, shifted(slices)[::-1], reference=1)
  assert len(written) == 6 and all(path.is_file() for path in written)
  assert (
    Image.open(tmp_path / "A/flair.png").size == (8 * 256, 2 * 256) and Image.open(tmp_path / "A/truth.png").mode == "1"
  )
  volume = sprites.read_volume(tmp_path, "A", 10, LGG)
  np.testing.assert_array_equal(sprites.flair_slices(volume), slices.image[:10, ..., 1])
  np.testing.assert_array_equal(volume.truth, slices.mask[:10] == 1)
  np.testing.assert_array_equal(volume.prediction, shifted(slices)[:10])
  assert sprites.read_volume(tmp_path, "A", 17, LGG) is None and sprites.read_volume(tmp_path, "C", 10, LGG) is None
  sprites.save_volumes(tmp_path / "cls", slices, None, reference=1)
  assert sprites.read_volume(tmp_path / "cls", "B", 2, LGG).prediction is None


def test_volumes_are_read_however_many_pixels_they_have(tmp_path, monkeypatch):
  """As those of 300 slices of 512 x 512 pixels and three classes, which are more than Pillow opens."""
  slices = make_slices({"A": 10})
  sprites.save_volumes(tmp_path, slices, shifted(slices), reference=1)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 256 * 256)
  with pytest.raises(Image.DecompressionBombError):
    Image.open(tmp_path / "A/truth.png")
  volume = sprites.read_volume(tmp_path, "A", 10, LGG)
  np.testing.assert_array_equal(volume.truth, slices.mask == 1)
  np.testing.assert_array_equal(sprites.flair_slices(volume), slices.image[..., 1])


def test_a_volume_of_another_size_than_its_data_set_is_not_decoded(tmp_path):
  slices = make_slices({"A": 10})
  sprites.save_volumes(tmp_path, slices, shifted(slices), reference=1)
  for size, refused in ((512, False), (256, True)):
    cut = files.png(Image.new("1", (8 * size, 2 * size)))[:60]  # has a size, and pixels that cannot be decoded
    (tmp_path / "A/truth.png").write_bytes(cut)
    with pytest.raises(UserError, match="is damaged") if refused else contextlib.nullcontext():
      assert sprites.read_volume(tmp_path, "A", 10, LGG) is None


def test_outlines_run_along_the_edges_of_pixels_in_their_tile():
  masks = np.zeros((10, 256, 256), bool)
  masks[0, :3, :5] = True  # at the border
  masks[9, 10:13, 20:24] = True  # the second tile of the second line
  path = sprites.outlines(masks)
  first, second = (np.array(re.findall(r"([\d.]+) ([\d.]+)", part), float) for part in path.split("Z")[:2])
  assert path.count("Z") == 2
  assert [*first.min(0), *first.max(0)] == [0, 0, 5, 3]
  assert [*second.min(0), *second.max(0)] == [256 + 20, 256 + 10, 256 + 24, 256 + 13]


def test_numbers_in_words():
  assert (
    phrases.number(0.12345) == "0.123"
    and phrases.number(-0.5) == "\N{MINUS SIGN}0.500"
    and phrases.number(None) == phrases.MISSING
  )
  assert phrases.number(12345.6, "pixels") == "12,346" and phrases.number(0.0009, "p") == "<0.001"
  assert phrases.interval([0.1, 0.25]) == "0.100 to 0.250" and phrases.interval(None) == ""
  assert [phrases.duration(seconds) for seconds in (59.6, 61, 7265)] == ["1 min 0 s", "1 min 1 s", "2 h 1 min"]


def test_charts_say_their_numbers():
  history = [{"epoch": 1, "train_loss": 0.25, "validation_loss": 0.5}]
  index = charts.tversky_index(history, 0.5)  # 1 - 0.25 ** 2 and 1 - 0.5 ** 2
  assert "0.938" in index.alt and "0.750" in index.alt and index.paper == "Fig. 9"
  rows = [{"label": label, "probability": 0.92, "probability_calibrated": 0.52} for label in (1, 1, 1, 0)]
  alt = charts.slice_reliability(rows).alt
  assert "as predicted: 0.750 at 0.920" in alt and "after scaling: 0.750 at 0.520" in alt
  rows = [{"dice": value} for value in (0.9, 0.1, 0.2)]
  assert "lowest 0.100, median 0.200, mean 0.400, highest 0.900" in charts.by_patient(rows, "dice", "Dice").alt


def test_every_number_of_a_segmentation_is_there_with_its_interval(reports):
  text = text_of(reports["segmentation"])
  summary = json.loads((reports["segmentation"].parent / "summary.json").read_text())
  test = summary["test"]
  groups = [test[name] for name in ("pooled", "patient", "slice", "detection", "subgroups")] + [
    summary["baselines"][0]["test"]
  ]
  groups += [
    {name: part for name, part in group.items() if name != "temperature"} for group in test["calibration"].values()
  ]
  wanted = [f"{value:.3f}" for value in floats_of(groups)]
  assert len(wanted) > 90 and not [value for value in wanted if value not in text]
  for shown in (
    "\N{MINUS SIGN}1,234 \N{MINUS SIGN}2,345 to 67",
    "\N{MINUS SIGN}4,567",
    "2,099",
    "5.4",
    "1.75",
    "<0.001",
    "0.046",
  ):
    assert shown in text, shown
  dice = test["pooled"]["dice"]
  assert f"Dice coefficient is {dice:.3f} (95 % interval {dice - 0.0611:.3f} to {dice + 0.0622:.3f})" in text
  assert "2,000 resamples of 7 patients (7 patients only)." in text
  for fact in (
    "a1b2c3",
    "d4e5f6",
    "c0ffee",
    "jax 0.9.1",
    "1 x cpu",
    "train 3,543",
    "2 of 60 planned",
    "classes 4",
  ):
    assert fact in text, fact
  assert "research only, never clinical use" in text and "This split leaks" not in text and "Synthetic" not in text


def test_the_papers_tables_stand_beside_ours(reports):
  text = text_of(reports["segmentation"])
  for printed in (
    "its ResUNet: SI .95, IoU .91, DSC .95",
    "DSC .93 BRATS 2015",
    "mean .836, median .873",
    "371",
    "measured elsewhere",
  ):
    assert printed in text, printed
  assert re.search(r"Otsu's threshold [\d. to]+ DSC .89 BRATS 2015", text)
  assert "[42] K-means – – – SI .91" in text and "“–”: not run here." in text  # noqa: RUF001
  assert "Fig. 9 focal Tversky accuracy and loss Training" in text
  assert "Fig. 7 predicted tumour not here" in text_of(reports["classification"])


def test_what_has_no_value_has_a_reason_and_never_a_nan(reports):
  for path in reports.values():
    assert not re.search(r"\b(NaN|nan|None|null|undefined|inf)\b", text_of(path))
    assert not re.search(r"\bnan\b", re.sub(r"base64,[\w+/=]+", "", path.read_text()), re.I)
  text = text_of(reports["segmentation"])
  assert (
    "no test: one cluster only" in text and "no value: none in patients.csv" in text and "Without an interval" in text
  )
  assert "HD95, mean –" in text  # noqa: RUF001
  assert "95 % limits of agreement, upper 2,099" in text


def test_a_page_does_not_depend_on_clock_and_folder(tmp_path):
  folder, other = segmentation(tmp_path / "one"), tmp_path / "other"
  shutil.copytree(folder, other)
  summary = json.loads((folder / "summary.json").read_text())
  write_summary(other, summary | {"finished": "2031-01-01T00:00:00+00:00", "seconds": 1.0})
  one, two = (html.write_report(path, show_slices=True).read_bytes() for path in (folder, other))
  assert one == two


def test_notices_say_what_leaks_and_what_is_synthetic(tmp_path):
  text = text_of(
    html.write_report(
      classification(tmp_path, leaky=True, synthetic=True, split="random_slices_leaky"), show_slices=True
    )
  )
  assert (
    "This split leaks." in text and "slices of one patient in training and test" in text and "Synthetic data." in text
  )
  assert text.index("This split leaks.") < text.index("classified correctly")  # before any number


@pytest.mark.parametrize(
  ("data", "called"),
  [("lgg", "the radiologists' masks"), ("phantom", "synthetic slices were drawn with"), (None, "the true masks")],
)
def test_masks_are_called_what_their_data_set_calls_them(tmp_path, data, called):
  config = get_config()
  config.data.name = data or "lgg"
  info = {"info": source_of(config).info.to_json()} if data else {}  # early summaries have none
  page = markup.unescape(html.write_report(segmentation(tmp_path, **info), show_slices=True).read_text())
  assert f"From {called}" in page or f"From the masks that the {called}" in page
  assert re.search(rf"slices above, (the masks that the )?{called} below", page)
  assert ("radiologist" in page) == (data == "lgg")


def test_groups_of_patients_have_headings_in_words():
  names = subgroups.groupings_of(LGG)
  tables = statistics_tables.subgroups(
    {name: [{"group": "a", "patients": 9, "slices": 99, **estimates("dice_mean")}] for name in names}, LGG
  )
  assert tables.keys() == names.keys() and tables["site"].caption == "By hospital"
  headings = [heading for table in tables.values() for heading in (table.caption, *table.columns)]
  assert not [heading for heading in headings if re.search("_|Cluster|[a-z][A-Z]", heading.replace("OncoSign", ""))]


def test_classification_and_pooled_runs_show_their_own(reports):
  text = text_of(reports["classification"])
  test = json.loads((reports["classification"].parent / "summary.json").read_text())["test"]
  assert (
    f"{test['accuracy']:.1%}".replace("%", " %") in text
    and "0.501 to 0.902" in text
    and f"{test['roc_auc']:.3f}" in text
  )
  assert "Overlap" not in text and "predicted no tumour, probability of tumour" in reports["classification"].read_text()
  text = text_of(reports["pooled"])
  assert "22 patient folds" in text and "0.654" in text and "0.35" in text and "3 of 3 volumes" in text


def test_a_cross_validation_shows_the_curves_of_its_folds_and_links_to_them(tmp_path):
  folder = pooled(tmp_path)
  page = html.write_report(folder, show_slices=True).read_text()
  assert "the folders of 1 of 1 runs are not here" in page and "Loss of every fold" not in page
  shutil.copy(segmentation(tmp_path / "other") / "metrics.csv", folder / "fold_07/metrics.csv")
  (folder / "fold_07/report.html").touch()
  page = html.write_report(folder, show_slices=True).read_text()
  assert 'href="fold_07/report.html">7</a>' in page and "are not here" not in page
  assert "Loss of every fold over epochs; after the last, fold 7: training 0.250, validation 0.500." in page
  assert "fold 7: validation 0.200." in page


ANOTHER = {"step": 3101, "arrays_sha256": "0a1b2c"}


@pytest.mark.parametrize("checkpoint", [ANOTHER, None])
@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_of_the_same_name_with_another_run_is_not_shown_as_the_fold(beside, checkpoint, tmp_path):
  folder = pooled(tmp_path / "pooled")
  shutil.rmtree(folder / "fold_07")
  other = segmentation((tmp_path if beside else folder) / "fold_07", checkpoint=checkpoint)
  (other / "report.html").touch()
  page = html.write_report(folder, show_slices=True).read_text()
  assert "the folders of 1 of 1 runs are not here" in page and "Loss of every fold" not in page
  assert "fold_07/report.html" not in page and 'class="outline prediction"' not in page


@pytest.mark.parametrize("checkpoint", [CHECKPOINT, ANOTHER])
def test_a_fold_is_read_where_it_was_although_another_run_of_its_name_is_here(checkpoint, tmp_path):
  folder = pooled(tmp_path / "pooled")
  shutil.rmtree(folder / "fold_07")
  segmentation(folder / "fold_07", checkpoint=ANOTHER)
  there = segmentation(tmp_path / "undisclosed/deeper/fold_07", checkpoint=checkpoint)
  summary = json.loads((folder / "summary.json").read_text())
  summary["folds"][0]["run"] = str(there)
  write_summary(folder, summary)
  page = html.write_report(folder, show_slices=True).read_text()
  assert ("Loss of every fold" in page) == ('class="outline prediction"' in page) == (checkpoint == CHECKPOINT)
  assert "undisclosed" not in page and "report.html" not in page


@pytest.fixture
def cascade(tmp_path):
  return made_up_pages.cascade(tmp_path)


def test_a_cascade_shows_what_its_gate_does(cascade):
  folder, test = cascade
  page = html.write_report(folder, show_slices=True)
  text = text_of(page)
  assert "CNN and U-Net" in text and "gate at 0.123, chosen" in text and "<pre" not in page.read_text()
  assert "9 have false positives without it and 4 with it; of 21 slices with a tumour it stops 2." in text
  assert "0.905 (0.711 to 0.987) of the slices with a tumour are let through" in page.read_text()
  assert "with false positives, with the gate 4 40 0.100 0.021 to 0.199" in text
  assert "/secret" not in page.read_text()
  assert "Patients all of whose tumour slices are stopped: patient P." in text
  numbers = [f"{value:.3f}" for value in floats_of([test["segmentation"], test["classification"]])]
  assert len(numbers) > 30 and not [value for value in numbers if value not in text]
  tiles = re.findall(r'<dt>(.*?)</dt><dd><b>(.*?)</b> <span class="interval">(.*?)</span>', page.read_text())
  assert ("Tumour slices let through", "0.905", "0.711 to 0.987") in tiles and len(tiles) == 4


def test_a_cascade_does_not_show_another_run_in_the_folder_of_its_segmenter(cascade):
  folder, _ = cascade
  segmenter = folder.parent / "segmenter"
  write_summary(segmenter, json.loads((segmenter / "summary.json").read_text()) | {"checkpoint": ANOTHER})
  page = html.write_report(folder, show_slices=True).read_text()
  assert "segmenter/report.html" not in page and 'class="outline prediction"' not in page
  assert "the folder of its segmenter" in page and ">segmenter<" in page


def test_a_cascade_shows_the_volumes_of_its_segmenter_and_links_to_what_is_beside_it(cascade):
  folder, _ = cascade
  page = html.write_report(folder, show_slices=True).read_text()
  assert 'href="../segmenter/report.html">segmenter</a>' in page and "/moved" not in page
  assert 'class="outline prediction"' in page and "3 of 3 volumes" in page
  assert "the gate stops it, so that the mask is empty, at the classifier" in page
  # The first slice of a case is healthy, the second has its tumour found shifted by one pixel of 8: both as the gate leaves them.
  rows = files.read_csv(folder / "slices.csv", kind_of)
  members = [row for row in rows if row["case"] == "case C"]
  tp, missed = (sum(row["tp"] for row in members if row["gate_passes"] == passes) for passes in (1, 0))
  fp = sum(row["fp"] for row in members if row["gate_passes"])
  fn = sum(row["fn"] for row in members) + missed
  assert re.search(rf"patient case C.*?{2 * tp / (2 * tp + fp + fn):.3f}", text_of(folder / "report.html"))
  shutil.rmtree(folder.parent / "segmenter")
  page = html.write_report(folder, show_slices=True).read_text()
  assert "is not here or holds none" in page and '<a href="../' not in page


def test_without_slices_there_is_no_picture_of_one(tmp_path):
  page = html.write_report(segmentation(tmp_path), show_slices=False).read_text()
  assert "data:image/png" not in page and "Images of slices are switched off" in page and "data:image/svg" in page
  assert not re.search(r"<path|<figure class=.volume", page)


def test_a_large_run_stays_below_ten_megabytes_and_shows_best_and_worst(tmp_path):
  slices = make_slices({f"case {at}": 20 for at in range(7)}, noise=True)  # noise does not compress: 12 MB in all
  folder = segmentation(tmp_path, counts={f"case {at}": 20 for at in range(7)})
  sprites.save_volumes(folder / "volumes", slices, shifted(slices), reference=1)
  assert sum(path.stat().st_size for path in folder.rglob("flair.png")) * 4 / 3 > 10_000_000
  page = html.write_report(folder, show_slices=True)
  assert page.stat().st_size < 10_000_000
  shown = re.findall(r"<option[^>]*>([^:]*): (\w+)", page.read_text())
  assert shown[:3] == [("case 0", "best"), ("case 3", "median"), ("case 6", "worst")]


def test_an_unfinished_run_is_told_in_one_line(tmp_path):
  folder = segmentation(tmp_path)
  (folder / "slices.csv").write_text((folder / "slices.csv").read_text().splitlines()[0] + "\n")
  with pytest.raises(UserError, match="slices.csv is missing or has no rows"):
    html.write_report(folder, show_slices=True)
  (folder / "summary.json").unlink()
  with pytest.raises(UserError, match="holds no finished run, as it has no summary.json"):
    html.write_report(folder, show_slices=True)
  assert not (folder / "report.html").exists()


def test_a_run_with_less_in_its_folder_still_has_a_page(tmp_path):
  folder = segmentation(tmp_path)
  for name in ("metrics.csv", "config.json"):
    (folder / name).unlink()
  for name in ("volumes", "figures"):
    shutil.rmtree(folder / name)
  text = text_of(html.write_report(folder, show_slices=True))
  assert "holds no volumes" in text and "Training" not in text and "Bland-Altman" in text


def test_a_damaged_configuration_or_history_is_told(tmp_path):
  folder = segmentation(tmp_path)
  (folder / "metrics.csv").write_text("epoch,train_loss\n1,0.5\n")
  with pytest.raises(UserError, match="metrics.csv is damaged or of another version .it lacks validation_loss"):
    html.write_report(folder, show_slices=True)
  (folder / "config.json").write_text("null")
  with pytest.raises(UserError, match="config.json is damaged or of another version .it is None"):
    html.write_report(folder, show_slices=True)
