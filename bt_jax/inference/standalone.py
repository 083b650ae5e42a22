"""Runs the networks of this file on a volume, with jax alone. For research only, never clinical use.

  python FILE volume.npy result.npz

volume.npy: [slices, height, width, channels], for LGG pre-contrast, FLAIR and post-contrast, in any scale, or [slices,
height, width] of FLAIR alone; axial, the front of the head at the top, square pixels. result.npz: mask and probability
[slices, height, width]; slice_probability and gated [slices].
"""

# This file becomes __main__.py in the zip at the end of an exported file, beside the package that jax.export reads with
# and jax does not install; so it imports nothing of bt_jax.
import hashlib
import json
import pathlib
import sys
import zipfile


def main(file: pathlib.Path, arguments: list[str]) -> None:
  """Reads a volume, and writes the networks' outputs for it."""
  content = file.read_bytes()
  if hashlib.sha256(content[:-64]).hexdigest().encode() != content[-64:]:
    sys.exit(f"error: {file} is damaged: export the run again")
  with zipfile.ZipFile(file) as archive:
    described = json.loads(archive.read("model.json"))
  reads, channels = described["jax"]["reads"], described["decision"]["info"]["channels"]
  if len(arguments) != 2:
    sys.exit(f"{__doc__}\nThis file was {reads}.")
  import jax
  import jax.export
  import numpy as np

  try:
    volume = np.asarray(np.load(arguments[0]), np.float32)
  except (OSError, ValueError) as error:
    reason = error.strerror if isinstance(error, OSError) else "it is not an array of numbers"
    sys.exit(f"error: {arguments[0]} cannot be read ({reason}): save it by numpy.save")
  if volume.ndim == 3:
    volume = np.stack([volume] * len(channels), axis=-1)
  if volume.ndim != 4 or volume.shape[-1] != len(channels) or not volume.size:
    expected = f"[slices, height, width, {len(channels)}] of {', '.join(channels)}"
    sys.exit(f"error: {arguments[0]} has the shape {volume.shape}, expected {expected}")
  try:
    function = jax.export.deserialize(bytearray(content))
  except Exception as error:  # written by another version of JAX; what its reader raises is not documented
    sys.exit(f"error: {file} is not read by jax {jax.__version__} ({error!r:.200}); it was {reads}")
  outputs = function.call(volume, np.float32(1))  # square pixels
  if not np.isfinite(outputs["probability"]).all():
    sys.exit(f"error: the networks give values that are not finite for {arguments[0]}: is every value in it finite?")
  np.savez_compressed(arguments[1], **{name: np.asarray(array) for name, array in outputs.items()})
  print(f"{int(outputs['mask'].sum())} voxels segmented; written: {arguments[1]}\n{__doc__.splitlines()[0]}")


if __name__ == "__main__":
  main(pathlib.Path(__file__).parent, sys.argv[1:])
