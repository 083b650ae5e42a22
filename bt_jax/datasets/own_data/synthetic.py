"""Writes synthetic cases of four sequences and three nested classes, in the layouts that users have; see `samples`."""

import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from bt_jax import files
from bt_jax.errors import needs

CASES = 12
CHANNELS = ("T1", "T1ce", "T2", "FLAIR")
REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
_SEED = 3_000_000  # differs from those of other synthetic data
_SHAPE = (10, 96, 96)  # slices, rows and columns
# Two scanners: mm between slices, rows and columns, and the gain of the intensities.
_SCANNERS = {"A": ((5.0, 1.0, 1.0), 900.0), "B": ((6.0, 1.25, 1.0), 240.0)}
# Intensities of background, brain, rim, core and enhancing part, in each sequence.
_INTENSITIES = ((0, 50, 40, 30, 34), (0, 52, 44, 36, 95), (0, 45, 75, 90, 70), (0, 48, 92, 76, 84))


def make_case(
  number: int,
) -> tuple[Float[np.ndarray, "slices rows columns 4"], UInt8[np.ndarray, "slices rows columns"], str]:
  """One case: its sequences, its labels from 0 to 3, and its scanner."""
  rng = np.random.default_rng([_SEED, number])
  scanner = list(_SCANNERS)[number % len(_SCANNERS)]
  z, y, x = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in _SHAPE), indexing="ij")
  brain = np.hypot(np.hypot(x / 0.75, y / 0.85), z / 1.3) < 1
  centre = rng.uniform(-0.3, 0.3, 3)
  wave = ndimage.gaussian_filter(rng.standard_normal(_SHAPE).astype(np.float32), (1, 6, 6))
  depth = np.hypot(np.hypot(x - centre[0], y - centre[1]), 0.5 * (z - centre[2])) + 0.4 * wave / wave.std() * 0.1
  size = rng.uniform(0.25, 0.42)
  labels = (depth < size).astype(np.uint8) + (depth < 0.65 * size) + (depth < 0.35 * size)
  labels = np.where(brain, labels, 0).astype(np.uint8)
  tissue = np.where(brain, labels + 1, 0)
  _, gain = _SCANNERS[scanner]
  sequences = []
  for intensity in _INTENSITIES:
    clean = ndimage.gaussian_filter(np.array(intensity, np.float32)[tissue], (0, 0.6, 0.6))
    bias = np.exp(0.1 * ndimage.zoom(rng.standard_normal((3, 3, 3)), np.array(_SHAPE) / 3, order=1))
    sequences.append(np.abs(clean * bias + rng.normal(0, 3, _SHAPE)) * gain / 100)
  return np.stack(sequences, axis=-1).astype(np.float32), labels, scanner


def write_nnunet(folder: pathlib.Path, cases: int = CASES) -> None:
  """`imagesTr`, `labelsTr`, `imagesTs`, `dataset.json` with regions, and `cases.csv` with the scanner."""
  regions = {"background": 0, **REGIONS}
  about = {
    "channel_names": {str(number): name for number, name in enumerate(CHANNELS)},
    "labels": {
      name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in regions.items()
    },
    "regions_class_order": [1, 2, 3],
    "numTraining": cases,
    "file_ending": ".nii.gz",
  }
  files.write_json(folder / "dataset.json", about)
  rows = []
  for number in range(cases + 2):
    image, labels, scanner = make_case(number)
    name, training = f"case_{number:03d}", number < cases
    for channel in range(len(CHANNELS)):
      path = folder / ("imagesTr" if training else "imagesTs") / f"{name}_{channel:04d}.nii.gz"
      _nifti(path, np.rint(image[..., channel]).astype(np.int16), scanner)
    if training:
      _nifti(folder / "labelsTr" / f"{name}.nii.gz", labels, scanner)
      rows.append({"case": name, "patient": name, "scanner": scanner})
  files.write_csv(folder / "cases.csv", rows)


def write_decathlon(folder: pathlib.Path, cases: int = CASES) -> None:
  """4-D volumes in `imagesTr`, and `dataset.json` of the first version."""
  numbers = {"0": "background", "1": "rim", "2": "core", "3": "enhancing"}
  listed = [
    {"image": f"./imagesTr/case_{number:03d}.nii.gz", "label": f"./labelsTr/case_{number:03d}.nii.gz"}
    for number in range(cases)
  ]
  about = {
    "modality": {str(number): name for number, name in enumerate(CHANNELS)},
    "labels": numbers,
    "training": listed,
  }
  files.write_json(folder / "dataset.json", about)
  for number in range(cases):
    image, labels, scanner = make_case(number)
    _nifti(folder / "imagesTr" / f"case_{number:03d}.nii.gz", np.rint(image).astype(np.int16), scanner)
    _nifti(folder / "labelsTr" / f"case_{number:03d}.nii.gz", labels, scanner)


def write_brats(folder: pathlib.Path, cases: int = CASES) -> None:
  """A folder for each case, with the names of BraTS."""
  for number in range(cases):
    image, labels, scanner = make_case(number)
    name = f"BraTS-GLI-{number:05d}-000"
    for channel, sequence in enumerate(("t1n", "t1c", "t2w", "t2f")):
      path = folder / name / f"{name}-{sequence}.nii.gz"
      _nifti(path, np.rint(image[..., channel]).astype(np.int16), scanner)
    _nifti(folder / name / f"{name}-seg.nii.gz", labels, scanner)


def write_pictures(folder: pathlib.Path, cases: int = CASES) -> None:
  """Only FLAIR, as 8-bit PNGs in `images/CASE/`, and masks of 0 and 255 in `masks/CASE/`."""
  for number in range(cases):
    image, labels, _ = make_case(number)
    flair = image[..., CHANNELS.index("FLAIR")]
    shown = np.clip(flair * (255 / flair.max()), 0, 255).astype(np.uint8)
    for index in range(len(shown)):
      name = f"case_{number:03d}/slice_{index + 1:03d}"
      files.write_bytes(folder / "images" / f"{name}.png", files.png(Image.fromarray(shown[index])))
      mask = Image.fromarray(((labels[index] > 0) * 255).astype(np.uint8))
      files.write_bytes(folder / "masks" / f"{name}_mask.png", files.png(mask))


LAYOUTS: dict[str, Callable[..., None]] = {
  "nnunet": write_nnunet,
  "decathlon": write_decathlon,
  "brats": write_brats,
  "pictures": write_pictures,
}


def write(folder: pathlib.Path, layout: str) -> pathlib.Path:
  """Writes the cases in a layout, a name of `LAYOUTS`, and a file SYNTHETIC that says what they are."""
  files.write_bytes(
    folder / "SYNTHETIC",
    b"Computed by bt_jax: nobody was scanned, and results on these images say nothing about patients.\n",
  )
  LAYOUTS[layout](folder)
  return folder


def _nifti(path: pathlib.Path, values: np.ndarray, scanner: str) -> None:
  """Writes axial slices (feet first, rows to the back, columns to the left) as a file with axes to the left, back and head."""
  with needs("predict", "a synthetic case"):
    import nibabel

  (between, row, column), _ = _SCANNERS[scanner]
  affine = np.diag([-column, -row, between, 1.0])
  affine[:3, 3] = 40.0, 40.0, -25.0
  path.parent.mkdir(parents=True, exist_ok=True)
  image = nibabel.Nifti1Image(np.swapaxes(values, 0, 2), affine)
  image.header.set_xyzt_units("mm")
  nibabel.save(image, path)
