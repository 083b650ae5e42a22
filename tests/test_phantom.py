import numpy as np
import pytest
from scipy import ndimage

from bt_jax.datasets.lgg_mri import kaggle_tree, phantom
from bt_jax.errors import UserError
from tests.helpers.refusals import refused


def test_tree_reads_like_the_published_one(phantom_root):
  tree = kaggle_tree.read_tree(phantom_root, expect_full=False)
  assert len(tree.cases) == 22
  assert {phantom.fold_of(case.patient) for case in tree.cases} == set(range(22))
  assert any(value == -1 for fields in tree.clinical.values() for value in fields.values())
  copies = {"pre": 0, "post": 0}
  for case in tree.cases:
    images, masks = kaggle_tree.read_case(case)
    assert 0 < masks.any((1, 2, 3)).sum() < len(masks)  # slices with a lesion and without
    copies["pre"] += np.array_equal(images[..., 0], images[..., 1])
    copies["post"] += np.array_equal(images[..., 2], images[..., 1])
  assert copies == {"pre": 1, "post": 2}  # every 17th and every 11th patient of 22


def test_lesions_are_bright_in_flair_and_of_many_sizes():
  areas = []
  for seed in range(8):
    images, masks = phantom.make_volume(np.random.default_rng(seed), 12)
    lesion = masks > 0
    brain = ndimage.binary_fill_holes((images[..., 1] > 60).any(0)) & ~lesion
    assert images[..., 1][lesion].mean() > 1.2 * images[..., 1][brain].mean()
    areas.append(lesion.sum((1, 2)).max())
  assert max(areas) > 8 * min(areas)


def test_same_seed_same_bytes_and_nothing_half_written(tmp_path):
  kwargs = {"patients": 2, "slices": 3, "seed": 5}
  trees = [phantom.write_tree(tmp_path / name, **kwargs) for name in "ab"]
  files = [{p.relative_to(tree): p.read_bytes() for p in tree.rglob("*") if p.is_file()} for tree in trees]
  assert files[0] == files[1] and len(files[0]) > 4
  # What a killed process left is not a tree, and is replaced.
  (tmp_path / "c" / "kaggle_3m.incomplete").mkdir(parents=True)
  (tmp_path / "c" / "kaggle_3m.incomplete" / "rest").touch()
  tree = phantom.write_tree(tmp_path / "c", **kwargs)
  assert {p.relative_to(tree) for p in tree.rglob("*") if p.is_file()} == files[0].keys()
  assert [p.name for p in (tmp_path / "c").iterdir()] == ["kaggle_3m"]


def test_real_patients_are_never_called_synthetic():
  with pytest.raises(UserError, match="TCGA_CS_4941 is not a synthetic patient"):
    phantom.fold_of("TCGA_CS_4941")


def test_a_tree_that_no_disk_holds_is_refused_before_it_is_begun(tmp_path):
  refused(
    lambda: phantom.write_tree(tmp_path / "tree", patients=10**9, slices=20),
    "No space left on device",
    "--config.data.root",
  )
  assert not list((tmp_path / "tree").iterdir())
