"""What the header of a DICOM file says its stored numbers mean."""

import struct

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from bt_jax.scans import reader
from bt_jax.schema import CHANNELS
from tests.helpers import refusals
from tests.helpers.scanners import AXIAL, BUNDLED, FLAIR, WRITERS, distinct, write_series

SHAPE = AXIAL.shape


def read(path):
  (study,) = reader.find(path, {})
  return reader.read(study)


def flair(path):
  return read(path).image[..., CHANNELS.index("flair")]


def refused(path, *words):
  refusals.refused(lambda: read(path), *words)


def bordered(border, dtype=np.int16, seed=0):
  """Values of 40 and more, and a border of one pixel of another."""
  values = (distinct(SHAPE, seed) + 40).astype(dtype)
  inside = np.zeros(SHAPE, bool)
  inside[:, 1:-1, 1:-1] = True
  return np.where(inside, values, border).astype(dtype), inside


def pad(value, limit=None, vr="SS"):
  def edit(data, index):
    if "Rows" in data or index < 0:
      data.add_new("PixelPaddingValue", vr, value)
      if limit is not None:
        data.add_new("PixelPaddingRangeLimit", vr, limit)

  return edit


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("value", [-1, -100, -32768, 32767])
def test_padding_is_as_dark_as_the_darkest_signal(tmp_path, writer, value):
  values, inside = bordered(value)
  writer(tmp_path, values, edit=pad(value))
  image, lowest = flair(tmp_path), values[inside].min()
  np.testing.assert_array_equal(image, np.where(inside, values, lowest))


def test_a_range_of_padding_counts_both_ends_in_either_order(tmp_path):
  values, inside = bordered(-5)
  values[:, 0], values[:, -1] = -9, -7  # a part of the border
  for name, ends in (("up", (-9, -5)), ("down", (-5, -9))):
    write_series(tmp_path / name, values, edit=pad(*ends))
    np.testing.assert_array_equal(flair(tmp_path / name), np.where(inside, values, values[inside].min()))
  write_series(tmp_path / "no value", values, edit=lambda data, _: data.add_new("PixelPaddingRangeLimit", "SS", -5))
  np.testing.assert_array_equal(flair(tmp_path / "no value"), values)  # a limit alone says nothing


def test_padding_written_with_the_wrong_sign_is_the_same_bits(tmp_path):
  values, inside = bordered(-2000)
  write_series(tmp_path, values, edit=pad(2**16 - 2000, vr="US"))
  np.testing.assert_array_equal(flair(tmp_path), np.where(inside, values, values[inside].min()))


def test_padding_beyond_the_stored_bits_is_no_zero(tmp_path):
  values, inside = bordered(-32768)
  values[0, 3, 3] = 0  # what the lower 12 bits of -32768 would be

  def edit(data, index):
    pad(-32768)(data, index)
    data.BitsStored, data.HighBit = 12, 11

  write_series(tmp_path, values, edit=edit)
  np.testing.assert_array_equal(flair(tmp_path), np.where(inside, values, 0))


def test_padding_is_known_before_slope_and_turning_over(tmp_path):
  values, inside = bordered(-7)

  def scale(data, index):
    pad(-7)(data, index)
    data.RescaleSlope, data.RescaleIntercept, data.PhotometricInterpretation = 2, 1000, "MONOCHROME1"

  write_series(tmp_path, values, edit=scale)
  turned = (-1 - values.astype(int)) * 2 + 1000
  np.testing.assert_array_equal(flair(tmp_path), np.where(inside, turned, turned[inside].min()))


def test_nothing_but_padding_is_refused(tmp_path):
  write_series(tmp_path, bordered(-7)[0], edit=pad(-32768, 32767))
  refused(tmp_path, "nothing but padding", FLAIR)


