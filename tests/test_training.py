import functools
import logging
import math
import resource
import shutil
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bt_jax.datasets.lgg_mri.constants import INFO
from bt_jax.errors import UserError
from bt_jax.inference import networks
from bt_jax.losses import make_loss
from bt_jax.models.unet import UNet
from bt_jax.pipeline.augment import make_augment
from bt_jax.runs import warm_start
from bt_jax.tasks import TASKS
from bt_jax.training import loop
from bt_jax.training.checkpoints import AS_SAVED, Checkpoints
from bt_jax.training.optimizer import make_optimizer, make_schedule
from bt_jax.training.step import make_predict_step, make_train_step
from bt_jax.training.train_state import TrainState, init_state, tree_hash
from tests.helpers.steps import AUGMENT, LOSS, PREPROCESS, components, options

MODEL = UNet(width=4, depth=2)
TASK = TASKS["segmentation"](INFO)


@pytest.fixture(scope="module")
def data():
  """Twelve bright squares on dark ground; brightness tells the truth."""
  rng = np.random.default_rng(0)
  mask = np.zeros((12, 64, 64, 1), np.uint8)
  for example, (row, column) in zip(mask, rng.integers(0, 40, (12, 2)), strict=True):
    example[row : row + 20, column : column + 20] = 1
  image = np.clip(rng.normal(60, 10, (12, 64, 64, 3)) + 120 * mask, 0, 255).astype(np.uint8)
  mean, std = image.mean((1, 2)).astype(np.float32), image.std((1, 2)).astype(np.float32)
  return {
    "image": jnp.asarray(image),
    "mask": jnp.asarray(mask),
    "label": jnp.ones(12, jnp.int32),
    "weight": jnp.ones(12),
    "volume_mean": jnp.asarray(mean),
    "volume_std": jnp.asarray(std),
  }


SCHEDULE = make_schedule(name="cosine", learning_rate=1e-2, warmup_steps=2, steps=40)


def optimizer():
  return make_optimizer(name="adamw", momentum=0.9, epsilon=1e-8, weight_decay=1e-4)


def train_step(chain, ema_decay=0.9, **loss):
  made = components(
      model=MODEL, task=TASK, preprocess=PREPROCESS, augment=make_augment(**AUGMENT, info=INFO),
      loss=make_loss(**LOSS | loss), optimizer=chain,
  )  # fmt: skip
  return make_train_step(made, options(ema_decay=ema_decay))


def first_state(chain, average=True):
  return jax.jit(functools.partial(init_state, MODEL, chain, size=32, channels=3, seed=0, average=average))()


@functools.cache
def step_and_state():
  """What the tests train with that need nothing else: a step, compiled once, and the state that it begins with."""
  chain = optimizer()
  return jax.jit(train_step(chain, ema_decay=0.15)), first_state(chain)


def run(step, state, data, steps, batch_size=8):
  losses = []
  for number in range(steps):
    indices = np.arange(number * batch_size, (number + 1) * batch_size) % 12
    state, loss = step(state, {name: array[indices] for name, array in data.items()}, SCHEDULE(state.step))
    losses.append(float(loss))
  return state, losses


def test_training_learns(data):
  step, state = step_and_state()
  state, losses = run(step, state, data, 40)
  assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
  assert int(state.step) == 40 and int(state.nonfinite_step) == -1
  np.testing.assert_allclose(float(state.loss_sum), sum(losses), rtol=1e-4)


def test_moving_average_by_hand(data):
  step, state = step_and_state()
  average = jax.device_get(state.variables)
  for number in range(3):
    state, _ = run(step, state, data, 1)
    decay = min(0.15, (1 + number) / (10 + number))
    average = jax.tree.map(
      lambda old, new, decay=decay: decay * old + (1 - decay) * np.asarray(new), average, state.variables
    )
  jax.tree.map(lambda ours, expected: np.testing.assert_allclose(ours, expected, atol=1e-5), state.average, average)
  assert state.eval_variables is state.average
  plain = first_state(optimizer(), average=False)
  assert plain.eval_variables is plain.variables


def test_step_that_is_not_finite_changes_nothing_but_the_mark(data):
  step, state = step_and_state()
  state, _ = run(step, state, data, 2)
  bad = data | {"volume_mean": jnp.full((12, 3), jnp.nan, jnp.float32)}  # of the same type: no second program
  after, losses = run(step, state, bad, 2)
  assert math.isnan(losses[0])
  assert int(after.nonfinite_step) == 2
  jax.tree.map(
    np.testing.assert_array_equal,
    (state.variables, state.opt_state, state.average),
    (after.variables, after.opt_state, after.average),
  )


