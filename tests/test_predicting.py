"""`--mode=predict` as a user meets it: studies in, folders of masks, pictures and numbers out."""

import concurrent.futures
import csv
import json
import os
import shutil
import signal
import tempfile
import threading
import time

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from bt_jax.errors import UserError
from bt_jax.inference import claims
from bt_jax.modes import predict as mode
from bt_jax.scans.scan import NOTICE
from tests.helpers.launching import launch, start, table_of
from tests.helpers.refusals import refused

NOTHING = dict.fromkeys(("input", "pre", "flair", "post", "shard", "classifier", "threshold"))
AFFINE = np.array([[-2.0, 0, 0, 10], [0, -3, 0, -20], [0, 0, 5, 30], [0, 0, 0, 1]])


def predict(*checkpoints, output, **options):
  values = {"probabilities": False, "tta": False, "sensitivity": 0.98} | NOTHING | options
  mode.predict(checkpoint=[str(one) for one in checkpoints], output=output, **values)


def head(seed, shape=(4, 60, 70)):
  """A disc of noise with something bright in it."""
  rows, columns = np.mgrid[: shape[1], : shape[2]]
  disc = ((rows / shape[1] - 0.5) ** 2 + (columns / shape[2] - 0.5) ** 2) < 0.2
  noise = np.random.default_rng(seed).integers(60, 120, shape)
  spot = 100 * (((rows / shape[1] - 0.4) ** 2 + (columns / shape[2] - 0.6) ** 2) < 0.01)
  return (disc * (noise + spot)).astype(np.uint8)


def write_studies(root, names=("a", "b", "c/d")):
  """Studies of four TIFFs each."""
  for seed, name in enumerate(names):
    (root / name).mkdir(parents=True)
    for at, picture in enumerate(head(seed), start=1):
      tifffile.imwrite(root / name / f"slice_{at}.tif", picture, photometric="minisblack")
  return root


def contents(folder):
  """The bytes of every file in it, hidden ones too."""
  return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sizes(folder):
  """The bytes of every file of a prediction but `prediction.json`."""
  return {name: len(content) for name, content in contents(folder).items() if name != "prediction.json"}


def test_it_marks_what_the_evaluation_of_the_run_marked(run, phantom_root, tmp_path):
  """Of the run's test patients, the published files in, the same pixels out."""
  folder, _ = run
  rows = table_of(folder / "slices.csv")
  (tmp_path / "in").mkdir()
  for case in {row["case"] for row in rows}:
    shutil.copytree(phantom_root / "kaggle_3m" / case, tmp_path / "in" / case)
  predict(folder, output=tmp_path / "out", input=tmp_path / "in")
  assert any(int(row["tp"]) + int(row["fp"]) for row in rows)
  for row in rows:
    study = tmp_path / "out" / row["case"]
    (slice_numbers,) = (
      one
      for one in json.loads((study / "prediction.json").read_text())["slices"]
      if one["name"].endswith(f"_{row['slice']}")
    )
    mask = tifffile.imread(study / "masks" / f"{row['case']}_{row['slice']}_mask.tif")
    assert mask.shape == (256, 256) and {*np.unique(mask)} <= {0, 255}
    assert (mask == 255).sum() == slice_numbers["area_pixels"] == int(row["tp"]) + int(row["fp"])
    truth = np.asarray(Image.open(phantom_root / "kaggle_3m" / row["case"] / f"{row['case']}_{row['slice']}_mask.tif"))
    assert ((mask == 255) & (truth > 0)).sum() == int(row["tp"])


def test_a_volume_in_its_own_geometry_with_all_outputs(run, classifier, tmp_path, capsys):
  image = nibabel.Nifti1Image(head(0).transpose(2, 1, 0).astype(np.float32) * 30 - 5, AFFINE)
  nibabel.save(image, tmp_path / "case.nii.gz")
  predict(
    run[0], output=tmp_path / "out", input=tmp_path / "case.nii.gz", classifier=str(classifier[0]), tta=True, probabilities=True, threshold=0.3
  )  # fmt: skip
  described = json.loads((tmp_path / "out" / "prediction.json").read_text())
  assert {*described} >= {
    "tumor",
    "probability",
    "voxels",
    "volume_mm3",
    "warnings",
    "slices",
    "largest_diameter_mm",
    "slice_range",
    "looks_wrong",
  }
  mask, probability = (nibabel.load(tmp_path / "out" / f"{name}.nii.gz") for name in ("mask", "probability"))
  np.testing.assert_array_equal(mask.affine, image.affine)
  np.testing.assert_array_equal(probability.affine, image.affine)
  np.testing.assert_array_equal(np.asarray(mask.dataobj) == 1, probability.get_fdata() >= np.float32(0.3))
  assert described["voxels"] == np.asarray(mask.dataobj).sum() and described["volume_mm3"] == pytest.approx(
    described["voxels"] * 30
  )
  assert (
    described["research_use"] == NOTICE
    and described["model"]["tta"]
    and described["model"]["classifiers"][0]["model"] == "cnn"
  )
  assert described["files"] == sizes(tmp_path / "out") and len(described["slices"]) == 4
  assert any("FLAIR stands in" in warning for warning in described["warnings"])
  said = capsys.readouterr().out
  assert NOTICE in said and "warning: no pre and no post" in said and str(tmp_path / "out" / "overlays") in said