def test_what_a_display_shutter_hides_is_no_signal(tmp_path):
  values = distinct(SHAPE) + 1

  def rectangle(data, index):  # rows 3 to 5 and columns 2 to 8, counted from 1, are within
    data.ShutterShape = "RECTANGULAR"
    data.ShutterUpperHorizontalEdge, data.ShutterLowerHorizontalEdge = 2, 6
    data.ShutterLeftVerticalEdge, data.ShutterRightVerticalEdge = 1, 9

  def circle(data, index):
    data.ShutterShape, data.CenterOfCircularShutter, data.RadiusOfCircularShutter = "CIRCULAR", [4, 5], 2

  rows, columns = np.mgrid[1:8, 1:10]
  within = {
    "rectangle": (rows > 2) & (rows < 6) & (columns > 1) & (columns < 9),
    "circle": (rows - 4) ** 2 + (columns - 5) ** 2 <= 4,
  }
  for name, edit in (("rectangle", rectangle), ("circle", circle)):
    write_series(tmp_path / name, values.astype(np.uint16), edit=edit)
    signal = np.broadcast_to(within[name], SHAPE)
    np.testing.assert_array_equal(flair(tmp_path / name), np.where(signal, values, values[signal].min()))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (12, 13), (10, 9), (16, 15)])
def test_stored_bits_are_read_where_they_lie_whatever_the_others_hold(tmp_path, dtype, stored, high):
  rng = np.random.default_rng(stored)
  low, shift = (-(2 ** (stored - 1)) if dtype is np.int16 else 0), high + 1 - stored
  values = rng.integers(low, low + 2**stored, SHAPE)
  noise = rng.integers(0, 2**16, SHAPE) & ~((2**stored - 1) << shift)  # in the bits that are not stored
  cells = (((values << shift) & ((2**stored - 1) << shift)) | noise).astype(np.uint16).view(dtype)

  def edit(data, index):
    data.BitsStored, data.HighBit = stored, high

  write_series(tmp_path, cells, edit=edit)
  np.testing.assert_array_equal(flair(tmp_path), values)


@pytest.mark.parametrize(("stored", "high"), [(12, 5), (12, 16), (0, 0), (17, 16)])
def test_bits_that_there_are_not_are_refused_by_name(tmp_path, stored, high):
  def edit(data, index):
    data.BitsStored, data.HighBit = stored, high

  write_series(tmp_path, distinct(SHAPE), edit=edit)
  refused(tmp_path, "Bits")


def test_a_modality_lut_is_looked_up(tmp_path):
  values = distinct(SHAPE)
  table = np.random.default_rng(1).integers(0, 2**16, 200)

  def edit(data, index):
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [200, 50, 16], "US"
    lut.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    data.ModalityLUTSequence = [lut]

  write_series(tmp_path, values, edit=edit)
  np.testing.assert_array_equal(flair(tmp_path), table[np.clip(values.astype(int) - 50, 0, 199)])


def rewrite(path, keyword, change):
  """Changes the bytes of one attribute of text: its value, and the type it is called by."""
  tag = struct.pack("<2H", *divmod(pydicom.datadict.tag_for_keyword(keyword), 2**16))
  content = path.read_bytes()
  start = content.index(tag + b"DS")
  (length,) = struct.unpack_from("<H", content, start + 6)
  vr, value = change(content[start + 8 : start + 8 + length])
  value += b" " * (len(value) % 2)
  long = struct.pack("<2xI", len(value)) if vr in (b"UT", b"UN", b"UC") else struct.pack("<H", len(value))
  path.write_bytes(content[:start] + tag + vr + long + value + content[start + 8 + length :])


@pytest.mark.parametrize(
  "keyword", ["PixelSpacing", "ImagePositionPatient", "SliceThickness", "ImageOrientationPatient"]
)
@pytest.mark.parametrize("kind", ["UT", "UN", "LO", "comma"])
def test_numbers_are_read_whatever_type_and_decimal_sign_they_are_written_with(tmp_path, keyword, kind):
  for path in write_series(tmp_path / "as it is", distinct(SHAPE)) and write_series(tmp_path / kind, distinct(SHAPE)):
    rewrite(path, keyword, lambda text: (b"DS", text.replace(b".", b",")) if kind == "comma" else (kind.encode(), text))
  one, other = read(tmp_path / kind), read(tmp_path / "as it is")
  np.testing.assert_array_equal(one.image, other.image)
  assert one.spacing_mm == other.spacing_mm == AXIAL.spacing
  np.testing.assert_array_equal(one.source.affine, other.source.affine)