def test_step_too_far_is_not_finite_although_loss_and_gradient_are(data):
  chain = optax.scale(float("inf"))
  state = first_state(chain)
  after, losses = run(jax.jit(train_step(chain)), state, data, 1)
  assert math.isfinite(losses[0]) and int(after.nonfinite_step) == 0
  jax.tree.map(np.testing.assert_array_equal, state.variables, after.variables)


def test_prediction_is_on_the_datas_own_grid(data):
  _, state = step_and_state()
  predict = jax.jit(make_predict_step(model=MODEL, task=TASK, preprocess=PREPROCESS))
  some = lambda *indices: {name: array[jnp.array(indices)] for name, array in data.items()}
  logits = predict(state.variables, some(3, 4, 5, 0)).pixels
  assert logits.shape == (4, 64, 64, 1) and logits.dtype == jnp.float32
  np.testing.assert_allclose(logits[:3], predict(state.variables, some(3, 4, 5, 7)).pixels[:3], atol=1e-5)
  # The network sees 32 x 32 pixels: its logits, each repeated, differ from the resized ones by less than their own range.
  images, _ = PREPROCESS({name: array[3:6] for name, array in data.items()})
  coarse = jax.jit(MODEL.apply)(state.variables, images)
  np.testing.assert_allclose(
    logits[:3].reshape(3, 32, 2, 32, 2, 1).mean((2, 4)), coarse, atol=float(jnp.ptp(coarse)) / 4
  )


def test_schedule_rises_and_falls():
  schedule = make_schedule(name="cosine", learning_rate=0.4, warmup_steps=10, steps=110)
  np.testing.assert_allclose([schedule(0), schedule(5), schedule(10)], [0, 0.2, 0.4], rtol=1e-6)
  np.testing.assert_allclose(
    [schedule(60), schedule(110)], [0.2, 0], atol=1e-6
  )  # half way down the cosine, and its end
  constant = make_schedule(name="constant", learning_rate=0.4, warmup_steps=10, steps=110)
  np.testing.assert_allclose([constant(0), constant(5), constant(10), constant(500)], [0, 0.2, 0.4, 0.4], rtol=1e-6)
  assert make_schedule(name="constant", learning_rate=0.4, warmup_steps=0, steps=9)(0) == pytest.approx(0.4)


def test_optimisers_by_hand():
  params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((2,), 2.0)}
  gradient = jax.tree.map(jnp.ones_like, params)

  def first(name, epsilon=1e-8):
    chain = make_optimizer(name=name, momentum=0.9, epsilon=epsilon, weight_decay=0.5)
    return chain.update(gradient, chain.init(params), params)[0]

  # Nesterov's first step is (1 + momentum) times the gradient, Adam's is 1 whatever the gradient; decay is on kernels only.
  np.testing.assert_allclose(first("sgd")["bias"], -1.9, rtol=1e-5)
  np.testing.assert_allclose(first("adam")["kernel"], -1, rtol=1e-5)
  np.testing.assert_allclose(first("adamw")["kernel"], -1 - 0.5 * 2.0, rtol=1e-5)
  np.testing.assert_allclose(first("adamw")["bias"], -1, rtol=1e-5)
  np.testing.assert_allclose(first("adam", epsilon=1.0)["kernel"], -0.5, rtol=1e-5)  # gradient / (gradient + epsilon)
  with pytest.raises(UserError, match="train.optimizer is 'lion', expected one of sgd, adam, adamw"):
    first("lion")


def tree(value):
  return {"a": jnp.full((3,), value, jnp.float32), "b": {"c": jnp.int32(value)}}


