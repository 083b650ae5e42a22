import io
import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from bt_jax.errors import UserError
from bt_jax.scans import raster
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.scan import NOTICE
from bt_jax.schema import CHANNELS
from tests.helpers import refusals

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 12, 9


def random(shape, dtype="u1"):
  high = {"u1": 256, "u2": 65536, "f4": 3000}[dtype]
  return RNG.uniform(0, high, shape).astype(dtype)


def chunk(kind, content):
  return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values, depth=16, colour=2, size=None):
  """An encoder of the specification's simplest case, independent of every library."""
  height, width = size or values.shape[:2]
  rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in values)
  head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def save(path, values, **options):
  """By library and suffix."""
  if path.suffix == ".tif":
    tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 and values.shape[-1] == 3 else None, **options)
  elif values.dtype == np.uint16 and values.ndim == 3:
    path.write_bytes(png(values))
  else:
    Image.fromarray(values).save(path)
  return path


def refused(paths, *words, given=None):
  refusals.refused(lambda: raster.read(paths, name="study", given=given or {}), *words)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_three_channels_are_pre_flair_post_and_keep_their_values(tmp_path, suffix, dtype):
  values = random((HEIGHT, WIDTH, 3), dtype)
  scan = raster.read([save(tmp_path / f"a{suffix}", values)], name="study")
  assert scan.image.dtype == np.float32
  np.testing.assert_array_equal(scan.image, values[None])
  assert scan.roles == {role: f"channel {place} of a{suffix}" for place, role in enumerate(CHANNELS, 1)}
  assert scan.slice_names == ["a"] and scan.spacing_mm is None and scan.format == "images"
  assert any("one slice" in warning for warning in scan.warnings)


@pytest.mark.parametrize(("suffix", "dtype"), [(".tif", "u1"), (".tif", "u2"), (".tif", "f4"), (".png", "u1"), (".png", "u2")])  # fmt: skip
def test_grey_is_flair_in_all_three(tmp_path, suffix, dtype):
  slices = [random((HEIGHT, WIDTH), dtype) for _ in range(3)]
  paths = [save(tmp_path / f"s_{number}{suffix}", values) for number, values in enumerate(slices)]
  scan = raster.read(paths[::-1], name="study")
  for place in range(3):
    np.testing.assert_array_equal(scan.image[..., place], np.stack(slices[::-1]))
  assert scan.slice_names == ["s_2", "s_1", "s_0"]  # as given
  assert "no pre and no post" in scan.warnings[0] and "s_2" in scan.roles["flair"]


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "zstd"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiffs_of_every_layout(tmp_path, compression, byteorder, planar):
  values = random((HEIGHT, WIDTH, 3), "u2")
  stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
  path = tmp_path / "a.tif"
  tifffile.imwrite(
    path, stored, photometric="rgb", planarconfig=planar, byteorder=byteorder, compression=compression
  )  # fmt: skip
  np.testing.assert_array_equal(raster.read([path], name="study").image[0], values)


