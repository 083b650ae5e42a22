"""The training loop: steps, validation, checkpoints, early stopping, and a clean stop on a signal."""

import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from bt_jax.distributed import hosts
from bt_jax.distributed.stop_signals import stop_signals
from bt_jax.errors import Stopped, UserError
from bt_jax.schema import Batch
from bt_jax.training.checkpoints import Checkpoints
from bt_jax.training.step import ResidentBatches, ResidentStep, TrainStep
from bt_jax.training.train_state import TrainState

_LOOK_EVERY = 10  # steps between reads of the loss; each read waits for the device
Row = dict[str, int | float]


class Validation(NamedTuple):
  """The result of one validation.

  Attributes:
    numbers: `loss`, `accuracy` and `score`; empty where no slices validate.
    decide: computes what prediction needs beside the parameters, such as its threshold, from the same predictions; it
      is called only for the best checkpoint.
  """

  numbers: dict[str, float]
  decide: Callable[[], dict[str, Any]]


class StepInput(NamedTuple):
  """The input of one call of the compiled step.

  Attributes:
    steps: number of training steps that the call takes.
    batch: the batch of one step, sharded over the devices, or those of several.
    learning_rate: learning rate of the step, or of each of several.
  """

  steps: int
  batch: Batch | ResidentBatches
  learning_rate: Float[np.ndarray, "*steps"]


class InputPipeline(NamedTuple):
  """The source of training batches, and the compiled step for them.

  Attributes:
    take: maps the index of the next step, and the largest number of steps to take at once, to their input.
    step: maps the state, and the batch and learning rate of that input, to the new state and the last loss.
  """

  take: Callable[[int, int], StepInput]
  step: TrainStep | ResidentStep


@dataclasses.dataclass(frozen=True)
class Plan:
  """How long to train.

  Attributes:
    steps: total number of steps, a multiple of `steps_per_epoch`.
    steps_per_epoch: steps between two validations.
    batch_size: slices per step, to report the speed.
    patience: epochs without a better score until training stops; 0 never stops early.
  """

  steps: int
  steps_per_epoch: int
  batch_size: int
  patience: int


def best_row(history: list[Row]) -> Row | None:
  """The first row with the highest validation score; where no slices validate, the last row."""
  return max(history, key=lambda row: row.get("validation_score", row["step"]), default=None)


def is_finished(plan: Plan, history: list[Row]) -> bool:
  """Whether the last step is taken or patience has run out, as of the last validation."""
  if not history:
    return False
  waited = history[-1]["epoch"] - best_row(history)["epoch"]
  return history[-1]["step"] >= plan.steps or 0 < plan.patience <= waited


def train(
  state: TrainState,
  history: list[Row],
  *,
  plan: Plan,
  pipeline: InputPipeline,
  validate: Callable[[TrainState], Validation],
  learning_rates: Sequence[float],
  latest: Checkpoints,
  best: Checkpoints,
  record: dict[str, Any],
  report: Callable[[list[Row]], None],
) -> tuple[TrainState, list[Row]]:
  """Trains until the plan is finished.

  Args:
    state: the initial state, or the one to resume from.
    history: one row for each epoch so far.
    plan: see `Plan`.
    pipeline: see `InputPipeline`.
    validate: maps the state to the result of validation.
    learning_rates: learning rate of every step, for the table.
    latest: checkpoints of the whole state, saved after every epoch and on a stop.
    best: checkpoints of the evaluation variables, saved whenever the score improves.
    record: saved in every checkpoint beside `history`.
    report: called with the history after every epoch.

  Raises:
    Stopped: after Ctrl-C or SIGTERM, once the state is saved.
    UserError: a loss, or the parameters after a step, were not finite.
  """
  done = int(state.step)
  started, trained, waited, first = time.perf_counter(), 0, 0.0, True
  epochs = -(-plan.steps // plan.steps_per_epoch)
  with (
    stop_signals() as asked,
    tqdm(
      total=plan.steps * plan.batch_size,
      initial=done * plan.batch_size,
      desc="training",
      unit="slice",
      disable=None,  # where there is no terminal, whose logs it would fill
    ) as progress,
  ):
    while not is_finished(plan, history):
      asking = time.perf_counter()
      steps, batch, learning_rate = pipeline.take(done, plan.steps_per_epoch - done % plan.steps_per_epoch)
      waited += time.perf_counter() - asking
      state, loss = pipeline.step(state, batch, learning_rate)
      done, trained = done + steps, trained + steps * plan.batch_size
      if first:
        jax.block_until_ready(loss)
        tqdm.write(f"first step after {time.perf_counter() - started:.1f} s")
        first = False
        if done % plan.steps_per_epoch:  # do not count compilation
          started, trained, waited = time.perf_counter(), 0, 0.0
      progress.update(steps * plan.batch_size)
      end_of_epoch = done % plan.steps_per_epoch == 0
      look = done // _LOOK_EVERY > (done - steps) // _LOOK_EVERY or end_of_epoch
      # Several hosts agree at the same steps; a single host need not ask.
      stop = (asked and jax.process_count() == 1) or (look and any(hosts.gather(bool(asked))))
      progress.set_description(f"epoch {-(-done // plan.steps_per_epoch)} of {epochs}", refresh=False)
      if look or stop:
        _check_finite(state, latest)
        progress.set_postfix_str(f"loss {float(loss):.4f}{_score(history[-1]) if history else ''}")
      if end_of_epoch:
        seconds = time.perf_counter() - started
        validation = validate(state)
        steps_since = done - int(history[-1]["step"] if history else 0)
        row = {
          "epoch": -(-done // plan.steps_per_epoch),
          "step": done,
          "learning_rate": float(learning_rates[done - 1]),
          "train_loss": float(state.loss_sum) / steps_since,
          "train_accuracy": float(state.accuracy_sum) / steps_since,
          **{f"validation_{name}": value for name, value in validation.numbers.items()},
          "slices_per_second": trained / seconds,
          "input_share": waited / seconds,
        }
        state = state.replace(loss_sum=state.loss_sum * 0, accuracy_sum=state.accuracy_sum * 0)
        history = [*history, row]
        if best_row(history) is row:
          best.save(done, state.eval_variables, record | {"history": history, "decision": validation.decide()})
        latest.save(done, state, record | {"history": history})
        report(history)
        if progress.disable:  # no terminal: one line an epoch instead
          print(_epoch_line(row, epochs, best=best_row(history) is row), flush=True)
        started, trained, waited = time.perf_counter(), 0, 0.0
      if stop:
        latest.save(done, state, record | {"history": history})
        raise Stopped(done, asked[0] if asked else signal.SIGTERM)
  return state, history


def _epoch_line(row: Row, epochs: int, *, best: bool) -> str:
  score = f"{_score(row)}{' (the best so far)' if best else ''}" if "validation_score" in row else ""
  return (
    f"epoch {row['epoch']} of {epochs}: loss {row['train_loss']:.4f}{score}, {row['slices_per_second']:.1f} slices/s"
  )


def _score(row: Row) -> str:
  return f", validation score {row['validation_score']:.3f}" if "validation_score" in row else ""


def _check_finite(state: TrainState, latest: Checkpoints) -> None:
  if (bad := int(state.nonfinite_step)) >= 0:
    raise UserError(
      f"the loss or the parameters are not finite at step {bad}: training stopped; the last good checkpoint, if an epoch "
      f"was finished, is in {latest.folder}; try a lower train.learning_rate or another loss.name in a new workdir",
      "train.learning_rate",
      "loss.name",
      "workdir",
    )