def test_a_bad_study_is_reported_and_the_others_are_done_once(run, tmp_path, capsys):
  root, output = write_studies(tmp_path / "in"), tmp_path / "out"
  broken = root / "b" / "slice_2.tif"
  whole = broken.read_bytes()
  broken.write_bytes(whole[:50])
  before = contents(root)
  with pytest.raises(UserError, match=r"1 of 3 studies could not be predicted.*studies\.csv"):
    predict(run[0], output=output, input=root)
  assert contents(root) == before and not (output / "b").exists()
  assert "slice_2.tif" in capsys.readouterr().err
  rows = {row["study"]: row for row in table_of(output / "studies.csv")}
  assert {name: row["status"] for name, row in rows.items()} == {"a": "predicted", "b": "failed", "c/d": "predicted"}
  assert "slice_2.tif" in rows["b"]["error"] and not rows["a"]["error"]
  done = {name: (output / name / "prediction.json").stat().st_mtime_ns for name in ("a", "c/d")}
  broken.write_bytes(whole)
  predict(run[0], output=output, input=root)
  rows = {row["study"]: row["status"] for row in table_of(output / "studies.csv")}
  assert rows == {"a": "was there", "b": "predicted", "c/d": "was there"}
  assert done == {name: (output / name / "prediction.json").stat().st_mtime_ns for name in done}
  # What is there is of these files, networks and options, or it is refused.
  tifffile.imwrite(root / "a" / "slice_1.tif", head(7)[0], photometric="minisblack")
  with pytest.raises(UserError, match="1 of 3"):
    predict(run[0], output=output, input=root)
  assert "prediction of other files" in capsys.readouterr().err
  for options in ({"probabilities": True}, {"threshold": 0.123}, {"tta": True}):
    with pytest.raises(UserError, match="holds a prediction that differs in (probabilities|threshold|tta|its version)"):
      predict(run[0], output=output, input=root, **options)


def test_a_claim_is_had_however_often_others_remove_the_folder(tmp_path):
  """Two threads claim and let go of studies of their own, as fast as they can: none of them finds the other's in its way."""

  def work(name):
    for _ in range(300):
      release = claims.claim(tmp_path, name)
      assert release is not None
      release()

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    assert list(pool.map(work, ("a", "b"))) == [None, None]
  assert not any(tmp_path.iterdir())
  (tmp_path / ".claims").write_bytes(b"")
  with pytest.raises(OSError):
    claims.claim(tmp_path, "a")


def test_a_full_temporary_folder_ends_the_run_and_is_no_bad_study(run, tmp_path, monkeypatch):
  (tmp_path / "in").mkdir()
  for name in ("a", "b"):
    shutil.make_archive(tmp_path / "in" / name, "zip", write_studies(tmp_path / name, ["s"]))
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))  # as good as full
  with pytest.raises(UserError, match=r"temporary folder .*nowhere.*TMPDIR"):
    predict(run[0], output=tmp_path / "out", input=tmp_path / "in")
  assert not (tmp_path / "out" / "studies.csv").exists()
  monkeypatch.undo()
  predict(run[0], output=tmp_path / "out", input=tmp_path / "in")
  assert [row["status"] for row in table_of(tmp_path / "out" / "studies.csv")] == ["predicted"] * 2


