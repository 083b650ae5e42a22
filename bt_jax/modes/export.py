"""Exports trained networks as one file."""

import pathlib
from typing import Any

from bt_jax.distributed import setup
from bt_jax.inference import loading


def export(*, output: pathlib.Path, checkpoint: list[str], **options: Any) -> None:
  """Writes networks as one file, as ONNX if its name ends in `.onnx`; see `loading.load` for the options."""
  if output.suffix.lower() == ".onnx":
    from bt_jax.inference import onnx as form

    dtype = "float32"  # few of its runtimes support bfloat16
  else:
    from bt_jax.inference import jax_export as form

    dtype = None
  setup.prepare()
  form.write(output, *loading.open_networks(checkpoint, options.pop("classifier"), dtype), **options)
  if dtype is None:
    print(f"predict with it as with any run: --mode=predict --checkpoint={output} --input=SCAN --output=DIR")
