import os
import stat
import struct
import warnings
import zipfile

import numpy as np
import pytest

from bt_jax.errors import UserError
from bt_jax.scans import archives
from tests.helpers.refusals import refused

RNG = np.random.default_rng(0)


def pack(path, contents, compression=zipfile.ZIP_DEFLATED):
  with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
    warnings.simplefilter("ignore")  # of names that are there twice
    for name, content in contents:
      archive.writestr(name, content)
  return path


def unpack(path, **limits):
  folder = path.parent / f"{path.stem}_out"
  folder.mkdir(exist_ok=True)
  return archives.unpack(path, folder, archives.LIMITS._replace(**limits))


@pytest.mark.parametrize(
  "name", ["../a.png", "/etc/a.png", "x/../../a.png", "..\\a.png", "C:\\a.png", "\\\\host\\a.png"]
)
def test_paths_that_climb_out_are_refused_before_anything_is_written(tmp_path, name):
  path = pack(tmp_path / "a.zip", [("good.png", b"x"), (name, b"x")])
  before = {*tmp_path.rglob("*")}
  refused(lambda: unpack(path), "a.zip", "leads out")
  assert {*tmp_path.rglob("*")} - before == {tmp_path / "a_out"}


def test_names_are_made_harmless(tmp_path):
  path = pack(tmp_path / "a.zip", [("x/\x1b[31mred\n.png", b"1"), ("y" * 300 + ".png", b"2"), ("./z//w.png", b"3")])
  for file, content in zip(unpack(path), (b"1", b"2", b"3"), strict=True):
    assert file.read_bytes() == content and file.name.isprintable() and len(file.name) < 200 and file.suffix == ".png"


def test_bombs_are_noticed(tmp_path):
  zeros = bytes(2**20)
  path = pack(tmp_path / "a.zip", [(f"{number}.dcm", zeros) for number in range(9)])
  refused(lambda: unpack(path, bytes=2**22), "a.zip", "over 4,194,304 bytes")
  refused(lambda: unpack(path, files=5), "9 files")
  large = pack(tmp_path / "b.zip", [("b.dcm", bytes(2**27))])  # 1 : 1000, within the limit
  refused(lambda: unpack(large), "b.zip", "bomb")
  assert sum(file.stat().st_size for file in (tmp_path / "b_out").iterdir()) <= 2**26 + 2**20
  # One that declares a byte only: nothing beyond it is believed.
  content = bytearray(pack(tmp_path / "c.zip", [("c.dcm", bytes(2**24))]).read_bytes())
  place = content.rindex(b"PK\1\2")
  struct.pack_into("<I", content, place + 24, 1)
  (tmp_path / "c.zip").write_bytes(content)
  refused(lambda: unpack(tmp_path / "c.zip"), "c.zip", "damaged")


def test_zips_that_are_not_read(tmp_path):
  link = zipfile.ZipInfo("link.png")
  link.external_attr = (stat.S_IFLNK | 0o777) << 16
  refused(lambda: unpack(pack(tmp_path / "a.zip", [(link, "/etc/passwd")])), "link")
  refused(lambda: unpack(pack(tmp_path / "b.zip", [("x.zip", b"")])), "another zip")
  refused(lambda: unpack(pack(tmp_path / "c.zip", [("x.png", b"1"), ("x.png", b"2")])), "twice", "x.png")
  refused(lambda: unpack(pack(tmp_path / "d.zip", [("x", b"1"), ("x/y", b"2")])), "d.zip")
  refused(lambda: unpack(pack(tmp_path / "e.zip", [("folder/", b"")])), "no file")
  content = bytearray(pack(tmp_path / "f.zip", [("x.png", b"1")]).read_bytes())
  content[6] |= 1
  content[content.rindex(b"PK\1\2") + 8] |= 1
  (tmp_path / "f.zip").write_bytes(content)
  refused(lambda: unpack(tmp_path / "f.zip"), "f.zip", "encrypted")
  (tmp_path / "g.zip").write_bytes(b"PK\3\4 and nothing more")
  refused(lambda: unpack(tmp_path / "g.zip"), "g.zip", "not a zip")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_cut_and_no_broken_byte_of_a_zip_ends_in_another_error(tmp_path, compression):
  path = pack(tmp_path / "a.zip", [("x/1.png", RNG.bytes(300)), ("x/2.png", bytes(300))], compression)
  whole = path.read_bytes()
  for trial in range(150):
    content = bytearray(whole if trial % 2 else whole[: RNG.integers(0, len(whole))])
    for place in RNG.integers(0, max(len(content), 1), 4 * (trial % 2)):
      content[place] = RNG.integers(256)
    path.write_bytes(content)
    try:
      folder = tmp_path / str(trial)
      folder.mkdir()
      archives.unpack(path, folder)
    except UserError as error:
      assert "\n" not in str(error) and "a.zip" in str(error), error
  assert {*os.listdir(tmp_path)} == {"a.zip", *map(str, range(150))}


def test_no_flipped_bit_of_a_zip_changes_a_file(tmp_path):
  contents = {"x/1.png": RNG.bytes(300), "x/2.png": bytes(range(100)) * 5}
  path = pack(tmp_path / "a.zip", contents.items())
  whole = path.read_bytes()
  passed = 0
  for trial, bit in enumerate(RNG.choice(len(whole) * 8, 300, replace=False)):
    content = bytearray(whole)
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)
    folder = tmp_path / str(trial)
    folder.mkdir()
    try:
      files = archives.unpack(path, folder)
      assert [file.read_bytes() for file in files] == [*contents.values()]
      passed += 1
    except UserError as error:
      assert "a.zip" in str(error)
  assert passed < 150  # times, versions and sizes that stand twice


def test_what_systems_leave_is_not_unpacked(tmp_path):
  path = pack(
    tmp_path / "a.zip", [("a/x.tif", b"1"), ("a/._x.tif", b"2"), ("__MACOSX/a/._x.tif", b"3"), (".DS_Store", b"4")]
  )
  assert [file.relative_to(tmp_path / "a_out").as_posix() for file in unpack(path)] == ["a/x.tif"]
