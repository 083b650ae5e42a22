import csv
import errno
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tifffile
from PIL import Image

from bt_jax.cli import with_flags
from bt_jax.datasets import store
from bt_jax.datasets.lgg_mri import kaggle_tree, lgg_source, phantom
from bt_jax.datasets.lgg_mri import lgg_mri_dataset_builder as lgg_mri
from bt_jax.datasets.lgg_mri.constants import CLINICAL_FIELDS, INFO
from bt_jax.errors import UserError
from tests.helpers.launching import ROOT

KAGGLE_ROOT = os.environ.get("BT_JAX_LGG_DIR")
needs_real_data = pytest.mark.skipif(KAGGLE_ROOT is None, reason="BT_JAX_LGG_DIR does not name the real data")


def test_examples_hold_what_the_files_hold(builder, phantom_root):
  tree = kaggle_tree.read_tree(phantom_root, expect_full=False)
  by_fold = {phantom.fold_of(case.patient): case for case in tree.cases}
  assert list(builder.info.splits) == [f"fold_{fold:02d}" for fold in range(22)]
  for fold in (0, 10, 16):  # 10 lacks post-contrast, 16 lacks pre-contrast
    case = by_fold[fold]
    images, masks = kaggle_tree.read_case(case)
    examples = list(builder.as_data_source(f"fold_{fold:02d}"))
    assert [example["slice"] for example in examples] == [files.number for files in case.slices]
    for example, image, mask in zip(examples, images, masks, strict=True):
      np.testing.assert_array_equal(example["image"], image)
      np.testing.assert_array_equal(example["mask"], mask)
      assert example["label"] == (mask.sum() > 0)
      assert (example["case"].decode(), example["patient"].decode()) == (case.name, case.patient)
      assert (example["site"].decode(), example["slices"]) == (case.site, len(images))
      assert (example["has_pre"], example["has_post"]) == (fold != 16, fold != 10)
      np.testing.assert_allclose(example["volume_mean"], images.reshape(-1, 3).mean(0), rtol=1e-5)
      np.testing.assert_allclose(example["volume_std"], images.reshape(-1, 3).std(0), rtol=1e-5)
      assert {name: example[name] for name in CLINICAL_FIELDS} == tree.clinical[case.patient]


def test_folds_are_five_patients_each_and_as_drawn():
  with open(pathlib.Path(lgg_mri.__file__).with_name("folds.csv"), encoding="utf-8") as file:
    folds = {row["patient"]: int(row["fold"]) for row in csv.DictReader(file)}
  patients = sorted(folds)
  random.Random(0).shuffle(patients)
  assert folds == {patient: place // 5 for place, patient in enumerate(patients)}
  assert sorted(folds.values()) == [fold for fold in range(22) for _ in range(5)]
  assert all(lgg_mri.published_fold(patient) == fold for patient, fold in folds.items())
  with pytest.raises(UserError, match="TCGA_XX_0000 is not one of the 110"):
    lgg_mri.published_fold("TCGA_XX_0000")


def test_index_and_slices_by_id(builder):
  index = lgg_source.read_index(builder)
  assert len(index) == builder.info.splits.total_num_examples
  places = [(entry.id.split("/")[0], int(entry.id.split("/")[1])) for entry in index]
  assert places == sorted(places)
  ids = [entry.id for entry in index][5:50:9][::-1]
  slices = store.Reader.of(builder, INFO, index).read(ids)
  assert slices.ids == ids
  nothing = store.Reader.of(builder, INFO, index).read([])  # the share of a host where there is no more
  assert len(nothing) == 0 and nothing.volume_mean.shape == (0, 3) and nothing.label.shape == (0,)
  for at, entry in enumerate(next(e for e in index if e.id == name) for name in ids):
    example = builder.as_data_source(f"fold_{entry.fold:02d}")[entry.position]
    np.testing.assert_array_equal(slices.image[at], example["image"])
    np.testing.assert_array_equal(slices.mask[at], example["mask"])
    np.testing.assert_array_equal(slices.volume_std[at], example["volume_std"])


def test_data_set_of_other_files_is_refused(builder, data_dir, tmp_path):
  phantom.write_tree(tmp_path, patients=22, slices=3, seed=2)
  with pytest.raises(UserError, match="was built from other files than"):
    lgg_source.open_or_build("phantom", root=str(tmp_path), data_dir=str(data_dir))


def test_broken_tree_leaves_nothing_behind(tmp_path):
  tree = phantom.write_tree(tmp_path / "tree", patients=3, slices=3)
  victim = sorted(tree.glob("*/*_2.tif"))[-1]
  victim.write_bytes(victim.read_bytes()[:1000])
  with pytest.raises(UserError, match=f"{victim.name} cannot be read"):
    lgg_source.open_or_build("phantom", root=str(tmp_path / "tree"), data_dir=str(tmp_path / "data"))
  assert [path.name for path in (tmp_path / "data" / "lgg_mri" / "phantom").iterdir()] == [".lock"]


def _build(root, data_dir):
  return lgg_source.open_or_build("phantom", root=root, data_dir=data_dir).info.splits.total_num_examples


@pytest.mark.slow
def test_two_processes_build_at_once(phantom_root, builder, tmp_path):
  with multiprocessing.get_context("spawn").Pool(2) as pool:
    counts = pool.starmap(_build, [(str(phantom_root), str(tmp_path))] * 2)
  assert counts == [builder.info.splits.total_num_examples] * 2


_BUILD = "import sys; from bt_jax.datasets.lgg_mri import lgg_source; lgg_source.open_or_build('phantom', root=sys.argv[1], data_dir=sys.argv[2])"


@pytest.mark.slow
def test_killed_build_starts_clean(phantom_root, builder, tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", _BUILD, phantom_root, tmp_path], cwd=ROOT, stderr=subprocess.DEVNULL
  )
  folder = tmp_path / "lgg_mri" / "phantom"
  while not list(folder.glob("incomplete.*/*")):  # in the middle of writing
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert list(folder.glob("incomplete.*")) and not (folder / "1.0.0").exists()
  assert _build(str(phantom_root), str(tmp_path)) == builder.info.splits.total_num_examples
  assert not list(folder.glob("incomplete.*"))


def _build_on_full_disk(root, data_dir, limit, queue):
  # A limit on the size of files stands in for a full disk: writing fails part way, with an OSError.
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
  try:
    lgg_source.open_or_build("phantom", root=root, data_dir=data_dir)
  except UserError as error:
    queue.put(with_flags(error))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["data set", "synthetic patients"])