def test_checkpoints_come_back_and_only_the_last_two_stay(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.restore(tree(0)) is None
  for step in (3, 5, 9):
    checkpoints.save(step, tree(step), {"history": [{"score": 0.1 + step}]})
  checkpoints.save(9, tree(0), {})  # one that exists is kept
  restored, record = Checkpoints(tmp_path).restore(tree(0))
  jax.tree.map(np.testing.assert_array_equal, restored, tree(9))
  assert record == {"history": [{"score": 0.1 + 9}], "format": 1, "step": 9, "arrays_sha256": tree_hash(tree(9))}
  assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["5", "9"]


def damage(folder, how):
  files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
  largest = [path for path in files if "record" not in str(path)][-1]
  if how == "flip":
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(content)
  elif how == "cut":
    largest.write_bytes(largest.read_bytes()[:10])
  else:
    for path in files:
      path.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_corrupt_checkpoint_falls_back_to_the_one_before(tmp_path, how, capsys):
  checkpoints = Checkpoints(tmp_path)
  for step in (3, 5):
    checkpoints.save(step, {"a": jnp.arange(10_000.0) * step}, {"history": []})
  checkpoints.close()
  damage(tmp_path / "5", how)
  restored, record = Checkpoints(tmp_path).restore({"a": jnp.zeros(10_000)})
  assert record["step"] == 3
  np.testing.assert_array_equal(restored["a"], np.arange(10_000.0) * 3)
  assert f"{tmp_path / '5'} is corrupt" in capsys.readouterr().out
  assert (tmp_path / "5.corrupt").is_dir()  # nothing is lost
  again = Checkpoints(tmp_path)
  again.save(5, {"a": jnp.arange(10_000.0) * 5}, {"history": []})  # and its place is free
  assert again.restore()[1]["step"] == 5
  again.close()
  damage(tmp_path / "5", how)
  damage(tmp_path / "3", how)
  for _ in range(2):  # refused again and again, never begun anew
    with pytest.raises(UserError, match="no checkpoint in"):
      Checkpoints(tmp_path).restore({"a": jnp.zeros(10_000)})


def saved(folder, *steps):
  checkpoints = Checkpoints(folder)
  for step in steps:
    checkpoints.save(step, {"a": jnp.arange(10_000.0) * step}, {"history": []})
  checkpoints.close()


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
@pytest.mark.parametrize("like", [{"a": jnp.zeros(10_000)}, AS_SAVED])
def test_corrupt_checkpoint_that_is_to_be_used_is_refused_and_none_replaces_it(tmp_path, how, like):
  saved(tmp_path, 3, 5)
  damage(tmp_path / "5", how)
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(UserError, match=f"{tmp_path / '5'} is corrupt .*: put it back from a copy") as error:
    Checkpoints(tmp_path, read_only=True).restore(like)
  assert "\n" not in str(error.value) and sorted(tmp_path.rglob("*")) == before


def test_no_read_that_ends_after_one_that_failed_prints_a_stack_trace(tmp_path, monkeypatch, caplog):
  arrays = {str(number): jnp.arange(500.0) * number for number in range(60)}
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(5, arrays, {"history": []})
  checkpoints.close()
  (names,) = (tmp_path / "5" / "arrays" / "d").iterdir()  # where each array lies, without which none is read
  content = bytearray(names.read_bytes())
  content[len(content) // 2] ^= 0xFF
  names.write_bytes(content)
  printed = []
  monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(unraisable.exc_value))
  for _ in range(4):
    with pytest.raises(UserError, match="is corrupt"):
      Checkpoints(tmp_path, read_only=True).restore(arrays)
  time.sleep(0.3)  # for the last of them to end
  assert not printed
  sys.unraisablehook(types.SimpleNamespace(exc_value=ValueError("another")))
  assert [str(error) for error in printed] == ["another"]
  for error, heard in ((ValueError("Error writing in OCDBT database"), 0), (ValueError("another"), 1)):
    caplog.clear()
    logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=error)
    assert len(caplog.records) == heard


