"""NIfTI volumes to a scan, and masks back to NIfTI, voxel for voxel."""

import gzip
import io
import logging
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import nibabel
import numpy as np
from jaxtyping import Bool, Float, Shaped
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from bt_jax import files as writing
from bt_jax.errors import UserError
from bt_jax.scans import roles
from bt_jax.scans.scan import NOTICE, Scan, axial_spacing, check_size, fill_roles, from_axial, to_axial

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # of a broken file, one line is said

_LARGEST = 2**29  # voxels of all volumes in a file, 2 GiB as float32
_KINDS = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}  # by the size that a header begins with
_TO_MM = {1: 1000.0, 3: 0.001}  # metres and microns, by the lower three bits of the header's units
_COARSE = 2.0  # voxels this many times as long as wide are those of slices
_LARGEST_OFFSET = 2**28  # bytes before the voxels
_BLOCK = 2**22
_GZIP = b"\x1f\x8b"
_TOLERANCE_MM = 1e-3
_PLACING = (
  "dim_info", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
  "sform_code", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


class Source(NamedTuple):
  """What a mask needs to lie as FLAIR does: its class, header, affine in mm, shape without channels, and `.nii` or `.nii.gz`."""

  kind: type
  header: nibabel.Nifti1Header
  affine: Float[np.ndarray, "4 4"]
  shape: tuple[int, ...]
  suffix: str


def is_nifti(start: bytes) -> bool:
  """Whether a file, unpacked, begins as NIfTI does; 348 bytes suffice."""
  magic = {348: start[344:347], 540: start[4:7]}.get(_first_number(start), b"")
  return magic in (b"n+1", b"n+2", b"ni1", b"ni2")


def _first_number(start: bytes) -> int:
  """The size of the header, in either order of bytes."""
  return next((size for size in _KINDS for order in ("little", "big") if start[:4] == size.to_bytes(4, order)), 0)


def read(files: Sequence[pathlib.Path], *, name: str, given: Mapping[str, str]) -> Scan:
  """Reads one file, of FLAIR or of three channels, or a file of each role.

  Args:
    files: one, of FLAIR where `given` has none.
    name: of the study.
    given: paths by role; empty where the file may hold three channels.

  Raises:
    UserError: a file is damaged, lies about its size, or is no volume; or they do not lie alike.
  """
  paths = roles.by_role(files, given)
  loaded = {role: _load(path) for role, path in paths.items()}
  volume, source = loaded["flair"]
  _check_alike(loaded, paths)
  volumes = {role: one for role, (one, _) in loaded.items()}
  found, told, odd = roles.one_each(volumes, paths) if given else roles.by_place(volume, paths["flair"])
  channels, told, warnings = fill_roles(found, told, name)
  try:
    image = np.ascontiguousarray(to_axial(channels, source.affine))
  except UserError as error:
    raise UserError(
      f"{paths['flair']} has an affine that places no volume: mend its header, or convert it again"
    ) from error
  spacing = axial_spacing(source.affine)
  warnings += odd + _warnings(source, spacing)
  names = [f"{index:04d}" for index in range(len(image))]
  role, _ = roles.in_name(roles.stem(paths["flair"]))
  oddities = (
    [] if role in (None, "flair") else [f"{paths['flair'].name} is taken as FLAIR, though its name speaks of {role}"]
  )
  return Scan(name, "nifti", image, spacing, told, names, warnings, source=source, oddities=oddities)


def _check_alike(loaded: Mapping[str, tuple[np.ndarray, Source]], paths: Mapping[str, pathlib.Path]) -> None:
  flair = loaded["flair"][1]
  for role, (_, source) in loaded.items():
    if source.shape != flair.shape:
      what = f"{_size(source.shape)} voxels and {paths['flair']} {_size(flair.shape)}"
    elif not np.allclose(source.affine, flair.affine, rtol=0, atol=_TOLERANCE_MM):
      what = f"another affine than {paths['flair']}"
    else:
      continue
    raise UserError(f"{paths[role]} has {what}: register and resample it to FLAIR before")


def _warnings(source: Source, spacing: tuple[float, float, float]) -> list[str]:
  warnings = []
  if not (source.header["qform_code"] or source.header["sform_code"]):
    warnings.append("the file does not say how the head lies: its axes are taken as left, front and head")
  if max(spacing) > _COARSE * min(spacing) and spacing[0] < max(spacing):
    plane = "coronally" if spacing[1] == max(spacing) else "sagittally"
    warnings.append(f"the slices were taken {plane}: the axial plane, which the networks know, is coarse")
  return warnings


def _load(path: pathlib.Path) -> tuple[Shaped[np.ndarray, "x y z channels"], Source]:
  try:
    with open(path, "rb") as file:
      packed = file.read(2) == _GZIP
      file.seek(0)
      with gzip.open(file) if packed else file as stream:
        kind, content = _content(stream, path)
    image = kind.from_stream(content)
    values, affine = _values(image), image.affine
  except (gzip.BadGzipFile, zlib.error, EOFError) as error:
    raise UserError(f"{path} is damaged or truncated ({error}): copy it again") from error
  except (ImageFileError, HeaderDataError, WrapStructError, ValueError, OverflowError) as error:
    raise UserError(
      f"{path} has a header that makes no sense ({' '.join(str(error).split())}): convert it again"
    ) from error
  affine = np.diag([_TO_MM.get(int(image.header["xyzt_units"]) % 8, 1.0)] * 3 + [1.0]) @ affine
  return values, Source(kind, image.header, affine, image.shape[:3], ".nii.gz" if packed else ".nii")


def _content(stream: io.BufferedIOBase, path: pathlib.Path) -> tuple[type, io.BytesIO]:
  """The class of a file and as many of its bytes as its header promises; a bomb or a lie does not make them more."""
  start = stream.read(max(_KINDS))
  if not start:
    raise UserError(f"{path} is empty: copy it again")
  if not is_nifti(start):
    raise UserError(f"{path} is no NIfTI file, or damaged: convert it to .nii.gz, or copy it again")
  kind = _KINDS[_first_number(start)]
  header = kind.header_class.from_fileobj(io.BytesIO(start))
  _check(header, path)
  shape = header.get_data_shape()
  promised = int(header.get_data_offset() + np.prod(shape, dtype=float) * header.get_data_dtype().itemsize)
  content = io.BytesIO()
  content.write(start)
  while content.tell() < promised and (block := stream.read(min(_BLOCK, promised - content.tell()))):
    content.write(block)
  if content.tell() < promised:
    raise UserError(
      f"{path} is truncated ({content.tell():,} of {promised:,} bytes for {_size(shape)} voxels): copy it again"
    )
  content.seek(0)
  return kind, content


def _check(header: nibabel.Nifti1Header, path: pathlib.Path) -> None:
  """Whether this is one volume of one or three channels, by the header alone."""
  shape, dtype = header.get_data_shape(), header.get_data_dtype()
  if header["magic"].item() != header.single_magic:
    raise UserError(f"{path} is a header whose voxels are in another file (.img): convert both to .nii.gz")
  if len(shape) < 2 or min(shape) < 1:
    raise UserError(f"{path} is {_size(shape) or 'no'} voxels, expected a volume: convert it again")
  check_size(shape[:3], path)
  if np.prod(shape, dtype=float) > _LARGEST or header.get_data_offset() > _LARGEST_OFFSET:
    raise UserError(f"{path} says it is {_size(shape)} voxels, larger than any MRI: is it damaged?")
  if dtype.kind == "c":
    raise UserError(f"{path} holds complex numbers, expected magnitudes: convert it to them")
  channels = _channels(header)
  if len(channels) > 1 or channels[0] not in (1, 3):
    raise UserError(
      f"{path} is {_size(shape)} voxels, a series, expected one volume or three (pre, FLAIR, post): "
      "split it and name the files with --pre, --flair and --post"
    )


def _channels(header: nibabel.Nifti1Header) -> list[int]:
  """The sizes beyond space that are not 1; colours count as three; [1] where there is none."""
  colours = [3] if header.get_data_dtype().names else []
  return [size for size in [*header.get_data_shape()[3:], *colours] if size > 1] or [1]


def _values(image: nibabel.Nifti1Image) -> Shaped[np.ndarray, "x y z channels"]:
  if image.get_data_dtype().names:
    pixels = image.dataobj.get_unscaled()
    values = np.stack([pixels[name] for name in "RGB"], axis=-1)
  else:
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is told as not finite
      values = image.get_fdata(dtype=np.float32, caching="unchanged")
  return values.reshape(*(*image.shape, 1)[:3], *_channels(image.header))


def _size(shape: Sequence[int]) -> str:
  return " x ".join(map(str, shape))


def write(
  scan: Scan,
  folder: pathlib.Path,
  mask: Bool[np.ndarray, "slices height width"],
  probability: Float[np.ndarray, "slices height width"] | None,
  *,
  software: str,
) -> list[pathlib.Path]:
  """Writes `mask.nii.gz` (or `.nii`, as the input) of 0 and 1 and, if wanted, `probability.nii.gz`, on the input's own grid.

  Args:
    scan: what `read` made.
    folder: for the files.
    mask: of the slices of `scan.image`.
    probability: in 0..1.
    software: what made them, for the headers.

  Returns:
    The files.
  """
  arrays = {"mask": mask.astype(np.uint8)} | ({} if probability is None else {"probability": probability})
  return [
    writing.write_bytes(folder / f"{name}{scan.source.suffix}", _packed(array, scan.source, software))
    for name, array in arrays.items()
  ]


def _packed(array: np.ndarray, source: Source, software: str) -> bytes:
  own = from_axial(array, source.affine).reshape(source.shape)
  # Only what places the voxels is kept of the header: scale, intent and words are of the image.
  header = source.kind.header_class()
  for field in _PLACING:
    header[field] = source.header[field]
  header.set_data_shape(own.shape)
  header.set_data_dtype(own.dtype)
  header["pixdim"][:4] = source.header["pixdim"][:4]
  header["xyzt_units"] = source.header["xyzt_units"] % 8
  header["descrip"] = f"{NOTICE} {software}".encode("ascii", "replace")[:79]
  content = source.kind(np.asanyarray(own), None, header).to_bytes()
  return gzip.compress(content, compresslevel=6, mtime=0) if source.suffix.endswith(".gz") else content
