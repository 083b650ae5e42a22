"""The pixels of a stack of DICOM frames, decoded and in the unit of their series."""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num

from bt_jax.errors import UserError, one_line
from bt_jax.scans.codestreams import is_whole, promised_size
from bt_jax.scans.dicom.exclusion import excluded
from bt_jax.scans.dicom.geometry import Stack
from bt_jax.scans.dicom.opening import DAMAGED, read_dataset
from bt_jax.scans.dicom.series import Frame
from bt_jax.scans.scan import check_size

_GREY = {"MONOCHROME1", "MONOCHROME2"}

# What decoders raise for damaged pixels, besides what damaged headers raise.
_BROKEN = (*DAMAGED, OSError, RuntimeError)


def decode(stack: Stack) -> Float[np.ndarray, "slices rows columns"]:
  """float32 intensities in the unit of the series; larger values are brighter.

  Pixels that the header declares not to be signal get the value of the darkest signal.

  Raises:
    UserError: the pixels are coloured, damaged, missing, fewer than declared, all without signal, or compressed with no decoder installed.
  """
  rows, columns = stack.frames[0].shape
  check_size((len(stack.frames), rows, columns), f"{stack.series.label} ({stack.frames[0].path})")
  image = np.empty((len(stack.frames), rows, columns), np.float32)
  of_files, outside = collections.defaultdict(list), {}
  for index, frame in enumerate(stack.frames):
    of_files[frame.path].append((index, frame))
  for path, frames in of_files.items():
    values, excluded = _values(path, [frame for _, frame in frames])
    for row, (index, _) in enumerate(frames):
      image[index] = values[row]
      if excluded is not None:
        outside[index] = excluded[row]
  if outside:
    signal = np.stack([~outside.get(index, np.zeros((rows, columns), bool)) for index in range(len(image))])
    if not signal.any():
      raise UserError(
        f"{stack.series.label} holds nothing but padding by its header ({stack.frames[0].path}): leave it out"
      )
    np.copyto(image, image.min(where=signal, initial=np.inf), where=~signal)
  return image


def _values(
  path: pathlib.Path, frames: Sequence[Frame]
) -> tuple[Float[np.ndarray, "frames rows columns"], Bool[np.ndarray, "frames rows columns"] | None]:
  """Some frames of a file in the unit of their series, and where they are not signal."""
  import pydicom

  if is_coloured(frames[0]):
    kind = frames[0].about["PhotometricInterpretation"]
    raise UserError(f"{path} is a coloured image ({kind}), expected grey MR slices: leave it out")
  syntax = ""
  try:
    dataset = read_dataset(path)
    syntax = _transfer_syntax(dataset)
    cells = _cells(dataset, frames[0])
    numbers = [max(frame.number - 1, 0) for frame in frames]
    stored = _meaning(dataset, cells)
    outside = excluded(dataset, cells, stored, path)
    scaled = _scaled(dataset, stored[numbers], frames)
    return scaled, None if outside is None else outside[numbers]
  except UserError:
    raise
  except MemoryError as error:
    raise UserError(f"{path} declares more pixels than memory holds: correct its header") from error
  except (pydicom.errors.BytesLengthException, *_BROKEN) as error:
    raise UserError(f"{path} {_reason(error, syntax)}") from error


def _cells(dataset: Any, frame: Frame) -> Num[np.ndarray, "frames rows columns"]:
  """All frames of a file as they are stored, with all bits."""
  _check_frames(dataset, frame)
  dataset.pixel_array_options(**({} if _is_corrected(dataset) else {"correct_unused_bits": False}))
  cells = dataset.pixel_array.reshape(-1, *frame.shape)
  if len(cells) != int(frame.numbers["NumberOfFrames"] or 1):
    raise ValueError(f"{len(cells)} frames, {frame.numbers['NumberOfFrames']:g} declared")
  return cells


def _is_corrected(dataset: Any) -> bool:
  """Whether the file is JPEG 2000 or JPEG-LS, whose codestreams state how many bits they have."""
  from pydicom import uid

  return dataset.file_meta.TransferSyntaxUID in {*uid.JPEG2000TransferSyntaxes, *uid.JPEGLSTransferSyntaxes}


