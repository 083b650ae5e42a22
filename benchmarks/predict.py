"""Prediction on scans, and its memory, compared with a PyTorch loop like that of the public implementation.

  python benchmarks/predict.py                                            the U-Net of configs/seg.py:small
  python benchmarks/predict.py --size=256 --width=32 --studies=1          that of configs/seg.py

Scans are synthetic volumes of 256 x 256 slices, with a NIfTI file for each of three sequences. The networks are
untrained, and the thresholds are set such that one pixel in a hundred is positive. The peer is modelled on inference in
mateuszbuda/brain-segmentation-pytorch: one study after the other in batches of 32, with nibabel, the same network and
normalisation, channels last, not compiled.

  networks           from slices in memory to probabilities in memory
  scan to mask       from a scan in memory to its mask; ours also resamples it to the training grid and back, and checks
                     whether it is out of distribution
  files to masks     sequentially: read, predict, write mask.nii.gz
  files to pictures  the peer also writes a PNG of every slice with an outline, as that repository does; ours is
                     `--mode=predict` with all its checks, hashes and files, which reads and writes in threads meanwhile

Both run in one process, in turn; the table has medians and their ratio, above 1 where ours is faster. A second table
has the time of each part of ours alone. Memory is the peak of a separate process for each number of studies, and how
much of it came after the first study. Linux only. PyTorch's threads stall on a busy CPU.
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import timing
from benchmarks.growth import alone, peak, print_block

MARKED = 0.01  # share of positive pixels
BATCH = 32  # batch size of the peer, which is the largest of ours
SCALE = 5  # factor of the intensities in files


def write_study(folder: pathlib.Path, seed: int, slices: int) -> None:
  """Writes pre.nii.gz, flair.nii.gz and post.nii.gz of a synthetic volume, with intensities times `SCALE`."""
  import nibabel

  from bt_jax.datasets.lgg_mri import phantom
  from bt_jax.schema import CHANNELS

  volume, _ = phantom.make_volume(np.random.default_rng(seed), slices)
  folder.mkdir(parents=True)
  for role, picture in zip(CHANNELS, np.moveaxis(volume, -1, 0), strict=True):
    values = SCALE * picture.T.astype(np.int16)  # columns, rows, slices
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-0.9, -0.9, 5, 1])), folder / f"{role}.nii.gz")


def in_range(image: np.ndarray) -> np.ndarray:
  """Scales the intensities of `write_study` back to 0..255."""
  return image / np.float32(SCALE)


def make_predictor(size: int, width: int, dtype: str):
  """An untrained U-Net as a predictor, with a threshold of 0.5."""
  import jax
  import jax.numpy as jnp

  from bt_jax.datasets.lgg_mri.constants import INFO
  from bt_jax.inference import loading
  from bt_jax.inference.networks import Network, View
  from bt_jax.models import DTYPES, MODELS, make_model
  from bt_jax.pipeline.preprocess import make_preprocess
  from bt_jax.tasks import TASKS
  from bt_jax.training.step import make_predict_step

  model = make_model(MODELS, "unet", width=width, dtype=DTYPES[dtype])
  preprocess = make_preprocess(size=size, normalize="volume", channels=",".join(INFO.channels), info=INFO)
  network = Network(
    info=INFO,
    variables=jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, len(INFO.channels)))),
    logits=make_predict_step(model=model, task=TASKS["segmentation"](INFO), preprocess=preprocess),
    view=View(size),
    drops_sequences=False,
    slice_head=False,
    decision={"threshold": 0.5, "temperature": 1.0, "tumor_probabilities": [0.5]},
    profile={"skull": [0.0, 1.0], "span": [0.0, 1.0]},
    largest_component=False,
    about={"path": "-", "model": "an untrained unet", "data": "nothing", "split": "none"},
  )
  return loading.of_networks([network], [])


def with_threshold(predictor, threshold: float):
  """The same networks with another threshold."""
  return dataclasses.replace(predictor, decision=dataclasses.replace(predictor.decision, threshold=threshold))


def predict_stream(source: pathlib.Path, output: pathlib.Path, predictor) -> None:
  """Predicts all studies of a folder, as `--mode=predict` does; its output is discarded."""
  from bt_jax.inference import batch_prediction

  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    batch_prediction.predict(source, output, given={}, probabilities=False, shard=None, load=lambda: predictor)


class Peer:
  """The same in PyTorch; images are [slices, 256, 256, 3]."""

  def __init__(self, size: int, width: int, dtype: str):
    import torch

    from benchmarks.peers import UNet

    self.torch, self.size, self.threshold = torch, size, 0.5
    self.device = "cuda" if torch.cuda.is_available() else "cpu"
    self.mixed = torch.autocast(self.device, torch.bfloat16, enabled=dtype == "bfloat16")
    self.net = UNet(width).eval().to(self.device, memory_format=torch.channels_last)

  def probability(self, image: np.ndarray) -> np.ndarray:
    """Probabilities, normalised by volume, in batches."""
    torch, found = self.torch, []
    resize = lambda x, size: torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
    mean = image.mean(0).mean(0).mean(0)  # an axis at a time is far quicker than all at once
    std = ((image - mean) ** 2).mean(0).mean(0).mean(0) ** 0.5
    with torch.inference_mode(), self.mixed:
      for start in range(0, len(image), BATCH):
        piece = torch.from_numpy((image[start : start + BATCH] - mean) / std)
        x = piece.to(self.device).permute(0, 3, 1, 2)  # which is channels last
        logits = self.net(resize(x, self.size) if self.size != x.shape[-1] else x).float()
        found.append(torch.sigmoid(resize(logits, x.shape[-1]) if self.size != x.shape[-1] else logits)[:, 0].cpu())
    return torch.cat(found).numpy()

  def predict(self, image: np.ndarray) -> np.ndarray:
    """The mask; intensities may have any scale."""
    low = image.min(0).min(0).min(0)
    high = np.percentile(image, 99.9, axis=(0, 1, 2)).astype(np.float32)
    return self.probability(np.clip((image - low) / (high - low), 0, 1)) >= self.threshold

  def stream(self, source: pathlib.Path, output: pathlib.Path, pictures: bool) -> None:
    """Predicts all studies of a folder."""
    import nibabel
    from PIL import Image
    from scipy import ndimage

    from bt_jax.schema import CHANNELS

    for folder in sorted(source.iterdir()):
      files = [nibabel.load(folder / f"{role}.nii.gz") for role in CHANNELS]
      image = np.stack([file.get_fdata(dtype=np.float32).T for file in files], axis=-1)
      mask = self.predict(image)
      (output / folder.name).mkdir(parents=True)
      nibabel.save(nibabel.Nifti1Image(mask.T.astype(np.uint8), files[0].affine), output / folder.name / "mask.nii.gz")
      if pictures:
        grey = (255 / image[..., 1].max() * image[..., 1]).astype(np.uint8)
        for at, (shown, marked) in enumerate(zip(grey, mask, strict=True)):
          colour = np.repeat(shown[..., None], 3, axis=-1)
          colour[ndimage.binary_dilation(marked) & ~marked] = (255, 0, 0)
          Image.fromarray(colour).save(output / folder.name / f"{at:04d}.png")


def one_by_one(source: pathlib.Path, output: pathlib.Path, predictor) -> None:
  """Predicts all studies of a folder, sequentially, and writes only masks."""
  from bt_jax.scans import nifti, reader
  from bt_jax.scans.algorithm import Algorithm

  for study in reader.find(source, {}):
    found = predictor.predict(reader.read(study))
    nifti.write(found.scan, output / study.name, found.mask, {}, algorithm=Algorithm("benchmark"))


def measure_parts(source: pathlib.Path, outputs: Iterator[pathlib.Path], predictor) -> dict[str, float]:
  """Seconds that each part of our prediction takes alone."""
  from bt_jax.inference import ood, overlays
  from bt_jax.inference.description import describe
  from bt_jax.scans import nifti, reader
  from bt_jax.scans.algorithm import Algorithm

  taken, output = {}, next(outputs)

  def timed(name: str, function: Callable, *arguments, **options):
    started = time.perf_counter()
    result = function(*arguments, **options)
    taken[name] = taken.get(name, 0) + time.perf_counter() - started
    return result

  for study in timed("find the files", reader.find, source, {}):
    scan = timed("read, check and hash", reader.read, study)
    found = timed("predict", predictor.predict, scan)
    timed("  of that the networks", lambda image: list(predictor.segment(image, 1.0)), in_range(scan.image))
    timed(
      "  of that OOD checks",
      ood.warnings,
      scan.image[..., predictor.decision.info.reference_index],
      predictor.decision.profile,
    )
    timed("mask", nifti.write, scan, output / study.name, found.mask, {}, algorithm=Algorithm("benchmark"))
    timed("overlays, contact sheet", overlays.save, output / study.name, found)
    timed("numbers", describe, found)
  return taken


def measure_memory(source: pathlib.Path, work: pathlib.Path, count: int, options: tuple) -> tuple[float, ...]:
  """Studies, seconds, peak megabytes, and how many of these came after the first study."""
  from bt_jax.distributed import setup

  setup.prepare()
  few, many = work / "one_study", work / "many_studies"
  originals = sorted(source.iterdir())
  for folder, number in ((few, 1), (many, count)):
    for at in range(number):
      (folder / f"study_{at:04d}").mkdir(parents=True)
      for file in originals[at % len(originals)].iterdir():
        os.link(file, folder / f"study_{at:04d}" / file.name)
  *shape, threshold = options
  predictor = with_threshold(make_predictor(*shape), threshold)
  predict_stream(few, work / "few", predictor)
  before, started = peak(), time.perf_counter()
  predict_stream(many, work / "many", predictor)
  return count, time.perf_counter() - started, peak(), peak() - before


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for name, default in {"size": 128, "width": 8, "studies": 2, "slices": 36, "repeats": 5}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
  parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype of both computations")
  parser.add_argument("--memory", default="8,32", help="numbers of studies to measure the peak for; empty: none")
  args = parser.parse_args()
  timing.pin_threads()
  import jax
  import torch

  from bt_jax.distributed import setup
  from bt_jax.runs import provenance
  from bt_jax.scans import reader

  setup.prepare()
  measuring = timing.measuring(f"jax {jax.__version__}", f"torch {torch.__version__}")
  with measuring, tempfile.TemporaryDirectory() as text:
    work, shape = pathlib.Path(text), (args.size, args.width, args.dtype)
    source, outputs = work / "scans", (work / f"output_{at}" for at in itertools.count())
    for at in range(args.studies):
      write_study(source / f"study_{at:02d}", at, args.slices)
    scans = [reader.read(study) for study in reader.find(source, {})]
    slices = [in_range(scan.image) for scan in scans]
    peer, predictor = Peer(*shape), make_predictor(*shape)
    peer.threshold = float(np.quantile(peer.probability(slices[0]), 1 - MARKED))
    threshold = float(np.quantile(predictor.predict(scans[0]).probability, 1 - MARKED))
    predictor = with_threshold(predictor, threshold)
    rows = {
      "networks": (
        lambda: [list(predictor.segment(one, 1.0)) for one in slices],
        lambda: [peer.probability(one) for one in slices],
      ),
      "scan to mask": (
        lambda: [predictor.predict(scan) for scan in scans],
        lambda: [peer.predict(scan.image) for scan in scans],
      ),
      "files to masks": (
        lambda: one_by_one(source, next(outputs), predictor),
        lambda: peer.stream(source, next(outputs), pictures=False),
      ),
      "files to pictures": (
        lambda: predict_stream(source, next(outputs), predictor),
        lambda: peer.stream(source, next(outputs), pictures=True),
      ),
    }

    def seconds(function: Callable) -> float:
      started = time.perf_counter()
      function()
      return time.perf_counter() - started

    times = [
      [[seconds(side) for side in sides] for sides in rows.values()] for _ in range(args.repeats + 1)
    ]  # the first compiles and warms up
    of_row = dict(zip(rows, np.moveaxis(times[1:], 0, -1), strict=True))  # [side, repeat]
    parts = [measure_parts(source, outputs, predictor) for _ in range(args.repeats)]
    print(
      f"{provenance.devices()}; {args.studies} studies of {args.slices} slices; U-Net of width {args.width} at "
      f"{args.size}x{args.size}, {args.dtype}; slices per second, median of {args.repeats} and quartiles\n"
      f"{'':20}{'ratio':>8}{'bt_jax':>10}{'quartiles':>14}{'PyTorch':>10}{'quartiles':>14}"
    )
    total = args.studies * args.slices
    for name, sides in of_row.items():
      ours, theirs = np.median(sides, axis=1)
      print(f"{name:20}{theirs / ours:8.2f}" + "".join(timing.shown(total / side, 1) for side in sides))
    print(f"\n{'each part of ours alone':27}{'ms a slice':>11}{'quartiles':>14}")
    for name in parts[0]:
      print(f"{name:27}{timing.shown([1000 * part[name] / total for part in parts], width=11)}")
    print(f"{'all of it, in the stream':27}{timing.shown(1000 * sides[0] / total, width=11)}", flush=True)
    if args.memory:
      counts = sorted(map(int, args.memory.split(",")))
      found = [alone(measure_memory, source, work / f"memory_{count}", count, (*shape, threshold)) for count in counts]
      print_block(("studies", "seconds", "MB at peak", "MB after one"), found)


if __name__ == "__main__":
  main()
