"""Exports trained networks as one file."""

import pathlib
from typing import Any

from bt_jax.distributed import setup
from bt_jax.errors import UserError
from bt_jax.evaluation import SENSITIVITY
from bt_jax.inference import loading, networks
from bt_jax.runs import out_of_fold
from bt_jax.scans.scan import NOTICE
from bt_jax.training import checkpoint_record, network_file


def export(*, output: pathlib.Path, checkpoint: list[str], runs: list[str], **options: Any) -> None:
  """Writes networks as one file; see `loading.load` for the options.

  A name that ends in `.onnx` makes it ONNX, one in `.safetensors` the weights of a single network with all that bt_jax
  needs to predict with it and to start from it; any other a function that runs with JAX alone.

  Args:
    output: path of the file.
    checkpoint: the networks.
    runs: for weights of a network that was trained on all patients: finished folds of the same configuration, whose
      records choose its threshold, temperature and gate.
    options: see `loading.load`.

  Raises:
    UserError: there is no such network, or an option does not apply to the form of the file.
  """
  suffix = output.suffix.lower()
  if suffix == network_file.SUFFIX:
    _write_weights(output, checkpoint, runs, options)
  elif runs:
    raise UserError(
      f"{output}: cross-validation chooses a threshold only for weights, a file that ends in {network_file.SUFFIX}",
      "runs",
    )
  elif suffix == ".onnx":
    from bt_jax.inference import onnx

    setup.prepare()
    # Few of its runtimes support bfloat16.
    onnx.write(output, *loading.open_networks(checkpoint, options.pop("classifier"), "float32"), **options)
  else:
    from bt_jax.inference import jax_export

    setup.prepare()
    jax_export.write(output, *loading.open_networks(checkpoint, options.pop("classifier")), **options)
    print(f"predict with it as with any run: --mode=predict --checkpoint={output} --input=SCAN --output=DIR")


def _write_weights(output: pathlib.Path, checkpoint: list[str], runs: list[str], options: dict[str, Any]) -> None:
  """Writes the weights of one network, of a segmenter or of a classifier."""
  defaults = {"classifier": None, "tta": False, "threshold": None, "sensitivity": SENSITIVITY}
  if given := [name for name, default in defaults.items() if options[name] != default]:
    raise UserError(f"{output}: weights are of one network, without {given[0]}: give it when you predict", given[0])
  paths = networks.find(checkpoint, "checkpoint")
  if len(paths) > 1:
    raise UserError(f"{output}: weights are of one network, and {len(paths)} are named: name one of them", "checkpoint")
  (path,) = paths
  if path.is_file() and not network_file.is_network(path):
    raise UserError(f"{path} is not a run: only those are written as weights", "checkpoint")
  setup.prepare()
  variables, record = networks.restore(path, "checkpoint")
  record |= {"research_use": NOTICE}
  if runs:
    record |= out_of_fold.choose(checkpoint_record.check(record, path), runs)
  elif not record["decision"].get("chosen", True):
    raise UserError(
      f"{path} was trained on all slices, and no threshold was chosen for it: name the folds of its cross-validation",
      "runs",
    )
  network_file.write(output, variables, record)
  config = record["config"]
  print(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB), {config['model']['name']} of {record['data']}")
  flag = {"segmentation": "checkpoint", "classification": "classifier"}[config["task"]]
  print(f"name it as that of a run: --{flag}={output}")