def _meaning(dataset: Any, cells: Num[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
  """The numbers in the bits from HighBit downwards, with their sign; other bits are ignored (PS3.5, 8.1.1)."""
  if cells.dtype.kind == "f":
    return cells
  width, stored = 8 * cells.dtype.itemsize, int(dataset.BitsStored)
  high = int(dataset.get("HighBit", stored - 1))
  if not 1 <= stored <= high + 1 <= int(dataset.BitsAllocated) <= max(width, 8):
    raise ValueError(f"BitsStored {stored} and HighBit {high} do not fit in BitsAllocated {dataset.BitsAllocated}")
  compressed = (
    dataset.file_meta.TransferSyntaxUID.is_compressed and "RLE" not in dataset.file_meta.TransferSyntaxUID.name
  )
  if compressed and high != stored - 1:
    raise ValueError(f"HighBit {high}, expected {stored - 1} in a compressed image")
  if _is_corrected(dataset) or stored == width or dataset.BitsAllocated == 1:
    return cells
  return (cells << (width - 1 - high)) >> (width - stored)  # >> repeats the sign bit of signed cells


def _scaled(dataset: Any, stored: Num[np.ndarray, "..."], frames: Sequence[Frame]) -> Float[np.ndarray, "..."]:
  """Applies the Modality LUT, or slope and intercept; MONOCHROME1, where low values are bright, is inverted."""
  from pydicom.pixels import apply_modality_lut

  turned = frames[0].about["PhotometricInterpretation"] == "MONOCHROME1"
  if dataset.get("ModalityLUTSequence"):
    values = apply_modality_lut(stored, dataset).astype(np.float64)
    bits = int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])
    return 2**bits - 1 - values if turned else values
  if turned and stored.dtype.kind == "f":
    stored = -stored
  elif turned:  # inverted within the range of the stored bits
    ends = 2 ** int(dataset.BitsStored) - 1 if dataset.PixelRepresentation == 0 else -1  # lowest plus highest value
    stored = ends - stored.astype(np.int64)
  scaled = np.empty(stored.shape, np.float32)
  with np.errstate(over="ignore", invalid="ignore"):  # values that overflow are reported by `Scan`
    for row, frame in enumerate(frames):
      scaled[row] = stored[row] * np.float64(frame.slope) + frame.intercept
  return scaled


def _check_frames(dataset: Any, frame: Frame) -> None:
  """Raises ValueError where a compressed frame is cut short, or has another size than the header says."""
  import imagecodecs
  from pydicom import encaps, uid

  syntax = dataset.file_meta.TransferSyntaxUID
  if syntax not in {*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes, *uid.JPEG2000TransferSyntaxes}:
    return
  expected = (*frame.shape, 1)
  for stream in encaps.generate_frames(dataset.PixelData, number_of_frames=int(frame.numbers["NumberOfFrames"] or 1)):
    if (size := promised_size(stream)) != expected:
      sizes = [" x ".join(map(str, one)) if one else "nothing of the kind" for one in (size, expected)]
      raise ValueError(f"a frame of {sizes[0]} samples, {sizes[1]} declared")
    if not is_whole(stream):
      raise ValueError(f"a frame of {len(stream):,} bytes is cut short")
    if syntax in uid.JPEGLSTransferSyntaxes:
      imagecodecs.jpegls_decode(stream)  # raises where data end early, which not all of pydicom's decoders do


def is_coloured(frame: Frame) -> bool:
  """Whether the header says that pixels are not plain grey."""
  return (frame.numbers["SamplesPerPixel"] or 1) > 1 or frame.about["PhotometricInterpretation"] not in _GREY


def _transfer_syntax(dataset: Any) -> str:
  """The name of the transfer syntax, which is set in the dataset where the file does not state it."""
  from pydicom import uid

  if "TransferSyntaxUID" not in dataset.file_meta:
    implicit, little = dataset.original_encoding
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
  return dataset.file_meta.TransferSyntaxUID.name


def _reason(error: Exception, syntax: str) -> str:
  """What is wrong with the pixels, and the remedy."""
  if "missing dependencies" in str(error):
    return f'is compressed ({syntax}) and no decoder for it is installed: pip install ".[codecs]"'
  remedy = "copy it again" if "Endian" in syntax else "copy it again, or decompress it"
  return f"has pixels that cannot be read ({syntax or 'of unknown encoding'}; {one_line(error)}): {remedy}"