def test_names_in_the_table_are_no_formulas(run, tmp_path):
  (tmp_path / "in").mkdir()
  for name in ("=1+1", "+1", "-1", "@a", "'=b", "c"):
    (tmp_path / "in" / f"{name}.nii.gz").touch()
  with pytest.raises(UserError, match="6 of 6 studies"):
    predict(run[0], output=tmp_path / "out", input=tmp_path / "in")
  with open(tmp_path / "out" / "studies.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert {row["study"] for row in rows} == {"'=1+1", "'+1", "'-1", "'@a", "'=b", "c"}
  assert not any(value.startswith(("=", "+", "-", "@")) for row in rows for value in row.values())


def test_other_roles_are_another_prediction(run, tmp_path):
  for name in ("flair", "other"):
    nibabel.save(nibabel.Nifti1Image(head(ord(name[0])), AFFINE), tmp_path / f"{name}.nii")
  flair, other = str(tmp_path / "flair.nii"), str(tmp_path / "other.nii")
  predict(run[0], output=tmp_path / "out", flair=flair, pre=other)
  before = contents(tmp_path / "out")
  predict(run[0], output=tmp_path / "out", flair=flair, pre=other)
  with pytest.raises(UserError, match="differs in given"):
    predict(run[0], output=tmp_path / "out", flair=flair, post=other)
  assert contents(tmp_path / "out") == before


def test_a_study_that_another_process_has_comes_last(run, tmp_path):
  root = write_studies(tmp_path / "in")
  release = claims.claim(root, "a")
  assert claims.claim(root, "a") is None  # as another process would find it
  threading.Timer(2, release).start()
  # The output lies in the input, and is not taken for scans.
  predict(run[0], output=root, input=root)
  done = {name: (root / name / "prediction.json").stat().st_mtime_ns for name in ("a", "b", "c/d")}
  assert max(done, key=done.get) == "a"
  rows = [(row["study"], row["status"]) for row in table_of(root / "studies.csv")]
  assert sorted(rows) == [("a", "predicted"), ("b", "predicted"), ("c/d", "predicted")]
  assert not (root / ".claims").exists()


@pytest.mark.slow
def test_the_whole_list_and_a_share_of_it_at_once(run, tmp_path):
  """Every study is there whole, predicted by one of the two processes."""
  names = [f"s{number:02d}" for number in range(12)]
  root, output = write_studies(tmp_path / "in", names), tmp_path / "out"
  flags = ["--mode=predict", f"--checkpoint={run[0]}", f"--input={root}", f"--output={output}"]
  both = [start([*flags, *share]) for share in ([], ["--shard=1/2"])]
  for process in both:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
  for name in names:
    described = json.loads((output / name / "prediction.json").read_text())
    assert described["files"] == sizes(output / name) and described["files"]
  tables = [table_of(output / name) for name in ("studies.csv", "studies_1_of_2.csv")]
  assert [sorted(row["study"] for row in table) for table in tables] == [names, names[::2]]
  predicted = [row["study"] for table in tables for row in table if row["status"] == "predicted"]
  assert len(predicted) == len({*predicted}) == len(names)


@pytest.mark.parametrize("damage", ["deleted", "emptied", "longer", "no folder"])
def test_a_file_that_is_gone_or_of_another_size_is_made_again(run, tmp_path, damage):
  root, output = write_studies(tmp_path / "in", ("a", "b")), tmp_path / "out"
  predict(run[0], output=output, input=root)
  before = contents(output)
  mask = output / "a" / "masks" / "slice_2_mask.tif"
  if damage == "no folder":
    shutil.rmtree(mask.parent)
  elif damage == "deleted":
    mask.unlink()
  else:
    mask.write_bytes(b"" if damage == "emptied" else mask.read_bytes() + b"x")
  (output / "a" / "notes.txt").write_text("mine")
  predict(run[0], output=output, input=root)
  rows = {row["study"]: row["status"] for row in table_of(output / "studies.csv")}
  assert rows == {"a": "predicted", "b": "was there"}
  after = contents(output)
  assert after.pop("a/notes.txt") == b"mine" and after.pop("studies.csv") and before.pop("studies.csv")
  assert after == before


def test_a_name_that_is_no_text_and_a_table_that_is_empty(run, tmp_path):
  root = write_studies(tmp_path / "in", ("a", os.fsdecode(b"st\xff")))
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "studies.csv").touch()
  with pytest.raises(UserError, match="not a table of predictions"):
    predict(run[0], output=tmp_path / "out", input=root)
  (tmp_path / "out" / "studies.csv").unlink()
  predict(run[0], output=tmp_path / "out", input=root)
  assert len(table_of(tmp_path / "out" / "studies.csv")) == 2
  (tmp_path / "out" / "a" / "prediction.json").write_text("[]")
  refused(
    lambda: predict(run[0], output=tmp_path / "out", input=root),
    "prediction.json is damaged",
    "remove its folder, or choose another output (--output)",
  )