def test_full_disk(phantom_root, builder, tmp_path, what):
  root, limit = (phantom_root, 200_000) if what == "data set" else (tmp_path / "tree", 100_000)
  context = multiprocessing.get_context("spawn")
  queue = context.Queue()
  process = context.Process(target=_build_on_full_disk, args=(str(root), str(tmp_path), limit, queue))
  process.start()
  message = queue.get(timeout=60)
  process.join()
  assert what in message and f"({os.strerror(errno.EFBIG)})" in message and "--config.data." in message
  assert "\n" not in message
  assert not list(tmp_path.rglob("*incomplete*"))
  if what == "data set":
    assert _build(str(root), str(tmp_path)) == builder.info.splits.total_num_examples


def test_what_libraries_find_in_a_file_is_reported_while_it_is_built(tmp_path, capfd):
  tree = phantom.write_tree(tmp_path / "tree", patients=3, slices=3)
  path = sorted(tree.glob("*/*_2.tif"))[0]
  twice = [(274, "H", 2, (1, 1), False)]  # an orientation of two values
  tifffile.imwrite(path, np.asarray(Image.open(path)), photometric="rgb", metadata=None, extratags=twice)
  capfd.readouterr()
  lgg_source.open_or_build("phantom", root=str(tmp_path / "tree"), data_dir=str(tmp_path / "data"))
  printed = "".join(capfd.readouterr())
  assert printed.count("warning:") == 1
  assert (
    f"warning: {path.parent.name} does not conform to its format (Metadata Warning, tag 274 had too many" in printed
  )


def test_a_volume_that_shows_nothing_is_not_built(tmp_path):
  tree = phantom.write_tree(tmp_path / "tree", patients=3, slices=3)
  folder = sorted(tree.glob("*/"))[1]
  for path in folder.glob("*.tif"):
    Image.new("L" if "mask" in path.name else "RGB", (256, 256)).save(path)
  with pytest.raises(UserError, match=f"the volume in .*{folder.name} is constant in FLAIR"):
    lgg_source.open_or_build("phantom", root=str(tmp_path / "tree"), data_dir=str(tmp_path / "data"))