@pytest.mark.parametrize(
  ("keyword", "text"),
  [("PixelSpacing", b"0.9 mm\\1"), ("PixelSpacing", b"1,234.5\\1"), ("ImagePositionPatient", b"a\\b\\c"),
   ("PixelSpacing", b"nan\\1"), ("SliceThickness", b"thick")],
)  # fmt: skip
def test_what_is_no_number_is_named(tmp_path, keyword, text):
  path = write_series(tmp_path, distinct(SHAPE))[1]
  rewrite(path, keyword, lambda _: (b"UT", text))
  refused(tmp_path, path.name, f"has {keyword}", text.decode().split("\\")[0], "not a number")


def test_too_few_numbers_are_counted(tmp_path):
  path = write_series(tmp_path, distinct(SHAPE))[1]
  rewrite(path, "PixelSpacing", lambda _: (b"DS", b"0.9"))
  refused(tmp_path, path.name, "PixelSpacing of 1 numbers, expected 2")


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"])
def test_what_is_missing_is_called_missing(tmp_path, keyword):
  write_series(tmp_path, distinct(SHAPE), edit=lambda data, _: delattr(data, keyword))
  scan = read(tmp_path)
  assert scan.spacing_mm is None and any(f"lacks {keyword}" in warning for warning in scan.warnings)


@pytest.mark.parametrize(
  ("keyword", "value"),
  [
    ("PixelSpacing", [0.0009, 0.0009]),  # metres called mm
    ("PixelSpacing", [900, 900]),  # microns
    ("PixelSpacing", [0, 0]),
    ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0]),
    ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
    ("ImagePositionPatient", [0, 0, 1e6]),
  ],
)
def test_numbers_that_no_head_has_are_refused(tmp_path, keyword, value):
  write_series(tmp_path, distinct(SHAPE), edit=lambda data, _: setattr(data, keyword, value))
  refused(tmp_path, keyword)


@pytest.mark.parametrize("factor", [1e-3, 1e2])
def test_a_distance_between_slices_that_no_head_has_is_refused(tmp_path, factor):
  grid = AXIAL._replace(spacing=(4.0 * factor, 1.3, 0.9))
  write_series(tmp_path, distinct(SHAPE), grid)
  refused(tmp_path, FLAIR)


def test_a_field_of_view_of_less_than_a_head_is_reported():
  scan = read(BUNDLED / "MR_small.dcm")  # 64 x 0.3125 mm
  assert scan.spacing_mm is None and any("a field of view of 20 mm" in warning for warning in scan.warnings)


def by_its_type(data, _):
  data.ImageType = ["ORIGINAL", "PRIMARY", "MOSAIC"]


def by_its_private_group(data, _):
  data.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 36)


@pytest.mark.parametrize("edit", [by_its_type, by_its_private_group])
def test_a_mosaic_is_refused_for_what_it_is(edit, tmp_path):
  write_series(tmp_path, distinct(SHAPE), edit=edit)
  refused(tmp_path, "mosaic", "dcm2niix")


def test_another_maker_may_have_anything_there(tmp_path):
  write_series(
    tmp_path,
    distinct(SHAPE),
    edit=lambda data, _: data.private_block(0x0019, "ACME", create=True).add_new(0x0A, "US", 36),
  )
  assert read(tmp_path).image.shape[:3] == SHAPE


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_map_of_a_few_whole_numbers_is_no_flair(tmp_path, writer):
  labels = (distinct(SHAPE) % 4).astype(np.uint16)
  writer(tmp_path, labels)
  refused(tmp_path, "only 4 whole numbers (0, 1, 2, 3)", "map of labels")


def test_a_flat_range_of_intensities_is_reported(tmp_path):
  grid = AXIAL._replace(shape=(5, 70, 90))
  values = np.zeros(grid.shape, np.uint16)
  values[2, 3, :20] = np.arange(300, 320)  # 20 of 31,500
  write_series(tmp_path, values, grid)
  assert any("99.94% of the voxels of FLAIR have one value" in said for said in read(tmp_path).ood_warnings)
