"""Reads NIfTI volumes as a scan, and writes masks as NIfTI, voxel for voxel."""

import gzip
import io
import pathlib
import zlib
from collections.abc import Collection, Mapping, Sequence

import nibabel
import numpy as np
from jaxtyping import Shaped
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from bt_jax import files as writing
from bt_jax.errors import UserError, one_line
from bt_jax.scans import findings, nifti_geometry, sequences
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.intensities import check_finite, check_range
from bt_jax.scans.nifti_geometry import Source
from bt_jax.scans.scan import (
  NOTICE,
  Maps,
  Mask,
  Scan,
  check_expansion,
  check_size,
  fill_roles,
  from_axial,
  numbered,
  to_axial,
)  # fmt: skip
from bt_jax.schema import CHANNELS

_LARGEST = 2**29  # voxels of all volumes in a file, 2 GiB as float32
_KINDS = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}  # by the header size that a file begins with
_LARGEST_OFFSET = 2**28  # bytes before the voxels
_BLOCK = 2**22
_EXTENSION = 16  # smallest size of an extension in bytes, by the standard
_GZIP = b"\x1f\x8b"
_PLACING = (
  "dim_info", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
  "sform_code", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


def is_nifti(start: bytes) -> bool:
  """Whether an unpacked file begins as NIfTI does; 348 bytes suffice."""
  magic = {348: start[344:347], 540: start[4:7]}.get(_first_number(start), b"")
  return magic in (b"n+1", b"n+2", b"ni1", b"ni2")


def _first_number(start: bytes) -> int:
  """The header size that a file begins with, in either byte order; 0 if it is neither of NIfTI's."""
  return next((size for size in _KINDS for order in ("little", "big") if start[:4] == size.to_bytes(4, order)), 0)


def read(files: Sequence[pathlib.Path], *, name: str, given: Mapping[str, str]) -> Scan:
  """Reads one file, of FLAIR or of three channels, or one file for each role.

  Args:
    files: one file, which is FLAIR where `given` has none.
    name: name of the study.
    given: paths by role; empty where the file may hold three channels.

  Raises:
    UserError: a file is damaged, has another size than it says, or is not a volume; or the files have different grids.
  """
  paths = sequences.by_role(files, given)
  loaded = {role: load(path) for role, path in paths.items()}
  volume, source, _ = loaded["flair"]
  nifti_geometry.check_alike({role: one for role, (_, one, _) in loaded.items()}, paths)
  volumes = {role: one for role, (one, *_) in loaded.items()}
  by_role, origins, alike = (
    sequences.one_each(volumes, paths) if given else sequences.by_channel(volume, paths["flair"])
  )
  channels, origins, warnings = fill_roles(by_role, origins, name)
  try:
    image = np.ascontiguousarray(to_axial(channels, source.affine))
  except UserError:
    raise UserError(
      f"{paths['flair']} has an affine that places no volume: correct its header, or convert it again"
    ) from None
  spacing, sizes = nifti_geometry.spacing(source, image.shape[:3], paths["flair"])
  warnings += alike + sizes + nifti_geometry.warnings(source, spacing, paths["flair"])
  warnings += [sentence for *_, sentences in loaded.values() for sentence in sentences]
  names = numbered(len(image))
  role, _ = sequences.in_name(sequences.stem(paths["flair"]))
  ood_warnings = (
    [] if role in (None, "flair") else [f"{paths['flair'].name} is taken as FLAIR, though its name speaks of {role}"]
  )
  return Scan(
    name, "nifti", image, spacing, origins, names, warnings, source=source, ood_warnings=ood_warnings,
    affine=nifti_geometry.placed(source),
  )  # fmt: skip


def load(
  path: pathlib.Path, *, channels: Collection[int] = (1, len(CHANNELS)), flat: bool = False
) -> tuple[Shaped[np.ndarray, "x y z channels"], Source, list[str]]:
  """The values of a file, its geometry, and what nibabel logged about it, a sentence each.

  Args:
    path: the file.
    channels: how many channels it may have.
    flat: whether all voxels may have one value, as in an empty mask.

  Raises:
    UserError: the file is damaged, has another size than it says, or is not such a volume.
  """
  try:
    with findings.kept() as messages, open(path, "rb") as file:
      packed = file.read(2) == _GZIP
      file.seek(0)
      with gzip.open(file) if packed else file as stream:
        kind, content = _content(stream, path, packed, channels)
      image = kind.from_stream(content)
      values, affine = _values(image), image.affine
  except UserError:
    raise
  except (gzip.BadGzipFile, zlib.error, EOFError) as error:
    raise UserError(f"{path} is damaged or truncated ({one_line(error)}): copy it again") from error
  except (ImageFileError, HeaderDataError, WrapStructError, ValueError, OverflowError) as error:
    raise UserError(f"{path} has a header that makes no sense ({one_line(error)}): convert it again") from error
  check_finite(values, path)
  if not flat:
    check_range(values, path)
  affine = nifti_geometry.in_mm(affine, image.header)
  source = Source(kind, image.header, affine, image.shape[:3], ".nii.gz" if packed else ".nii")
  return values, source, findings.sentences(path.name, messages)


def _content(
  stream: io.BufferedIOBase, path: pathlib.Path, packed: bool, channels: Collection[int]
) -> tuple[type, io.BytesIO]:
  """The class of a file, and as many of its bytes as its header declares.

  The stream is read to its end, where gzip verifies its checksum, and never more than one byte beyond what the header
  declares. Data after the voxels are refused: the header is wrong about either the size or the start of the voxels.
  """
  start = stream.read(max(_KINDS))
  if not start:
    raise UserError(f"{path} is empty: copy it again")
  if not is_nifti(start):
    raise UserError(f"{path} is not a NIfTI file, or damaged: convert it to .nii.gz, or copy it again")
  kind = _KINDS[_first_number(start)]
  header = kind.header_class(start[: kind.header_class.sizeof_hdr])
  _check(header, path, channels)
  shape, offset = header.get_data_shape(), _offset(header, path)
  promised = int(offset + np.prod(shape, dtype=float) * header.get_data_dtype().itemsize)
  if packed:
    check_expansion(promised, path)
  content = io.BytesIO()
  content.write(start[:promised])
  while content.tell() < promised and (block := stream.read(min(_BLOCK, promised - content.tell()))):
    content.write(block)
  if content.tell() < promised:
    raise UserError(
      f"{path} is truncated ({content.tell():,} of {promised:,} bytes for {_size(shape)} voxels): copy it again"
    )
  if start[promised:] or stream.read(1):
    raise UserError(
      f"{path} has data after its {_size(shape)} voxels of {header.get_data_dtype()}: size, type or vox_offset in its "
      "header is wrong, or two files were joined: convert it again"
    )
  _check_extensions(content.getbuffer(), header, offset, path)
  _write_header(content, header, offset)
  content.seek(0)
  return kind, content


def _offset(header: nibabel.Nifti1Header, path: pathlib.Path) -> int:
  """The byte at which the voxels begin: vox_offset, or the end of the header where that is 0."""
  stated, least = float(header["vox_offset"]), header.single_vox_offset
  if stated == 0:
    return least
  if not least <= stated <= _LARGEST_OFFSET or stated % 1:
    raise UserError(
      f"{path} says that its voxels begin at byte {stated:g} (vox_offset), expected {least} or a little more: convert it again"
    )
  return int(stated)


def _check_extensions(content: memoryview, header: nibabel.Nifti1Header, offset: int, path: pathlib.Path) -> None:
  """Raises UserError where an extension of the header reaches into the voxels."""
  position = header.single_vox_offset
  if not content[position - 4]:
    return
  order = "little" if header.endianness == "<" else "big"
  while offset - position >= _EXTENSION:
    size = int.from_bytes(content[position : position + 4], order, signed=True)
    if size < _EXTENSION or size > offset - position:
      raise UserError(
        f"{path} has an extension of {size} bytes in its header, and voxels that begin {offset - position} bytes after its start: "
        "one of the two is wrong: convert it again"
      )
    position += size


def _write_header(content: io.BytesIO, header: nibabel.Nifti1Header, offset: int) -> None:
  """Writes the header before the voxels, with their offset and without extensions, which masks do not keep."""
  header["vox_offset"] = offset
  content.seek(0)
  content.write(header.binaryblock + bytes(4))


def _check(header: nibabel.Nifti1Header, path: pathlib.Path, expected: Collection[int]) -> None:
  """Raises UserError unless the header describes one volume with an expected number of channels."""
  shape, dtype = header.get_data_shape(), header.get_data_dtype()
  if header["magic"].item() != header.single_magic:
    raise UserError(f"{path} is a header whose voxels are in another file (.img): convert both to .nii.gz")
  if len(shape) < 2 or min(shape) < 1:
    raise UserError(f"{path} is {_size(shape) or 'no'} voxels, expected a volume: convert it again")
  check_size(shape[:3], path)
  if np.prod(shape, dtype=float) > _LARGEST:
    raise UserError(f"{path} says it is {_size(shape)} voxels, larger than any MRI: is it damaged?")
  if dtype.kind == "c":
    raise UserError(f"{path} holds complex numbers, expected magnitudes: convert it")
  channels = _channels(header)
  if len(channels) > 1 or channels[0] not in expected:
    if len(CHANNELS) not in expected:
      numbers = " or ".join(map(str, expected))
      raise UserError(
        f"{path} is {_size(shape)} voxels, expected a volume of {numbers} channel{'s' * (numbers != '1')}"
      )
    raise UserError(
      f"{path} is {_size(shape)} voxels, a series, expected one volume or three (pre, FLAIR, post): "
      "split it and name the files as pre, flair and post",
      *CHANNELS,
    )


def _channels(header: nibabel.Nifti1Header) -> list[int]:
  """The sizes of the axes after the three of space, except 1; colours count as three; [1] where there are none."""
  colours = [3] if header.get_data_dtype().names else []
  return [size for size in [*header.get_data_shape()[3:], *colours] if size > 1] or [1]


def _values(image: nibabel.Nifti1Image) -> Shaped[np.ndarray, "x y z channels"]:
  if image.get_data_dtype().names:
    pixels = image.dataobj.get_unscaled()
    values = np.stack([pixels[name] for name in "RGB"], axis=-1)
  else:
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is reported as not finite
      values = image.get_fdata(dtype=np.float32, caching="unchanged")
  return values.reshape(*(*image.shape, 1)[:3], *_channels(image.header))


def _size(shape: Sequence[int]) -> str:
  return " x ".join(map(str, shape))


def write(
  scan: Scan,
  folder: pathlib.Path,
  mask: Mask,
  maps: Maps,
  *,
  algorithm: Algorithm,
  classes: Mapping[int, str] | None = None,
) -> list[pathlib.Path]:
  """Writes `mask.nii.gz` (or `.nii`, as the input) of 0 and 1, or of labels, and each map, such as `probability.nii.gz`, on the input's own grid.

  Args:
    scan: a scan from `read`.
    folder: folder for the files.
    mask: mask on the grid of `scan.image`.
    maps: further values by name, such as `probability`.
    algorithm: what made the mask; its origin stands in the headers.
    classes: the name of each label; not written, as NIfTI has no place for them.

  Returns:
    The files.
  """
  arrays = {"mask": mask.astype(np.uint8), **maps}
  return [
    writing.write_bytes(folder / f"{name}{scan.source.suffix}", packed(array, scan.source, algorithm.origin))
    for name, array in arrays.items()
  ]


def packed(array: Shaped[np.ndarray, "slices height width"], source: Source, origin: str) -> bytes:
  """The bytes of a file with an axial volume on the grid of `source`; `origin` says what made it, in its header."""
  own = from_axial(array, source.affine).reshape(source.shape)
  # Only the geometry of the header is kept: scale, intent and texts belong to the image.
  header = source.kind.header_class()
  for field in _PLACING:
    header[field] = source.header[field]
  header.set_data_shape(own.shape)
  header.set_data_dtype(own.dtype)
  header["pixdim"][:4] = source.header["pixdim"][:4]
  header["xyzt_units"] = source.header["xyzt_units"] % 8
  header["descrip"] = f"{NOTICE} {origin}".encode("ascii", "replace")[:79]
  content = source.kind(np.asanyarray(own), None, header).to_bytes()
  return gzip.compress(content, compresslevel=6, mtime=0) if source.suffix.endswith(".gz") else content
