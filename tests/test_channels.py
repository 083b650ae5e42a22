"""Channels of neighbouring slices, and FLAIR in the place of sequences that are lost."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bt_jax
from bt_jax.datasets import channels, store
from bt_jax.datasets.channels import Channel
from bt_jax.datasets.lgg_mri import lgg_source
from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import UserError
from bt_jax.pipeline import feed, missing_sequences, preprocess
from tests.helpers.launching import launch, table_of, unbroken

PRE, FLAIR, POST = range(3)


def test_names_by_hand():
  assert channels.parse_channels("pre, flair,post", INFO) == (Channel(PRE), Channel(FLAIR), Channel(POST))
  parsed = channels.parse_channels("flair+2,pre-1", INFO)
  assert parsed == (Channel(FLAIR, 2), Channel(PRE, -1)) and channels.reach(parsed) == 2
  # FLAIR is kept at every offset, as it stands in for the others there.
  assert channels.context_of(parsed, INFO) == (Channel(PRE, -1), Channel(FLAIR, -1), Channel(FLAIR, 2))
  assert channels.context_of(channels.own_channels(INFO), INFO) == ()


@pytest.mark.parametrize("text", ["flair-0", "flair+", "t2", "", "flair,,post", "flair+1.5", "FLAIR"])
def test_other_names_are_refused(text):
  with pytest.raises(UserError, match="data.channels names"):
    channels.parse_channels(text, INFO)


def test_neighbours_by_hand():
  volume = np.arange(4.0)[:, None, None, None] * 10 + np.arange(3)
  context = (Channel(FLAIR, -2), Channel(POST, 1))
  for kind in (np.asarray, jnp.asarray):
    seen = np.asarray(channels.with_neighbours(kind(volume), context))[:, 0, 0]
    np.testing.assert_array_equal(seen[:, :3], volume[:, 0, 0])
    np.testing.assert_array_equal(seen[:, 3], [1, 1, 1, 11])
    np.testing.assert_array_equal(seen[:, 4], [12, 22, 32, 32])


def test_slices_bring_their_neighbours_with_them(builder):
  index = lgg_source.read_index(builder)
  context = channels.context_of(channels.parse_channels("flair-1,post+1", INFO), INFO)
  plain, reader = store.Reader.of(builder, INFO, index), store.Reader.of(builder, INFO, index, context=context)
  case = index[0].case
  ids = [entry.id for entry in index if entry.case == case]
  whole = plain.read(ids)
  mixed = [ids[2], ids[0], ids[-1]]
  read = reader.read(mixed)
  assert read.ids == mixed and read.context.dtype == np.uint8
  for row, number in enumerate((2, 0, len(ids) - 1)):
    np.testing.assert_array_equal(read.image[row], whole.image[number])
    kept = {channel: read.context[row, ..., place] for place, channel in enumerate(context)}
    np.testing.assert_array_equal(kept[Channel(FLAIR, -1)], whole.image[max(number - 1, 0), ..., FLAIR])
    np.testing.assert_array_equal(kept[Channel(POST, 1)], whole.image[min(number + 1, len(ids) - 1), ..., POST])
  assert feed.arrays(read)["image"].shape[-1] == 3 + len(context)
  far = channels.context_of(channels.parse_channels("flair+99", INFO), INFO)
  with pytest.raises(UserError, match=r"has \d+ slices, and data.channels looks at neighbours 99 away"):
    store.Reader.of(builder, INFO, index, context=far)


def batch(context):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (6, 8, 8, 3 + len(context))).astype(np.uint8)
  return {
    "image": jnp.asarray(image),
    "mask": jnp.zeros((6, 8, 8, 1), jnp.uint8),
    "volume_mean": jnp.asarray(rng.random((6, 3), np.float32) * 100),
    "volume_std": jnp.asarray(rng.random((6, 3), np.float32) * 50 + 1),
  }


def test_each_channel_is_normalised_by_its_own_sequence():
  names = "flair+1,post,pre-1"
  context = channels.context_of(channels.parse_channels(names, INFO), INFO)
  data = batch(context)
  image, _ = preprocess.make_preprocess(size=8, normalize="volume", channels=names, info=INFO)(data)
  stored = np.asarray(data["image"], np.float64)
  place = {channel: 3 + number for number, channel in enumerate(context)}
  for number, (source, sequence) in enumerate(
    ((place[Channel(FLAIR, 1)], FLAIR), (POST, POST), (place[Channel(PRE, -1)], PRE))
  ):
    mean, std = (np.asarray(data[name])[:, sequence, None, None] for name in ("volume_mean", "volume_std"))
    np.testing.assert_allclose(image[..., number], (stored[..., source] - mean) / std, atol=1e-4)


def test_flair_stands_in_with_its_neighbours_and_statistics():
  context = channels.context_of(channels.parse_channels("pre-1,post+1", INFO), INFO)
  data = batch(context)
  place = {channel: 3 + number for number, channel in enumerate(context)}
  missing = jnp.array([[True, False, False]] * 3 + [[False, False, True]] * 3)
  changed = missing_sequences.replace(data, missing, context, INFO)
  for name in ("volume_mean", "volume_std"):
    np.testing.assert_array_equal(changed[name][:3, PRE], data[name][:3, FLAIR])
    np.testing.assert_array_equal(changed[name][:3, 1:], data[name][:3, 1:])
    np.testing.assert_array_equal(changed[name][3:, POST], data[name][3:, FLAIR])
  before, after = np.asarray(data["image"]), np.asarray(changed["image"])
  np.testing.assert_array_equal(after[:3, ..., PRE], before[:3, ..., FLAIR])
  np.testing.assert_array_equal(after[:3, ..., place[Channel(PRE, -1)]], before[:3, ..., place[Channel(FLAIR, -1)]])
  np.testing.assert_array_equal(after[:3, ..., POST], before[:3, ..., POST])
  np.testing.assert_array_equal(after[3:, ..., place[Channel(POST, 1)]], before[3:, ..., place[Channel(FLAIR, 1)]])
  alone = np.asarray(missing_sequences.reference_alone(data, context, INFO)["image"])
  for channel in (PRE, POST):
    np.testing.assert_array_equal(alone[..., channel], before[..., FLAIR])


def test_sequences_are_dropped_as_often_as_asked_and_each_way_alike():
  slices = 3000
  image = jnp.broadcast_to(jnp.arange(3, dtype=jnp.uint8), (slices, 1, 1, 3))
  data = {"image": image, "volume_mean": jnp.ones((slices, 3)), "volume_std": jnp.ones((slices, 3))}
  dropped = np.asarray(missing_sequences.make_drop(0.6, (), INFO)(jax.random.key(0), data)["image"])[:, 0, 0]
  found, counts = np.unique(dropped, axis=0, return_counts=True)
  shares = dict(zip(map(tuple, found.tolist()), counts / slices, strict=True))
  assert shares.keys() == {(0, 1, 2), (1, 1, 2), (0, 1, 1), (1, 1, 1)}
  for kind, share in shares.items():
    assert share == pytest.approx(0.4 if kind == (0, 1, 2) else 0.2, abs=0.03)
  assert missing_sequences.make_drop(0.0, (), INFO)(jax.random.key(0), data) is data


@pytest.fixture(scope="module")
def run(tiny, once):
  """A run that sees neighbours, was trained without sequences now and then, and is evaluated in every way."""
  flags = ["--config.data.channels=pre,flair,post,flair-1,flair+1", "--config.augment.drop_sequence=0.5",
           "--config.eval.flair_only=True", "--config.eval.mirror=True", "--config.train.epochs=1"]  # fmt: skip
  return once("context", lambda folder: unbroken([*tiny, *flags], folder)[1])


@pytest.mark.slow
def test_a_run_sees_neighbours_and_is_evaluated_on_flair_alone_beside(run):
  workdir, _ = run
  summary = json.loads((workdir / "summary.json").read_text())
  assert summary["mirror"] and [one["name"] for one in summary["baselines"]] == ["flair_only"]
  assert "This network, with FLAIR in all channels" in (workdir / "table.txt").read_text()
  both = [table_of(workdir / name) for name in ("slices.csv", "baselines.csv")]
  ids = [[(row["case"], row["slice"]) for row in rows] for rows in both]
  assert ids[0] == ids[1] and any(a["probability"] != b["probability"] for a, b in zip(*both, strict=True))


@pytest.mark.slow
def test_its_scans_see_neighbours_too_live_and_exported(run, tmp_path):
  volume = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3)).astype(np.float32)
  live = bt_jax.load(run[0]).predict(volume)
  moved = volume.copy()
  moved[3] = moved[3, ::-1]
  assert not np.allclose(bt_jax.load(run[0]).predict(moved).probability[2], live.probability[2], atol=1e-6)
  assert not [warning for warning in bt_jax.load(run[0]).predict(volume[..., 1]).warnings if "FLAIR alone" in warning]
  status, _, err = launch(["--mode=export", f"--checkpoint={run[0]}", f"--output={tmp_path / 'model.bin'}"])
  assert status == 0, err
  exported = bt_jax.load(tmp_path / "model.bin")
  np.testing.assert_allclose(exported.predict(volume).probability, live.probability, atol=1e-5)
  for predictor in (bt_jax.load(run[0]), exported):
    with pytest.raises(UserError, match="look at neighbours 1 away: expected more than 1"):
      predictor.predict(volume[:1])


@pytest.mark.slow
def test_neighbours_on_a_split_that_cuts_volumes_are_reported(tiny, tmp_path):
  flags = ["--config.data.channels=flair,flair+1", "--config.split.kind=random", "--config.train.epochs=1"]
  status, out, err = launch([*tiny, *flags, f"--workdir={tmp_path / 'leaky'}"])
  assert status == 0, err
  assert "neighbours of test slices are training slices" in out