def test_pillow_s_lzw_and_white_as_zero_and_palettes(tmp_path):
  values = random((HEIGHT, WIDTH))
  Image.fromarray(values).save(tmp_path / "lzw.tif", compression="tiff_lzw")
  tifffile.imwrite(tmp_path / "white.tif", values, photometric="miniswhite")
  for suffix in ("tif", "png"):
    picture = Image.fromarray(values // 64).convert("P")
    picture.putpalette([10, 0, 0, 0, 20, 0, 0, 0, 30, 40, 50, 60])
    picture.save(tmp_path / f"palette.{suffix}")
  read = lambda name: raster.read([tmp_path / name], name="study").image[0]
  np.testing.assert_array_equal(read("lzw.tif")[..., 1], values)
  np.testing.assert_array_equal(read("white.tif")[..., 1], 255 - values)
  colours = np.array([[10, 0, 0], [0, 20, 0], [0, 0, 30], [40, 50, 60]])[values // 64]
  np.testing.assert_array_equal(read("palette.tif"), colours)
  np.testing.assert_array_equal(read("palette.png"), colours)


def test_alpha_goes_only_where_it_says_nothing(tmp_path):
  values = random((HEIGHT, WIDTH, 4))
  Image.fromarray(values).save(tmp_path / "varies.png")
  values[..., 3] = 255
  Image.fromarray(values).save(tmp_path / "opaque.png")
  np.testing.assert_array_equal(raster.read([tmp_path / "opaque.png"], name="a").image[0], values[..., :3])
  refused([tmp_path / "varies.png"], "varies.png", "transparent")


@pytest.mark.parametrize("imagej", [False, True])
def test_the_pages_of_a_tiff_are_slices_and_come_back_as_pages(tmp_path, imagej):
  values = random((3, HEIGHT, WIDTH), "u2")  # three pages, not three channels
  tifffile.imwrite(tmp_path / "v.tif", values, photometric="minisblack", imagej=imagej, metadata={"axes": "ZYX"})
  scan = raster.read([tmp_path / "v.tif"], name="study")
  np.testing.assert_array_equal(scan.image[..., 1], values)
  assert scan.slice_names == ["v_0001", "v_0002", "v_0003"]
  mask = values > 30000
  (written,) = raster.write(scan, tmp_path / "out", mask, {}, algorithm=Algorithm("bt_jax 9"))
  assert written == tmp_path / "out" / "masks" / "v_mask.tif"
  with tifffile.TiffFile(written) as tiff:
    assert len(tiff.pages) == 3 and tiff.pages[0].description == NOTICE and tiff.pages[0].software == "bt_jax 9"
  np.testing.assert_array_equal(tifffile.imread(written), mask * np.uint8(255))


@pytest.mark.parametrize(("suffix", "out"), [(".tif", ".tif"), (".png", ".png"), (".jpg", ".png")])
def test_masks_come_in_the_format_of_their_slices(tmp_path, suffix, out):
  paths = [save(tmp_path / f"s{number}{suffix}", random((HEIGHT, WIDTH))) for number in range(2)]
  scan = raster.read(paths, name="study")
  mask, probability = random((2, HEIGHT, WIDTH)) > 99, random((2, HEIGHT, WIDTH), "f4") / 3000
  written = raster.write(scan, tmp_path / "out", mask, {"probability": probability}, algorithm=Algorithm("bt_jax 9"))
  assert len(written) == 4 and all(path.is_file() for path in written)
  for number in range(2):
    with Image.open(tmp_path / "out" / "masks" / f"s{number}_mask{out}") as picture:
      np.testing.assert_array_equal(np.asarray(picture), mask[number] * np.uint8(255))
      assert out == ".tif" or picture.text == {"Description": NOTICE, "Software": "bt_jax 9"}
    path = tmp_path / "out" / "probabilities" / f"s{number}_probability.tif"
    np.testing.assert_array_equal(tifffile.imread(path), probability[number])


def test_images_by_role(tmp_path):
  values = {role: random((HEIGHT, WIDTH)) for role in CHANNELS}
  paths = {role: save(tmp_path / f"{role}.png", values[role]) for role in CHANNELS}
  given = {"post": str(paths["post"]), "pre": str(paths["pre"])}
  scan = raster.read([paths["flair"]], name="study", given=given)
  for place, role in enumerate(CHANNELS):
    np.testing.assert_array_equal(scan.image[0, ..., place], values[role])
    assert scan.roles[role] == f"{role}.png"
  (tmp_path / "copy.png").write_bytes(paths["flair"].read_bytes())
  refused([paths["flair"]], "copy.png", "twice", given={"pre": str(tmp_path / "copy.png")})
  save(tmp_path / "colour.png", random((HEIGHT, WIDTH, 3)))
  refused([paths["flair"]], "colour.png", "3 channels", given={"pre": str(tmp_path / "colour.png")})


def test_warnings_of_three_channels_that_are_none(tmp_path):
  grey = np.repeat(random((HEIGHT, WIDTH, 1)), 3, axis=-1)
  assert any("the same" in one for one in raster.read([save(tmp_path / "a.png", grey)], name="a").warnings)
  colour = raster.read([save(tmp_path / "a.jpg", random((HEIGHT, WIDTH, 3)))], name="a").warnings
  assert any("JPEG" in one for one in colour)


def test_slices_of_one_volume_are_alike(tmp_path):
  one = save(tmp_path / "a.png", random((HEIGHT, WIDTH)))
  for other in (random((WIDTH, HEIGHT)), random((HEIGHT, WIDTH, 3)), random((HEIGHT, WIDTH), "u2")):
    refused([one, save(tmp_path / "b.png", other)], "a.png", "b.png", "alike")
  refused([one, save(tmp_path / "a.tif", random((HEIGHT, WIDTH)))], "a.tif", "twice")
  tifffile.imwrite(tmp_path / "m.tif", random((HEIGHT, WIDTH)))
  tifffile.imwrite(tmp_path / "m.tif", random((WIDTH, HEIGHT)), append=True)
  refused([tmp_path / "m.tif"], "m.tif", "pages of different")


def test_what_a_header_promises_is_checked_before_it_is_believed(tmp_path):
  """10 GB to 100 GB each; were they decoded, the test would end here."""
  values = random((HEIGHT, WIDTH))
  (tmp_path / "a.png").write_bytes(png(values, 8, 0, size=(100_000, 100_000)))
  (tmp_path / "b.png").write_bytes(png(values, 8, 0, size=(9_000, 9_000)))
  buffer = io.BytesIO()
  tifffile.imwrite(buffer, values)
  for name, size in (("c.tif", 60_000), ("d.tif", 5_000)):  # the second is not too large, but not there
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as tiff:
      tags = [tiff.pages[0].tags[tag] for tag in ("ImageWidth", "ImageLength")]
    content = bytearray(buffer.getvalue())
    for tag in tags:
      struct.pack_into("<H" if tag.dtype == 3 else "<I", content, tag.valueoffset, size)
    (tmp_path / name).write_bytes(content)
  for name in ("a.png", "b.png", "c.tif"):
    refused([tmp_path / name], name, "larger than any MRI")
  refused([tmp_path / "d.tif"], "d.tif")


@pytest.mark.parametrize("name", ["a.tif", "lzw.tif", "a.png", "deep.png", "a.jpg"])
def test_no_cut_and_no_broken_byte_ends_in_another_error(tmp_path, name):
  path = tmp_path / name
  if name == "deep.png":
    path.write_bytes(imagecodecs.png_encode(random((HEIGHT, WIDTH, 3), "u2")))
  else:
    save(path, random((HEIGHT, WIDTH)), **({"compression": "lzw"} if name == "lzw.tif" else {}))
  whole = path.read_bytes()
  for length in RNG.integers(0, len(whole) - 24, 25):
    path.write_bytes(whole[:length])
    refused([path], name)
  for _ in range(60):
    content = bytearray(whole)
    for place in RNG.integers(0, len(whole), 4):
      content[place] = RNG.integers(256)
    path.write_bytes(content)
    try:
      raster.read([path], name="study")
    except UserError as error:
      assert name in str(error) or str(error).startswith("study"), error
      assert "\n" not in str(error)


def test_what_is_no_slice(tmp_path):
  (tmp_path / "empty.png").touch()
  refused([tmp_path / "empty.png"], "empty.png", "0 bytes")
  (tmp_path / "text.png").write_text("hello")
  refused([tmp_path / "text.png"], "text.png", "not a TIFF, PNG or JPEG")
  save(tmp_path / "flat.png", np.full((HEIGHT, WIDTH), 7, np.uint8))
  refused([tmp_path / "flat.png"], "constant")
  values = random((HEIGHT, WIDTH), "f4")
  values[3, 4] = np.nan
  refused([save(tmp_path / "nan.tif", values)], "not finite")
  refused([save(tmp_path / "complex.tif", values.astype(np.complex64))], "complex.tif", "complex64")
  Image.fromarray(random((HEIGHT, WIDTH, 4)), "CMYK").save(tmp_path / "print.jpg")
  refused([tmp_path / "print.jpg"], "print.jpg", "CMYK")
  frames = [Image.fromarray(random((HEIGHT, WIDTH))) for _ in range(3)]
  frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
  refused([tmp_path / "film.png"], "film.png", "animated")
  tifffile.imwrite(tmp_path / "time.tif", random((2, 4, HEIGHT, WIDTH)), photometric="minisblack")
  refused([tmp_path / "time.tif"], "time.tif", "axes")


def tagged(path, values, orientation):
  """Values as a file of this suffix stores them, with the tag that says how they are shown."""
  if path.suffix == ".tif":
    tifffile.imwrite(path, values, extratags=[(274, "H", 1, orientation, True)])
  else:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(values).save(path, exif=exif, **({"quality": 100} if path.suffix == ".jpg" else {}))
  return path


def shown(path):
  """As a viewer shows a file: Pillow's own code, which turns a TIFF as it opens it."""
  with Image.open(io.BytesIO(path.read_bytes())) as picture:  # mapped into memory, Pillow 13 garbles turned TIFFs
    return np.asarray(picture if picture.format == "TIFF" else ImageOps.exif_transpose(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_images_are_read_as_they_are_shown_and_masks_are_stored_and_shown_like_them(tmp_path, suffix, orientation):
  stored = random((HEIGHT, WIDTH))
  path = tagged(tmp_path / f"a{suffix}", stored, orientation)
  scan = raster.read([path], name="study")
  np.testing.assert_array_equal(scan.image[0, ..., 1], shown(path))
  mask = scan.image[..., 1] > 99
  raster.write(scan, tmp_path / "out", mask, {"probability": scan.image[..., 1]}, algorithm=Algorithm("bt_jax 9"))
  (written,) = (tmp_path / "out" / "masks").iterdir()
  np.testing.assert_array_equal(shown(written), mask[0] * np.uint8(255))
  raw = tifffile.imread(written) if suffix == ".tif" else np.asarray(Image.open(written))
  if suffix != ".jpg":  # whose values are not quite those that were stored
    np.testing.assert_array_equal(raw, (stored > 99) * np.uint8(255))
  (probability,) = (tmp_path / "out" / "probabilities").iterdir()
  np.testing.assert_array_equal(shown(probability), scan.image[0, ..., 1])


def test_orientation_of_stacks_of_deep_images_and_of_invalid_ones(tmp_path):
  values = random((3, HEIGHT, WIDTH), "u2")
  tifffile.imwrite(tmp_path / "v.tif", values, photometric="minisblack", extratags=[(274, "H", 1, 6, False)])
  scan = raster.read([tmp_path / "v.tif"], name="study")
  np.testing.assert_array_equal(scan.image[..., 1], np.rot90(values, -1, (1, 2)))
  raster.write(scan, tmp_path / "out", scan.image[..., 1] > 999, {}, algorithm=Algorithm("bt_jax 9"))
  np.testing.assert_array_equal(
    tifffile.imread(tmp_path / "out" / "masks" / "v_mask.tif"), (values > 999) * np.uint8(255)
  )
  deep = random((HEIGHT, WIDTH, 3), "u2")
  exif = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 274, 3, 1, 3, 0, 0)
  (tmp_path / "deep.png").write_bytes(
    png(deep).replace(chunk(b"IEND", b""), chunk(b"eXIf", exif) + chunk(b"IEND", b""))
  )
  np.testing.assert_array_equal(raster.read([tmp_path / "deep.png"], name="study").image[0], deep[::-1, ::-1])
  refused([tagged(tmp_path / "nine.tif", values[0], 9)], "nine.tif", "orientation 9")
  for orientation in (1, 3):
    tifffile.imwrite(
      tmp_path / "two.tif",
      values[0],
      append=orientation > 1,
      extratags=[(274, "H", 1, orientation, True)],
      metadata=None,
    )
  refused([tmp_path / "two.tif"], "two.tif", "several orientations")


def stack(path, kind):
  """A volume of ten slices by one of several writers."""
  values = random((3 if kind == "ome_channels" else 10, HEIGHT, WIDTH))
  if kind.startswith("pillow"):
    pages = [Image.fromarray(page) for page in values]
    compression = {"pillow": None, "pillow_lzw": "tiff_lzw", "pillow_deflate": "tiff_adobe_deflate"}[kind]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression=compression)
    return values
  options = {
    "plain": {}, "zlib": {"compression": "zlib"}, "lzw": {"compression": "lzw"}, "big": {"bigtiff": True},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}}, "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "ome_channels": {"ome": True, "metadata": {"axes": "CYX"}},
    "ome_zlib": {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"}, "bare": {"metadata": None},
    "big_endian": {"byteorder": ">"}, "short": {"truncate": True},
  }  # fmt: skip
  if kind == "by_page":
    with tifffile.TiffWriter(path) as writer:
      for page in values:
        writer.write(page, contiguous=False, photometric="minisblack")
  else:
    tifffile.imwrite(path, values, photometric="minisblack", **options[kind])
  return values


@pytest.mark.parametrize("kind", [
  "pillow", "pillow_lzw", "pillow_deflate", "ome_channels", "plain", "zlib", "lzw", "big", "imagej", "ome", "ome_zlib", "bare",
  "big_endian", "short", "by_page",
])  # fmt: skip
def test_no_truncated_stack_is_a_shorter_volume(tmp_path, kind, capfd):
  path = tmp_path / "v.tif"
  values = stack(path, kind)
  read = lambda: raster.read([path], name="study").image
  shown = np.moveaxis(values, 0, -1)[None] if kind == "ome_channels" else values
  pixels = lambda image: image if kind == "ome_channels" else image[..., 1]
  np.testing.assert_array_equal(pixels(read()), shown)
  whole = path.read_bytes()
  lengths = {*np.linspace(0, len(whole) - 1, 25).astype(int).tolist(), *range(len(whole) - 12, len(whole))}
  for length in lengths:
    path.write_bytes(whole[:length])
    try:
      np.testing.assert_array_equal(pixels(read()), shown)  # what is missing is no part of any page
    except UserError as error:
      assert "v.tif" in str(error) and "\n" not in str(error)
  path.write_bytes(whole[: len(whole) // 2])
  refused([path], "v.tif")
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["imagej", "ome", "zlib"])
def test_pages_that_are_declared_and_not_there(tmp_path, kind):
  """A chain that ends in good order after half of its pages, as a program leaves it that stops there."""
  path = tmp_path / "v.tif"
  stack(path, kind)
  with tifffile.TiffFile(path) as tiff:
    fifth = tiff.pages[4].offset
  content = bytearray(path.read_bytes())
  end = fifth + 2 + 12 * struct.unpack_from("<H", content, fifth)[0]
  content[end : end + 4] = bytes(4)
  path.write_bytes(content)
  refused([path], "v.tif", "" if kind == "imagej" else "declares 10 pages")
  stack(path, kind)
  content = bytearray(path.read_bytes())
  content[end : end + 4] = struct.pack("<I", fifth)
  path.write_bytes(content)
  refused([path], "v.tif", "circle")


def test_ome_in_several_files_is_refused_and_its_other_files_are_not_opened(tmp_path):
  stack(tmp_path / "v.tif", "ome")
  content = (tmp_path / "v.tif").read_bytes()
  (tmp_path / "v.tif").write_bytes(content.replace(b'SizeZ="10"', b'SizeZ="20"'))
  refused([tmp_path / "v.tif"], "declares 20 pages")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
  Image.fromarray(np.zeros((8000, 8000), np.uint8)).save(tmp_path / "a.png")
  Image.fromarray(np.zeros((4000, 4000, 3), np.uint8)).save(tmp_path / "b.png")
  Image.fromarray(np.zeros((4000, 4000, 3), np.uint8)).save(tmp_path / "b.jpg", quality=5)
  tifffile.imwrite(
    tmp_path / "b.tif", np.zeros((40, 1000, 1000), np.uint8), compression="zlib", photometric="minisblack"
  )
  tracemalloc.start()
  refused([tmp_path / "a.png"], "a.png", "larger than any MRI")
  for name in ("b.png", "b.jpg", "b.tif"):
    refused([tmp_path / name], name, "says that it unpacks to")
  assert tracemalloc.get_traced_memory()[1] < 2**22
  tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_no_truncated_image_is_read(tmp_path, suffix):
  path = save(tmp_path / f"a{suffix}", random((HEIGHT, WIDTH)))
  whole = path.read_bytes()
  for length in range(len(whole)):
    path.write_bytes(whole[:length])
    try:
      image = raster.read([path], name="study").image
    except UserError:
      continue
    path.write_bytes(whole)
    np.testing.assert_array_equal(image, raster.read([path], name="study").image)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_a_compressed_image_whose_end_was_never_written_is_refused(tmp_path, suffix):
  path, values = tmp_path / f"a{suffix}", random((3 if suffix == ".tif" else 1, 64, 64))
  if suffix == ".tif":
    tifffile.imwrite(path, values, photometric="minisblack", compression="jpeg2000", metadata=None)
  else:
    Image.fromarray(values[0]).save(path, quality=95, exif=Image.Exif())
  whole = path.read_bytes()
  np.testing.assert_array_equal(raster.read([path], name="study").image.shape, (len(values), 64, 64, 3))
  for length in np.linspace(len(whole) // 3, len(whole) - 3, 20).astype(int):
    path.write_bytes(whole[:length] + bytes(len(whole) - length))  # as a download leaves it that makes room first
    refused([path], path.name)


def test_a_page_that_was_never_written_is_no_end_of_the_volume(tmp_path):
  path = tmp_path / "a.tif"
  with tifffile.TiffWriter(path) as writer:
    for page in random((5, HEIGHT, WIDTH)):
      writer.write(page, contiguous=False, photometric="minisblack", metadata=None)
  with tifffile.TiffFile(path) as tiff:
    offset = tiff.pages[3].offset
  whole = path.read_bytes()
  path.write_bytes(whole[:offset] + bytes(len(whole) - offset))
  refused([path], "chain of pages breaks off after 3")


@pytest.mark.parametrize("deep", [False, True])
def test_no_flipped_bit_of_a_png_changes_a_pixel(tmp_path, deep, capfd):
  path = tmp_path / "a.png"
  Image.fromarray(random((HEIGHT, WIDTH))).save(path)
  if deep:
    path.write_bytes(imagecodecs.png_encode(random((HEIGHT, WIDTH, 3), "u2")))
  whole, expected = path.read_bytes(), raster.read([path], name="study").image
  for bit in RNG.choice(len(whole) * 8, 300, replace=False):
    content = bytearray(whole)
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)
    try:
      np.testing.assert_array_equal(raster.read([path], name="study").image, expected)
    except UserError as error:
      assert "a.png" in str(error)
  assert capfd.readouterr() == ("", "")


def test_what_libraries_find_is_a_warning_of_ours(tmp_path, capfd):
  path = tmp_path / "a.tif"
  tifffile.imwrite(path, random((HEIGHT, WIDTH)), description="ImageJ=1.53t\nimages=1\nslices=-1\n", metadata=None)
  warnings = " ".join(raster.read([path], name="study").warnings)
  assert "a.tif does not conform to its format" in warnings and "ImageJ series metadata invalid" in warnings
  jpeg = tmp_path / "a.jpg"
  Image.fromarray(random((HEIGHT, WIDTH))).save(jpeg, exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0")
  assert "a.jpg does not conform to its format (Corrupt EXIF data" in " ".join(
    raster.read([jpeg], name="study").warnings
  )
  assert capfd.readouterr() == ("", "")


def test_the_file_that_is_not_finite_is_named(tmp_path):
  values = random((HEIGHT, WIDTH), "f4")
  good = save(tmp_path / "s_1.tif", values)
  bad = values.copy()
  bad[0, 0] = np.inf
  refused([good, save(tmp_path / "s_2.tif", bad)], "s_2.tif has 1 voxels that are not finite")
  flat = [save(tmp_path / f"f_{number}.tif", np.zeros((HEIGHT, WIDTH), np.uint8)) for number in range(2)]
  refused(flat, "f_1.tif is constant in FLAIR")