def test_a_record_that_was_changed_is_corrupt(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(5, tree(5), {"history": [], "decision": {"threshold": 0.5}})
  checkpoints.close()
  assert Checkpoints(tmp_path, read_only=True).restore(tree(0))[1]["decision"] == {"threshold": 0.5}
  path = tmp_path / "5" / "record" / "metadata"
  text = path.read_text()
  for changed in (text.replace("0.5", "0.4"), text.replace('"step": 5', '"step": 6'), "[]", text[:-9]):
    assert changed != text
    path.write_text(changed)
    with pytest.raises(UserError, match="is corrupt"):
      Checkpoints(tmp_path, read_only=True).restore(tree(0))


@pytest.mark.parametrize(
  "notes",
  ["[]", "{", "", '{"performance_metrics": true}', '{"init_timestamp_nsecs": 1e300}', '{"item_handlers": 3}', None],
)
@pytest.mark.parametrize("step", ["3", "5"])
def test_what_orbax_notes_beside_a_checkpoint_may_be_damaged(tmp_path, notes, step, capfd):
  """Neither arrays nor record, whose hashes are verified, depend on it."""
  saved(tmp_path, 3, 5)
  path = tmp_path / step / "_CHECKPOINT_METADATA"
  path.unlink() if notes is None else path.write_text(notes)
  for read_only in (True, False):
    checkpoints = Checkpoints(tmp_path, read_only=read_only)
    assert checkpoints.restore({"a": jnp.zeros(10_000)})[1]["step"] == checkpoints.restore(AS_SAVED)[1]["step"] == 5
  checkpoints.save(9, {"a": jnp.ones(10_000)}, {"history": []})
  checkpoints.close()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "9"]
  assert Checkpoints(tmp_path).restore({"a": jnp.zeros(10_000)})[1]["step"] == 9
  assert not "".join(capfd.readouterr())


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("part", ["arrays", "record"])
def test_a_file_that_cannot_be_opened_condemns_nothing(tmp_path, read_only, part):
  """A link to itself is such a file for every user, also for root."""
  saved(tmp_path, 3, 5)
  path = max(
    (path for path in (tmp_path / "5" / part).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
  )
  path.rename(tmp_path / "kept")
  path.symlink_to(path)
  for _ in range(2):
    with pytest.raises(UserError, match=r"5 cannot be read \(.*[Ss]ymbolic.*nothing was changed") as error:
      Checkpoints(tmp_path, read_only=read_only).restore({"a": jnp.zeros(10_000)})
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["3", "5"]
  (tmp_path / "kept").replace(path)
  assert Checkpoints(tmp_path, read_only=read_only).restore({"a": jnp.zeros(10_000)})[1]["step"] == 5


def test_a_disk_without_room_is_one_line_and_the_run_goes_on_from_the_checkpoint_before(tmp_path, capfd, monkeypatch):
  printed = []
  monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(unraisable.exc_value))
  checkpoints = Checkpoints(tmp_path)
  noise = lambda step: {name: jax.random.normal(jax.random.key(step), (3_000,)) for name in ("a", *map(str, range(60)))}
  checkpoints.save(3, noise(3), {"history": []})
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))  # no file grows beyond, as on a full disk
  try:
    with pytest.raises(UserError, match="checkpoint 5 cannot be saved in .* free some space") as error:
      checkpoints.save(5, noise(5), {"history": []})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  time.sleep(0.3)  # for what was saved at the same time to end
  assert "\n" not in str(error.value) and not capfd.readouterr().err and not printed
  again = Checkpoints(tmp_path)
  restored, record = again.restore(noise(0))
  assert record["step"] == 3
  np.testing.assert_array_equal(restored["a"], noise(3)["a"])
  again.save(5, noise(5), {"history": []})
  assert again.restore(noise(0))[1]["step"] == 5


def test_a_folder_that_was_removed_is_not_begun_anew(tmp_path):
  checkpoints = Checkpoints(tmp_path / "latest")
  checkpoints.save(3, tree(3), {})
  shutil.rmtree(tmp_path / "latest")
  with pytest.raises(UserError, match="was removed while a run worked in it"):
    checkpoints.save(5, tree(5), {})
  assert not (tmp_path / "latest").exists()


@pytest.mark.parametrize(
  "part", ["checkpoints", "checkpoints/latest", "checkpoints/latest/5", "checkpoints/latest/5/arrays"]
)
def test_a_part_of_a_run_is_no_network_and_its_run_is_named(tmp_path, part):
  for name in ("best", "latest"):
    saved(tmp_path / "run" / "checkpoints" / name, 5)
  with pytest.raises(
    UserError, match=f"{part} is not a network but a part of the run in .*run: name that run"
  ) as error:
    networks.load(tmp_path / "run" / part, "segmentation", "checkpoint")
  assert error.value.arguments == ("checkpoint",)


def test_a_trained_run_that_lost_its_best_checkpoint_names_the_way_out(tmp_path):
  run = tmp_path / "run"
  saved(run / "checkpoints" / "latest", 5)
  (run / "config.json").touch()  # by which weights are known to be a run's
  for load in (lambda: networks.load(run, "segmentation", "checkpoint"), lambda: warm_start.load(str(run))):
    with pytest.raises(UserError, match="best holds no checkpoint, although .*run was trained: put it back") as error:
      load()
    assert error.value.arguments == ("mode=train",)