@pytest.mark.slow
def test_usable_elsewhere_without_tensorflow(data_dir, builder, tmp_path):
  """Installed with pip, used from another folder, as the README shows."""
  target, source = tmp_path / "site", tmp_path / "source"
  shutil.copytree(ROOT / "bt_jax", source / "bt_jax")
  for name in ("pyproject.toml", "requirements-core.txt", "README.md"):
    shutil.copy(ROOT / name, source)
  subprocess.run(
    [
      sys.executable,
      "-m",
      "pip",
      "install",
      "--quiet",
      "--no-deps",
      "--no-build-isolation",
      "--target",
      target,
      source,
    ],
    check=True,
  )
  program = (
    "import sys, bt_jax.datasets, tensorflow_datasets as tfds;"
    f"source = tfds.data_source('lgg_mri/phantom', split='fold_00+fold_01', data_dir={str(data_dir)!r});"
    "print(len(source), source[0]['image'].shape, 'tensorflow' in sys.modules, bt_jax.__file__)"
  )
  environment = {**os.environ, "PYTHONPATH": str(target)}
  out = subprocess.run(
    [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
  )
  expected = sum(builder.info.splits[f"fold_{fold:02d}"].num_examples for fold in (0, 1))
  assert out.stdout.split("\n")[-2] == f"{expected} (256, 256, 3) False {target / 'bt_jax' / '__init__.py'}"


@pytest.mark.slow
def test_no_part_imports_tensorflow():
  modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / "bt_jax").rglob("*.py"))]
  program = f"import importlib, sys; [importlib.import_module(name) for name in {modules!r}]; assert 'tensorflow' not in sys.modules"
  subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
  assert len(modules) > 20


@pytest.mark.slow
@needs_real_data
def test_real_data_has_the_published_counts(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("real")
  built = lgg_source.open_or_build("full", root=KAGGLE_ROOT, data_dir=str(data_dir))
  program = (
    "import bt_jax.datasets, tensorflow_datasets as tfds;"
    "print(len(tfds.data_source('lgg_mri', split='fold_00+fold_01')), len(tfds.data_source('lgg_mri', split='all')))"
  )
  environment = {**os.environ, "TFDS_DATA_DIR": str(data_dir)}
  out = subprocess.run(
    [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
  )
  assert out.stdout.split()[-2:] == [
    str(sum(built.info.splits[f].num_examples for f in ("fold_00", "fold_01"))),
    "3929",
  ]
  examples = {}
  skip = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
  for fold in range(22):
    source = list(built.as_data_source(f"fold_{fold:02d}", decoders=skip))
    assert len({example["patient"] for example in source}) == 5
    examples |= {(example["case"], example["slice"]): example for example in source}
  assert len(examples) == built.info.splits.total_num_examples == 3929
  assert sum(example["label"] for example in examples.values()) == 1373
  patients = {}
  for example in examples.values():
    patients.setdefault(example["patient"], []).append(example)
  assert len(patients) == 110
  assert {len(members) for members in patients.values()} <= set(range(20, 89))
  assert all(len(members) == members[0]["slices"] for members in patients.values())
  assert all(any(example["label"] for example in members) for members in patients.values())
  assert sum(not members[0]["has_pre"] for members in patients.values()) == 6
  assert sum(not members[0]["has_post"] for members in patients.values()) == 10


@pytest.mark.slow
@needs_real_data
def test_real_data_reads_back_as_the_files_are(tmp_path_factory):
  tree = kaggle_tree.read_tree(KAGGLE_ROOT, expect_full=True)
  part = [case for case in tree.cases if lgg_mri.published_fold(case.patient) == 3]
  root = tmp_path_factory.mktemp("part")
  (root / "kaggle_3m").mkdir()
  for case in part:
    (root / "kaggle_3m" / case.name).symlink_to(tree.path / case.name)
  (root / "kaggle_3m" / "data.csv").symlink_to(tree.path / "data.csv")
  with pytest.raises(UserError, match="5 patients"):
    lgg_source.open_or_build("full", root=str(root), data_dir=str(root))
  built = lgg_source.open_or_build("partial", root=str(root), data_dir=str(root))
  assert list(built.info.splits) == ["fold_03"]
  index = lgg_source.read_index(built)
  slices = store.Reader.of(built, INFO, index).read([entry.id for entry in index])
  images, masks = (np.concatenate(parts) for parts in zip(*map(kaggle_tree.read_case, part), strict=True))
  np.testing.assert_array_equal(slices.image, images)
  np.testing.assert_array_equal(slices.mask, masks)
