"""The state of a run before its first step, and the variables of its best checkpoint."""

import functools
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from bt_jax.distributed import sharding
from bt_jax.errors import UserError
from bt_jax.runs.components import Components
from bt_jax.training.checkpoints import Checkpoints, no_best
from bt_jax.training.train_state import PyTree, TrainState, init_state


def first_state(config: ConfigDict, components: Components, *, abstract: bool) -> TrainState:
  """The state before the first step, on all devices; with `abstract`, only its shapes, to restore a checkpoint."""
  everywhere = sharding.replicated(components.mesh)
  init = functools.partial(
    init_state,
    components.model,
    components.optimizer,
    size=config.data.size,
    channels=len(components.channels),
    seed=config.train.seed,
    average=config.train.ema_decay > 0,
  )
  if abstract:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), jax.eval_shape(init))
  # A program that runs once should compile fast rather than run fast.
  fast = jax.jit(init, out_shardings=everywhere, compiler_options={"xla_backend_optimization_level": 0})
  return fast()


def restore_best(config: ConfigDict, workdir: pathlib.Path, components: Components) -> tuple[PyTree, dict[str, Any]]:
  """The variables and the record of a run's best checkpoint; raises UserError if it is missing or corrupt."""
  best = Checkpoints(workdir / "checkpoints" / "best", read_only=True)
  restored = best.restore(first_state(config, components, abstract=True).eval_variables)
  best.close()
  if restored is None:
    raise no_best(workdir, UserError(f"{workdir} holds no checkpoint: train first", "mode=train"))
  return restored