def test_a_fold_that_lost_its_best_checkpoint_is_not_left_out_of_the_ensemble(tmp_path):
  saved(tmp_path / "fold_00" / "checkpoints" / "best", 5)
  saved(tmp_path / "fold_01" / "checkpoints" / "latest", 5)
  whole, lost = networks.find([tmp_path], "checkpoint")
  assert (whole.name, lost.name) == ("fold_00", "fold_01")
  with pytest.raises(UserError, match="fold_01/checkpoints/best holds no checkpoint"):
    networks.load(lost, "segmentation", "checkpoint")


def test_the_structure_of_a_state_is_made_only_where_there_is_a_checkpoint(tmp_path):
  def refuse():
    raise AssertionError("made")

  assert Checkpoints(tmp_path).restore(refuse) is None
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, tree(3), {})
  checkpoints.close()
  restored, _ = Checkpoints(tmp_path).restore(lambda: tree(0))
  jax.tree.map(np.testing.assert_array_equal, restored, tree(3))


def test_tree_hash_sees_bits_and_names():
  assert tree_hash(tree(1)) == tree_hash(tree(1))
  nudged = tree(1) | {"a": jnp.full((3,), np.nextafter(np.float32(1), np.float32(2)))}
  assert len({tree_hash(tree(1)), tree_hash(nudged), tree_hash({"b": tree(1)["a"], "a": tree(1)["b"]})}) == 3


def history(*scores):
  return [{"epoch": epoch, "step": 10 * epoch, "validation_score": score} for epoch, score in enumerate(scores, 1)]


def test_when_training_is_finished():
  plan = loop.Plan(steps=50, steps_per_epoch=10, batch_size=2, patience=2)
  assert not loop.is_finished(plan, [])
  assert not loop.is_finished(plan, history(0.5, 0.4))
  assert loop.is_finished(plan, history(0.5, 0.4, 0.4))  # two epochs without a better score
  assert loop.is_finished(plan, history(0.5, 0.5, 0.5))  # equal is not better
  assert not loop.is_finished(plan, history(0.5, 0.4, 0.6, 0.5))
  patient = loop.Plan(steps=50, steps_per_epoch=10, batch_size=2, patience=0)
  assert not loop.is_finished(patient, history(0.5, 0.4, 0.3, 0.2))
  assert loop.is_finished(patient, history(0.5, 0.4, 0.3, 0.2, 0.1))
  assert loop.best_row(history(0.5, 0.7, 0.7))["epoch"] == 2
  unscored = [{"epoch": row["epoch"], "step": row["step"]} for row in history(0.5, 0.7, 0.7)]
  assert loop.best_row(unscored)["epoch"] == 3  # nothing validates: the last


def test_loop_stops_at_a_loss_that_is_not_finite_and_keeps_the_good_checkpoint(tmp_path):
  zero = jnp.zeros(())
  state = TrainState(jnp.int32(0), {"params": zero}, None, zero, zero, zero, jnp.int32(-1))
  latest, best = Checkpoints(tmp_path / "latest"), Checkpoints(tmp_path / "best")
  reported = []

  def step(state, number, learning_rate):
    mark = jnp.int32(number) if number == 15 else state.nonfinite_step
    return state.replace(step=state.step + 1, loss_sum=state.loss_sum + 2.0, nonfinite_step=mark), jnp.float32(2.0)

  with pytest.raises(UserError, match="not finite at step 15"):
    loop.train(
      state, [], plan=loop.Plan(steps=40, steps_per_epoch=10, batch_size=2, patience=0), pipeline=loop.InputPipeline(lambda done, most: loop.StepInput(1, done, np.float32(0.1)), step),
      validate=lambda state: loop.Validation({"loss": 0.5, "accuracy": 0.75, "score": 0.25}, dict), learning_rates=[0.1] * 40, latest=latest, best=best,
      record={}, report=reported.append,
    )  # fmt: skip
  latest.close()
  best.close()
  restored, record = Checkpoints(tmp_path / "latest").restore(state)
  assert int(restored.step) == 10 and int(restored.nonfinite_step) == -1 and float(restored.loss_sum) == 0
  assert [row["train_loss"] for row in record["history"]] == [2.0] and len(reported) == 1
  assert Checkpoints(tmp_path / "best").restore(state.eval_variables)[1]["step"] == 10