def test_shards_are_all_of_the_studies(run, tmp_path, capsys):
  root = write_studies(tmp_path / "in", ("a", "b", "c"))
  for part in ("1/2", "2/2"):
    predict(run[0], output=tmp_path / "parts", input=root, shard=part)
  predict(run[0], output=tmp_path / "whole", input=root)
  tables = [table_of(tmp_path / "parts" / f"studies_{part}_of_2.csv") for part in (1, 2)]
  assert [sorted(row["study"] for row in rows) for rows in tables] == [["a", "c"], ["b"]]
  parts, whole = (contents(tmp_path / name) for name in ("parts", "whole"))
  assert {name: data for name, data in parts.items() if "/" in name} == {
    name: data for name, data in whole.items() if "/" in name
  }
  predict(run[0], output=tmp_path / "none", input=root / "a", shard="2/2")
  assert "no study" in capsys.readouterr().out and not (tmp_path / "none").exists()


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(run, tmp_path):
  names = [f"s{number:02d}" for number in range(60)]
  root, output = write_studies(tmp_path / "in", names), tmp_path / "out"
  flags = ["--mode=predict", f"--checkpoint={run[0]}", f"--input={root}", f"--output={output}"]
  process = start(flags)
  while not any(output.glob("*/prediction.json")):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  finished = {path.parent.name: contents(path.parent) for path in output.glob("*/prediction.json")}
  assert 0 < len(finished) < len(names)
  status, out, err = launch(flags)
  assert status == 0, err
  assert f"{len(finished)} there already" in out
  for name in names:
    described = json.loads((output / name / "prediction.json").read_text())
    assert described["files"] == sizes(output / name)
  assert {name: contents(output / name) for name in finished} == finished


@pytest.mark.slow
def test_ctrl_c_leaves_whole_studies_alone(run, tmp_path):
  root, output = write_studies(tmp_path / "in", [f"s{number:02d}" for number in range(60)]), tmp_path / "out"
  process = start(["--mode=predict", f"--checkpoint={run[0]}", f"--input={root}", f"--output={output}"])
  while not any(output.glob("*/prediction.json")):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.send_signal(signal.SIGINT)
  _, err = process.communicate()
  assert process.returncode == 130 and "Traceback" not in err
  assert not [path for path in output.glob("*/*") if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["mask.nii.gz", "prediction.json", "overlays"])
def test_files_of_others_are_not_written_over(run, tmp_path, name):
  nibabel.save(nibabel.Nifti1Image(head(0), AFFINE), tmp_path / "case.nii.gz")
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / name).write_text("{}")
  (tmp_path / "out" / "notes.txt").write_text("mine")
  refused(lambda: predict(run[0], output=tmp_path / "out", input=tmp_path / "case.nii.gz"), " another ", "(--output)")
  assert contents(tmp_path / "out") == {name: b"{}", "notes.txt": b"mine"}
  (tmp_path / "out" / name).unlink()
  predict(run[0], output=tmp_path / "out", input=tmp_path / "case.nii.gz")
  assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_what_is_wrong_is_one_line_and_leaves_nothing(run, classifier, tmp_path):
  nibabel.save(nibabel.Nifti1Image(head(0), AFFINE), tmp_path / "case.nii.gz")
  nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), AFFINE), tmp_path / "black.nii.gz")
  (tmp_path / "empty").mkdir()
  (tmp_path / "a_file").write_text("x")
  for message, checkpoints, options in (
    ("is of classification, expected segmentation", [classifier[0]], {}),
    ("there is no .*nowhere", [tmp_path / "nowhere"], {}),
    ("holds no checkpoint", [tmp_path / "empty"], {}),
    ("is given twice", [run[0], run[0]], {}),
    ("expected classification", [run[0]], {"classifier": str(run[0])}),
    ("is not there", [run[0]], {"input": tmp_path / "nowhere"}),
    ("holds no scan", [run[0]], {"input": tmp_path / "empty"}),
    ("no FLAIR", [run[0]], {"input": None, "pre": str(tmp_path / "case.nii.gz")}),
    ("is constant", [run[0]], {"input": tmp_path / "black.nii.gz"}),
    ("expected i/n", [run[0]], {"shard": "3/2"}),
    ("expected more than 0", [run[0]], {"threshold": 7.0}),
    ("cannot write", [run[0]], {"output": tmp_path / "a_file" / "out"}),
    ("is a file, expected a folder", [run[0]], {"output": tmp_path / "a_file"}),
  ):
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message) as error:
      predict(*checkpoints, **{"output": tmp_path / "out", "input": tmp_path / "case.nii.gz"} | options)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before and not (tmp_path / "out").exists()
  (tmp_path / "t2").mkdir()
  (tmp_path / "case.nii.gz").rename(tmp_path / "t2" / "case_t2.nii.gz")
  refused(lambda: predict(run[0], output=tmp_path / "out", input=tmp_path / "t2"), "has no FLAIR, but", "(--flair)")


def test_flags_that_are_wrong_are_one_line(run):
  for flags, message in (
    (["--mode=predict"], "--mode=predict needs --checkpoint"),
    (["--mode=predict", f"--checkpoint={run[0]}"], "--mode=predict needs --output"),
    (["--mode=predict", f"--checkpoint={run[0]}", "--output=x", "--config=configs/seg.py"], "takes no --config"),
    (["--mode=serve", f"--checkpoint={run[0]}", "--input=x"], "--mode=serve takes no --input"),
  ):
    status, _, err = launch(flags)
    assert status == 1 and err.strip().count("\n") == 0 and message in err, err
