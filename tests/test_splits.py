import dataclasses
import json
import random

import pytest

from bt_jax.datasets import splits
from bt_jax.datasets.store import SliceId
from bt_jax.errors import UserError

# 22 folds of five patients with 36 slices each but for the last, 3,929 slices in all as in the real data.
INDEX = [
  SliceId(
    fold,
    "s",
    number,
    f"patient_{5 * fold + member}",
    f"case_{5 * fold + member}",
    f"case_{5 * fold + member}/{number}",
    0,
  )
  for fold in range(22)
  for member in range(5)
  for number in range(1, 37 if (fold, member) != (21, 4) else 6)
]


def patients(index, ids):
  of = {entry.id: entry.patient for entry in index}
  return {of[name] for name in ids}


def subsets(split):
  return [getattr(split, subset) for subset in splits.SUBSETS]


@pytest.mark.parametrize("fold", [0, 7, 21])
def test_fold(fold):
  split = splits.make_split(INDEX, kind="fold", fold=fold, seed=0, count=22)
  assert split.name == f"patient_fold_{fold:02d}" and not split.leaky
  assert patients(INDEX, split.test) == {f"patient_{5 * fold + member}" for member in range(5)}
  assert patients(INDEX, split.validation) == {f"patient_{5 * ((fold + 1) % 22) + member}" for member in range(5)}
  assert sorted(sum(subsets(split), ())) == sorted(entry.id for entry in INDEX)  # each slice in one subset
  assert not patients(INDEX, split.train) & patients(INDEX, split.test + split.validation)


def test_folds_test_every_slice_once():
  tested = [
    name for fold in range(22) for name in splits.make_split(INDEX, kind="fold", fold=fold, seed=0, count=22).test
  ]
  assert sorted(tested) == sorted(entry.id for entry in INDEX)


def test_random_split_is_the_papers_590_slices_and_says_that_it_leaks():
  assert len(INDEX) == 3929 - 0
  split = splits.make_split(INDEX, kind="random", fold=0, seed=0, count=22)
  assert [len(subset) for subset in subsets(split)] == [3929 - 2 * 590, 590, 590]
  assert split.name == "random_slices_leaky" and split.leaky
  assert sorted(sum(subsets(split), ())) == sorted(entry.id for entry in INDEX)
  assert patients(INDEX, split.train) & patients(INDEX, split.test)
  assert split == splits.make_split(INDEX, kind="random", fold=0, seed=0, count=22)
  assert split.hash != splits.make_split(INDEX, kind="random", fold=0, seed=1, count=22).hash


def test_buda10_is_the_draw_of_the_public_implementation():
  split = splits.make_split(INDEX, kind="buda10", fold=0, seed=5, count=22)
  cases = sorted({entry.case for entry in INDEX})
  random.seed(42)  # as published: the module's own generator
  theirs = random.sample(cases, 10)
  assert {name.split("/")[0] for name in split.test} == set(theirs)
  assert len(patients(INDEX, split.validation)) == 5 and len(patients(INDEX, split.train)) == 95
  assert split.name == "patients_buda10" and not split.leaky
  assert sorted(sum(subsets(split), ())) == sorted(entry.id for entry in INDEX)
  assert split == splits.make_split(INDEX, kind="buda10", fold=3, seed=0, count=22)
  with pytest.raises(UserError, match="takes 10 cases to test and 5 to validate, but this data set has 15 in all"):
    splits.make_split([entry for entry in INDEX if entry.fold < 3], kind="buda10", fold=0, seed=0, count=22)


def test_all_trains_on_every_slice():
  split = splits.make_split(INDEX, kind="all", fold=0, seed=0, count=22)
  assert split.train == tuple(entry.id for entry in INDEX)
  assert (split.validation, split.test, split.leaky) == ((), (), False)
  with pytest.raises(UserError, match="train set of all_patients is empty"):
    splits.make_split([], kind="all", fold=0, seed=0, count=22)


def test_hash_and_json():
  split = splits.make_split(INDEX, kind="fold", fold=3, seed=0, count=22)
  written = json.loads(json.dumps(split.to_json("made up")))
  assert written["data"] == "made up" and written["hash"] == split.hash and len(written["hash"]) == 64
  assert [tuple(written[subset]) for subset in splits.SUBSETS] == subsets(split)
  moved = dataclasses.replace(split, train=split.train[1:], validation=(*split.validation, split.train[0]))
  assert moved.hash != split.hash


def test_shared_patient_is_refused():
  wrong = [*INDEX, SliceId(3, "s", 0, "patient_0", "case_0", "case_0/99", 0)]
  with pytest.raises(UserError, match="patient_0 is in the train and the test set of patient_fold_03: that leaks"):
    splits.make_split(wrong, kind="fold", fold=3, seed=0, count=22)


@pytest.mark.parametrize(
  ("kind", "fold", "message"),
  [
    ("fold", 22, "split.fold is 22, expected 0 to 21"),
    ("fold", -1, "split.fold is -1"),
    ("slices", 0, "split.kind is 'slices'"),
  ],
)
def test_no_such_split(kind, fold, message):
  with pytest.raises(UserError, match=message):
    splits.make_split(INDEX, kind=kind, fold=fold, seed=0, count=22)


def test_empty_part_of_a_partial_data_set():
  with pytest.raises(UserError, match=r"validation set of patient_fold_04 is empty.*\[0, 1, 2, 3, 4\]"):
    splits.make_split([entry for entry in INDEX if entry.fold < 5], kind="fold", fold=4, seed=0, count=22)


@pytest.mark.parametrize(
  ("folds", "validation"), [("0-4", {5, 6}), ("20-21", {0, 1}), ("0,20-21", {1, 2}), ("3,5", {6, 7})]
)
def test_a_group_tests_its_folds_and_the_two_after_them_validate(folds, validation):
  split = splits.make_split(INDEX, kind="group", fold=0, folds=folds, seed=0, count=22)
  test = set(splits.parse_folds("split.folds", folds, 22))
  fold_of = {entry.id: entry.fold for entry in INDEX}
  for subset, expected in (("test", test), ("validation", validation), ("train", set(range(22)) - test - validation)):
    assert {fold_of[name] for name in getattr(split, subset)} == expected
  assert sorted((*split.train, *split.validation, *split.test)) == sorted(fold_of)
  assert not split.leaky


def test_groups_of_folds_cover_each_once_and_read_back():
  for size in (1, 2, 4):
    groups = splits.groups_of(range(22), size, 22)
    assert [fold for group in groups for fold in group] == list(range(22)) and len(groups) == -(-22 // size)
    for group in groups:
      assert splits.tested_folds(splits.testing({"kind": "fold", "fold": 9, "folds": ""}, group)) == group
  assert splits.groups_of((0, 7), 2, 22) == [(0, 1), (6, 7)]


@pytest.mark.parametrize(
  ("folds", "message"), [("0-19", "none is left to train on"), ("5-22", "expected all, or some")]
)
def test_a_group_that_leaves_nothing_is_refused(folds, message):
  with pytest.raises(UserError, match=message):
    splits.make_split(INDEX, kind="group", fold=0, folds=folds, seed=0, count=22)
