"""The pixels of a stack of DICOM frames, decoded and in the unit of their series."""

import collections
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from bt_jax.errors import UserError
from bt_jax.scans.dicom.codestreams import promised_size
from bt_jax.scans.dicom.files import DAMAGED, read_dataset
from bt_jax.scans.dicom.geometry import Stack
from bt_jax.scans.dicom.series import Frame
from bt_jax.scans.scan import check_size

_LONGEST = 200  # characters of what a decoder says
_GREY = {"MONOCHROME1", "MONOCHROME2"}

# What decoders raise over damaged pixels, beside what damaged headers raise.
_BROKEN = (*DAMAGED, OSError, RuntimeError)


def decode(stack: Stack) -> Float[np.ndarray, "slices rows columns"]:
  """float32 intensities, slope and intercept applied, bright where the picture is bright.

  Raises:
    UserError: the pixels are coloured, damaged, absent, fewer than told, or compressed without a decoder.
  """
  rows, columns = stack.frames[0].shape
  check_size((len(stack.frames), rows, columns), f"{stack.series.label} ({stack.frames[0].path})")
  image = np.empty((len(stack.frames), rows, columns), np.float32)
  places = collections.defaultdict(list)
  for index, frame in enumerate(stack.frames):
    places[frame.path].append((index, frame))
  for path, placed in places.items():
    stored = _stored(path, placed[0][1])
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is told of by the scan
      for index, frame in placed:
        image[index] = stored[max(frame.number - 1, 0)] * np.float64(frame.slope) + frame.intercept
  return image


def _stored(path: pathlib.Path, frame: Frame) -> Num[np.ndarray, "frames rows columns"]:
  """The values of all frames of a file as they are stored; those of MONOCHROME1, where low is bright, turned over."""
  import pydicom

  kind = frame.about["PhotometricInterpretation"]
  if is_coloured(frame):
    raise UserError(f"{path} is a coloured picture ({kind}), expected grey MR slices: leave it out")
  syntax = ""
  try:
    dataset = read_dataset(path)
    syntax = _transfer_syntax(dataset)
    _check_frames(dataset, frame)
    pixels = dataset.pixel_array.reshape(-1, *frame.shape)
    if len(pixels) != int(frame.numbers["NumberOfFrames"] or 1):
      raise ValueError(f"{len(pixels)} frames found, {frame.numbers['NumberOfFrames']:g} told")
    return _turned(pixels, dataset) if kind == "MONOCHROME1" else pixels
  except MemoryError as error:
    raise UserError(f"{path} promises more pixels than memory holds: mend its header") from error
  except (pydicom.errors.BytesLengthException, *_BROKEN) as error:
    raise UserError(f"{path} {_reason(error, syntax)}") from error


def _turned(pixels: Num[np.ndarray, "frames rows columns"], dataset: Any) -> Num[np.ndarray, "frames rows columns"]:
  """The values with dark and bright exchanged, in the range that they have room in."""
  if pixels.dtype.kind == "f":
    return -pixels
  ends = 2 ** int(dataset.BitsStored) - 1 if dataset.PixelRepresentation == 0 else -1  # lowest and highest added
  return ends - pixels.astype(np.int64)


def _check_frames(dataset: Any, frame: Frame) -> None:
  """Raises ValueError where a compressed frame is of another size than the header says, and could be of any."""
  from pydicom import encaps, uid

  sized = {*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes, *uid.JPEG2000TransferSyntaxes}
  if dataset.file_meta.TransferSyntaxUID not in sized:
    return
  told = (*frame.shape, 1)
  for stream in encaps.generate_frames(dataset.PixelData, number_of_frames=int(frame.numbers["NumberOfFrames"] or 1)):
    if (found := promised_size(stream)) != told:
      sizes = [" x ".join(map(str, size)) if size else "nothing of the kind" for size in (found, told)]
      raise ValueError(f"a frame of {sizes[0]} samples, {sizes[1]} told")


def is_coloured(frame: Frame) -> bool:
  """Whether the header says that pixels are no plain grey."""
  return (frame.numbers["SamplesPerPixel"] or 1) > 1 or frame.about["PhotometricInterpretation"] not in _GREY


def _transfer_syntax(dataset: Any) -> str:
  """The name of the encoding; written into the dataset where the file has no preamble to say it."""
  from pydicom import uid

  if "TransferSyntaxUID" not in dataset.file_meta:
    implicit, little = dataset.original_encoding
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
  return dataset.file_meta.TransferSyntaxUID.name


def _reason(error: Exception, syntax: str) -> str:
  """What is wrong with the pixels, and the cure."""
  text = " ".join((str(error) or type(error).__name__).split())
  if "missing dependencies" in text:
    return f'is compressed ({syntax}) and no decoder for it is installed: pip install ".[codecs]"'
  text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."  # decoders tell stories
  cure = "copy it again" if "Endian" in syntax else "copy it again, or decompress it"
  return f"has pixels that cannot be read ({syntax or 'of unknown encoding'}; {text}): {cure}"
