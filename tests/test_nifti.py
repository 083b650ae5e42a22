import gzip
import io
import itertools
import pathlib

import nibabel
import numpy as np
import pytest
from nibabel import orientations

from bt_jax.errors import UserError
from bt_jax.scans import nifti
from bt_jax.scans.algorithm import Algorithm
from bt_jax.scans.scan import NOTICE
from bt_jax.schema import CHANNELS
from tests.helpers import refusals

RNG = np.random.default_rng(0)
SHAPE, SPACING = (5, 7, 9), (9.0, 13.0, 40.0)  # few voxels, as wide as a head
BUNDLED = pathlib.Path(nibabel.__file__).parent / "tests" / "data"
TURNS = [
  np.stack([place, sign], axis=1).astype(float)
  for place in itertools.permutations(range(3))
  for sign in itertools.product((1, -1), repeat=3)
]


def affine_of(turn, degrees=0.0):
  """A grid whose axes run as told, turned about an oblique axis, with an origin of its own."""
  x, y, z = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
  cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  angle = np.deg2rad(degrees)
  rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
  axes = np.zeros((3, 3))
  for axis, (place, sign) in enumerate(turn):
    axes[int(place), axis] = sign * SPACING[axis]
  affine = np.eye(4)
  affine[:3, :3], affine[:3, 3] = rotation @ axes, [-31.5, 12.25, 7.75]
  return affine


def volume(shape=SHAPE):
  return RNG.normal(500, 90, shape).astype(np.float32)


def save(path, values, affine=None, kind=nibabel.Nifti1Image, edit=None):
  image = kind(values, np.diag([10.0, 10, 30, 1]) if affine is None else affine)
  if edit:
    edit(image.header)
    image = kind(values, None, image.header)  # as it is, whatever the affine
  image.to_filename(path)
  return path


def read(path, given=None):
  return nifti.read([path], name="study", given=given or {})


def refused(path, *words, given=None):
  refusals.refused(lambda: read(path, given), *words)


def write(scan, folder, mask, probability=None):
  return nifti.write(
    scan, folder, mask, {} if probability is None else {"probability": probability}, algorithm=Algorithm("bt_jax 9")
  )


@pytest.mark.parametrize("degrees", [0.0, 17.0])
@pytest.mark.parametrize("turn", TURNS, ids=lambda turn: "".join(orientations.ornt2axcodes(turn)))
def test_masks_come_back_voxel_for_voxel_and_points_stay_where_they_are(tmp_path, turn, degrees):
  affine = affine_of(turn, degrees)
  values = volume()
  crop = tuple(slice(start, size - 1) for start, size in zip((1, 0, 2), SHAPE, strict=True))
  part = nibabel.Nifti1Image(values, affine).slicer[crop]  # nibabel moves the origin
  nibabel.save(part, path := tmp_path / "part.nii.gz")
  scan = read(path)
  # A painter of the native grid, and one of the axial image, paint alike: by intensity, which no two voxels share.
  native = np.asarray(part.dataobj) > 550
  (out,) = write(scan, tmp_path, scan.image[..., 1] > 550)
  image = nibabel.load(out)
  np.testing.assert_array_equal(np.asarray(image.dataobj), native)
  np.testing.assert_array_equal(image.affine, nibabel.load(path).affine)
  # By world coordinates, independently of nibabel's orientations: along each axis of the scan a coordinate grows or
  # falls as the training slices do, whose columns go to the left, rows to the back, and slices to the head (RAS: - - +).
  flair = scan.image[..., 1]
  place = {value: index for index, value in np.ndenumerate(np.asarray(part.dataobj))}
  world = lambda *at: part.affine[:3, :3] @ place[flair[at]] + part.affine[:3, 3]
  for axis, (coordinate, sign) in enumerate([(2, 1), (1, -1), (0, -1)]):
    far = [0, 0, 0]
    far[axis] = 1
    step = world(*far) - world(0, 0, 0)
    assert np.argmax(np.abs(step)) == coordinate and np.sign(step[coordinate]) == sign
    np.testing.assert_allclose(np.linalg.norm(step), scan.spacing_mm[axis], rtol=1e-5)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_geometry_is_copied_field_by_field_and_nothing_else(tmp_path, kind, suffix):
  def edit(header):
    header.set_qform(affine_of(TURNS[3], 5.0), code=1)
    header.set_sform(affine_of(TURNS[3], 6.0), code=4)
    header.set_xyzt_units("mm", "sec")
    header["descrip"], header["cal_max"] = b"name of a patient", 7
    header["intent_code"] = 1003

  path = save(tmp_path / f"a{suffix}", volume(), affine_of(TURNS[3], 6.0), kind, edit)
  scan = read(path)
  mask = scan.image[..., 1] > 500
  written = write(scan, tmp_path / "out", mask, mask.astype(np.float32) / 3)
  assert [one.name for one in written] == [f"mask{suffix}", f"probability{suffix}"]
  before = nibabel.load(path).header
  for one, dtype in zip(written, (np.uint8, np.float32), strict=True):
    image = nibabel.load(one)
    assert type(image) is kind and image.get_data_dtype() == dtype and image.header.get_xyzt_units()[0] == "mm"
    for form in ("get_qform", "get_sform"):
      (old, old_code), (new, new_code) = (getattr(header, form)(coded=True) for header in (before, image.header))
      np.testing.assert_array_equal(old, new)
      assert old_code == new_code
    said = image.header["descrip"].item().decode()
    assert NOTICE in said and "bt_jax 9" in said
    assert image.header["cal_max"] == 0 and image.header["intent_code"] == 0
  content = written[0].read_bytes()
  assert suffix == ".nii" or content[4:8] == bytes(4)  # no time of writing
  assert write(scan, tmp_path / "again", mask)[0].read_bytes() == content


def test_one_file_of_three_channels_in_each_of_its_forms(tmp_path):
  values = RNG.integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
  colours = np.ascontiguousarray(values).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
  forms = {"4d": values, "5d": values[:, :, :, None], "rgb": colours}
  for name, stored in forms.items():
    scan = read(save(tmp_path / f"{name}.nii.gz", stored, np.diag([-10.0, -10, 10, 1])))  # lies as the slices do
    np.testing.assert_array_equal(scan.image, np.moveaxis(values, (0, 1, 2), (2, 1, 0)))
    assert scan.roles["post"] == f"channel 3 of {name}.nii.gz"
    (out,) = write(scan, tmp_path / name, scan.image[..., 0] > 99)
    np.testing.assert_array_equal(np.asarray(nibabel.load(out).dataobj), values[..., 0] > 99)


def test_slope_intercept_and_units(tmp_path):
  stored = RNG.integers(0, 1000, SHAPE).astype(np.int16)

  def edit(header):
    header.set_slope_inter(0.5, -20)
    header.set_xyzt_units("meter")

  image = nibabel.Nifti1Image(stored, np.diag([-0.01, -0.02, 0.03, 1]))
  edit(image.header)
  raw = image.header.copy()
  raw.set_data_dtype(np.int16)
  path = tmp_path / "a.nii"
  path.write_bytes(raw.binaryblock + b"\0" * 4 + stored.tobytes(order="F"))
  content = bytearray(path.read_bytes())
  content[108:112] = np.float32(352).tobytes()  # vox_offset
  content[112:120] = np.array([0.5, -20], np.float32).tobytes()  # scl_slope, scl_inter
  path.write_bytes(content)
  scan = read(path)
  np.testing.assert_allclose(scan.image[..., 1], np.moveaxis(stored, (0, 1, 2), (2, 1, 0)) * 0.5 - 20)
  np.testing.assert_allclose(scan.spacing_mm, (30, 20, 10), rtol=1e-6)


def test_files_by_role(tmp_path):
  values = {role: volume() for role in CHANNELS}
  paths = {role: save(tmp_path / f"{role}.nii.gz", values[role], np.diag([-10.0, -10, 30, 1])) for role in CHANNELS}
  scan = read(paths["flair"], {"pre": str(paths["pre"]), "post": str(paths["post"])})
  for place, role in enumerate(CHANNELS):
    np.testing.assert_array_equal(scan.image[..., place], np.moveaxis(values[role], (0, 1, 2), (2, 1, 0)))
    assert scan.roles[role] == f"{role}.nii.gz"
  assert scan.warnings == []
  alone = read(paths["flair"])
  assert "no pre and no post" in alone.warnings[0]
  np.testing.assert_array_equal(alone.image[..., 2], scan.image[..., 1])

  moved = np.diag([-10.0, -10, 30, 1])
  moved[0, 3] = 0.004  # as far as converters round
  assert read(paths["flair"], {"pre": str(save(tmp_path / "n.nii", volume(), moved))}).roles["pre"] == "n.nii"
  moved[0, 3] = 1.0
  refused(paths["flair"], "affine", "register", given={"pre": str(save(tmp_path / "m.nii", volume(), moved))})
  refused(paths["flair"], "5 x 7 x 8", given={"pre": str(save(tmp_path / "s.nii", volume((5, 7, 8))))})
  refused(paths["flair"], "given twice", given={"post": str(paths["flair"])})
  refused(paths["flair"], "not there.nii", given={"post": str(tmp_path / "not there.nii")})
  three = save(tmp_path / "three.nii", volume((*SHAPE, 3)), np.diag([-10.0, -10, 30, 1]))
  refused(paths["flair"], "3 channels", given={"pre": str(three)})


def test_warnings_of_geometry_and_name(tmp_path):
  said = lambda path: " ".join(read(path).warnings)
  assert "sagittally" in said(save(tmp_path / "a.nii", volume(), np.diag([50.0, 10, 10, 1])))
  assert "coronally" in said(save(tmp_path / "b.nii", volume(), np.diag([10.0, 50, 10, 1])))
  axial = said(save(tmp_path / "c.nii", volume(), np.diag([10.0, 10, 50, 1])))
  assert "coarse" not in axial and "does not say" not in axial
  assert "does not say" in said(save(tmp_path / "d.nii", volume(), None, edit=lambda h: (h.set_qform(None, 0), h.set_sform(None, 0))))  # fmt: skip
  assert "speaks of post" in " ".join(read(save(tmp_path / "x_t1ce.nii", volume())).ood_warnings)


def test_what_is_no_volume(tmp_path):
  refused(save(tmp_path / "a.nii.gz", volume((*SHAPE, 4))), "a.nii.gz", "5 x 7 x 9 x 4", "series")
  refused(save(tmp_path / "b.nii", volume((*SHAPE, 3, 2))), "series")
  refused(save(tmp_path / "c.nii", volume().astype(np.complex64)), "c.nii", "complex")
  values = volume()
  values[1, 2, 3] = np.inf
  refused(save(tmp_path / "d.nii", values), "not finite")
  refused(save(tmp_path / "e.nii", np.full(SHAPE, 3, np.int16)), "constant")
  flat = np.diag([1.0, 1, 0, 1])
  refused(save(tmp_path / "f.nii", volume(), edit=lambda h: (h.set_qform(None, 0), h.set_sform(flat, 1))), "f.nii", "affine")  # fmt: skip
  (tmp_path / "g.nii").touch()
  refused(tmp_path / "g.nii", "g.nii", "empty")
  (tmp_path / "h.nii.gz").write_bytes(gzip.compress(b""))
  refused(tmp_path / "h.nii.gz", "empty")
  (tmp_path / "i.nii.gz").write_bytes(b"not gzip at all")
  refused(tmp_path / "i.nii.gz", "not a NIfTI")
  nibabel.Nifti1Pair(volume(), np.eye(4)).to_filename(tmp_path / "j.hdr")
  refused(tmp_path / "j.hdr", ".img")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_a_header_promises_is_checked_before_it_is_believed(tmp_path, pack):
  small = nibabel.Nifti1Image(volume(), np.eye(4)).to_bytes()
  for name, shape, words in (
    ("c", (2, 2, 9000), ["2 x 2 x 9000", "larger than any MRI"]),  # each slice would become one of 256 x 256
    ("a", (30_000, 30_000, 30), ["30000 x 30000 x 30", "larger than any MRI"]),  # 108 GB
    ("b", (500, 500, 500), ["truncated"]),  # 500 MB, not there
  ):
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(small))
    header.set_data_shape(shape)
    (tmp_path / name).write_bytes(pack(header.binaryblock + small[348:]))
    refused(tmp_path / name, *words)
  # What comes after the voxels is not unpacked, nor ignored.
  (tmp_path / "more").write_bytes(pack(small + bytes(2**24)))
  refused(tmp_path / "more", "more", "has data after its 5 x 7 x 9 voxels")


def test_a_volume_that_unpacks_to_more_than_a_scan_does_is_refused_before(tmp_path):
  path = tmp_path / "bomb.nii.gz"
  path.write_bytes(gzip.compress(nibabel.Nifti1Image(np.zeros((256, 256, 300), np.uint8), np.eye(4)).to_bytes()))
  refused(path, "bomb.nii.gz", "says that it unpacks to")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "b.nii"])
def test_no_cut_and_no_broken_byte_ends_in_another_error(tmp_path, name):
  path = save(tmp_path / name, volume(), None, nibabel.Nifti2Image if name == "b.nii" else nibabel.Nifti1Image)
  whole = path.read_bytes()
  for length in RNG.integers(0, len(whole) - 24, 30):
    path.write_bytes(whole[:length])
    refused(path, name)
  for _ in range(150):
    content = bytearray(whole)
    for place in RNG.integers(0, 348, 4):
      content[place] = RNG.integers(256)
    path.write_bytes(content)
    try:
      read(path)
    except UserError as error:
      assert name in str(error) or str(error).startswith("study"), error
      assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["anatomical.nii", "reoriented_anat_moved.nii"])
def test_nibabel_s_own_volumes(tmp_path, name):
  scan, image = read(BUNDLED / name), nibabel.load(BUNDLED / name)
  limit = float(np.median(scan.image))
  (out,) = write(scan, tmp_path, scan.image[..., 1] > limit)
  mask = nibabel.load(out)
  np.testing.assert_array_equal(mask.affine, image.affine)
  np.testing.assert_array_equal(np.asarray(mask.dataobj), image.get_fdata(dtype=np.float32) > limit)


@pytest.mark.parametrize(("name", "word"), [
  ("functional.nii", "series"), ("example4d.nii.gz", "series"), ("example_nifti2.nii.gz", "series"),
  ("nifti1.hdr", ".img"), ("nifti2.hdr", ".img"), ("analyze.hdr", "not a NIfTI"), ("tiny.mnc", "not a NIfTI"),
  ("row_major.dconn.nii", "series"), ("0.dcm", "not a NIfTI"), ("resampled_anat_moved.nii", "not finite"),
])  # fmt: skip
def test_nibabel_s_own_files_that_are_no_volume(name, word):
  refused(BUNDLED / name, word)


def edited(path, values, edit, affine=None):
  """A file whose header is changed after it is written, whatever nibabel thinks of it."""
  content = bytearray(
    nibabel.Nifti1Image(values, np.diag([-10.0, -10, 30, 1]) if affine is None else affine).to_bytes()
  )
  header = np.ndarray((), nibabel.nifti1.header_dtype, content)
  edit(header)
  path.write_bytes(bytes(content))
  return path


def said(path):
  return " ".join(read(path).warnings)


HEAD = np.diag([-10.0, -10, 30, 1])


@pytest.mark.parametrize("unit", [1, 3])
def test_units_that_lie_by_a_thousand_leave_sizes_out(tmp_path, unit):
  path = edited(tmp_path / "a.nii", volume(), lambda header: header["xyzt_units"].fill(unit), HEAD)
  assert read(path).spacing_mm is None and "no MRI of a head has" in said(path)


def test_sizes_that_no_head_has_leave_sizes_out_or_are_refused(tmp_path):
  for number, factor in enumerate((1e-3, 0.04, 100, 1e3, 1e30)):
    # Of fewer than 64 voxels, 20 mm may be cut out of a head.
    values = volume((64, 64, 4)) if factor == 0.04 else volume()
    path = save(tmp_path / f"{number}.nii", values, np.diag([-10 * factor, -10 * factor, 30 * factor, 1]))
    scan = read(path)
    assert scan.spacing_mm is None and "sizes in mm are left out" in " ".join(scan.warnings), factor
    mask = scan.image[..., 1] > 500
    np.testing.assert_allclose(nibabel.load(write(scan, tmp_path / "out", mask)[0]).affine, nibabel.load(path).affine)
  # Pixels that are not square by such a header could be of any shape.
  refused(save(tmp_path / "b.nii", volume(), np.diag([-1e-4, -10, 30, 1])), "b.nii", "voxels of", "correct its header")
  unknown = edited(tmp_path / "c.nii", volume(), lambda header: header["xyzt_units"].fill(5))
  assert read(unknown).spacing_mm is None and "a unit of space" in said(unknown)
  far = HEAD.copy()
  far[1, 3] = 3e8
  assert "position is not known" in said(save(tmp_path / "d.nii", volume(), far))
  assert read(tmp_path / "d.nii").spacing_mm == pytest.approx((30, 10, 10))


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2), (2, 0), (2, 1)])
@pytest.mark.parametrize("turn", TURNS[::7], ids=lambda turn: "".join(orientations.ornt2axcodes(turn)))
def test_the_volume_of_a_voxel_is_the_determinant_however_the_grid_is_sheared(tmp_path, axes, turn):
  shear = np.eye(4)
  shear[axes] = np.tan(np.deg2rad(20))
  affine = affine_of(turn, 5.0) @ shear
  path = save(tmp_path / "a.nii", volume(), affine)
  assert np.prod(read(path).spacing_mm) == pytest.approx(abs(np.linalg.det(affine[:3, :3])), rel=1e-5)
  assert "sheared by" in said(path)
  straight = save(tmp_path / "b.nii", volume(), affine_of(turn, 5.0))
  assert "sheared" not in said(straight)


def test_slices_of_a_tilted_gantry_lie_as_far_apart_as_at_right_angles(tmp_path):
  affine = np.diag([-0.9, -0.9, 5.0, 1])
  affine[1, 2] = -5 * np.tan(np.deg2rad(20))
  scan = read(save(tmp_path / "a.nii", volume((60, 60, 4)), affine))
  np.testing.assert_allclose(scan.spacing_mm, (5, 0.9, 0.9), rtol=1e-6)


def test_qform_and_sform_that_disagree_are_reported_and_pixdim_is_the_size(tmp_path):
  values = volume((60, 60, 4))
  image = nibabel.Nifti1Image(values, np.diag([-1.0, -1, 4, 1]))

  def written(name, code, sform):
    image.header.set_qform(np.diag([-1.0, -1, 4, 1]), code=code)
    image.header.set_sform(sform, code=2)
    one = nibabel.Nifti1Image(values, None, image.header)
    one.to_filename(tmp_path / name)
    return tmp_path / name

  for code in (0, 1):
    scan = read(written(f"{code}.nii", code, np.diag([-1.2, -1.2, 4.8, 1])))
    assert np.prod(scan.spacing_mm) == pytest.approx(4, rel=1e-6)
    text = " ".join(scan.warnings)
    assert "4 x 1 x 1 mm by pixdim" in text and "4.8 x 1.2 x 1.2 mm by sform" in text
  image.header["pixdim"][1:4] = 1
  unset = nibabel.Nifti1Image(values, None, image.header)
  unset.header["qform_code"], unset.header["pixdim"][1:4] = 0, 1
  unset.to_filename(tmp_path / "unset.nii")
  assert read(tmp_path / "unset.nii").spacing_mm is None
  flipped = np.diag([1.0, -1, 4, 1])
  assert "qform and sform place the volume" in said(written("flipped.nii", 1, flipped))
  assert "qform" not in said(written("same.nii", 1, np.diag([-1.0, -1, 4, 1])))


def test_voxels_begin_where_the_header_says_or_it_is_refused(tmp_path):
  values = volume()
  expected = read(save(tmp_path / "a.nii", values, HEAD)).image

  def at(offset, behind=b""):
    path = edited(tmp_path / "b.nii", values, lambda header: header["vox_offset"].fill(offset), HEAD)
    path.write_bytes(path.read_bytes() + behind)
    return path

  np.testing.assert_array_equal(read(at(0)).image, expected)  # right behind the header, as it can be nowhere else
  for offset in (1, 100, 348, 351, 352.5, -16, 1e30, np.nan, np.inf):
    refused(at(offset), "b.nii")
  refused(at(368), "truncated")
  refused(at(352, b"\0"), "has data after")
  refused(at(368, bytes(32)), "has data after")


def test_extensions_are_stepped_over_and_never_taken_for_voxels(tmp_path):
  image = nibabel.Nifti1Image(volume(), HEAD)
  image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", RNG.bytes(3000)))
  image.to_filename(tmp_path / "a.nii.gz")
  np.testing.assert_array_equal(
    read(tmp_path / "a.nii.gz").image[..., 1], np.moveaxis(np.asarray(image.dataobj), (0, 1, 2), (2, 1, 0))
  )
  content = bytearray(image.to_bytes())
  for offset in (352, 368, 1024):  # inside of the extension; as much as is left out before is left over behind
    content[108:112] = np.float32(offset).tobytes()
    (tmp_path / "b.nii").write_bytes(content)
    refused(tmp_path / "b.nii", "b.nii")
    (tmp_path / "b.nii").write_bytes(content[: offset + 4 * np.prod(SHAPE)])
    if offset > 352:  # else nothing says that there is one
      refused(tmp_path / "b.nii", "extension")


def test_no_flipped_bit_of_a_packed_volume_changes_a_voxel(tmp_path):
  path = save(tmp_path / "a.nii.gz", RNG.integers(0, 30, SHAPE).astype(np.uint8), HEAD)
  whole, expected = path.read_bytes(), read(path).image
  passed = 0
  for bit in RNG.choice(len(whole) * 8, 400, replace=False):
    content = bytearray(whole)
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)
    try:
      np.testing.assert_array_equal(read(path).image, expected)
      passed += 1
    except UserError as error:
      assert "a.nii.gz" in str(error)
  assert passed < 40  # time and name of the packed file, which no checksum holds
  for behind in (b"garbage", gzip.compress(b"more"), b"\x1f\x8b\x08"):
    path.write_bytes(whole + behind)
    refused(path, "a.nii.gz")
  path.write_bytes(whole + bytes(512))  # blocks of a tape
  np.testing.assert_array_equal(read(path).image, expected)


def test_what_nibabel_finds_is_our_warning_and_not_printed(tmp_path, capfd):
  path = edited(tmp_path / "a.nii", volume(), lambda header: header["sform_code"].fill(77))
  scan = read(path)
  assert "a.nii does not conform to its format (sform_code 77 not valid" in " ".join(scan.warnings)
  assert capfd.readouterr() == ("", "")


def test_the_file_that_is_not_finite_or_flat_is_named(tmp_path):
  good, values = save(tmp_path / "flair.nii", volume()), volume()
  values[1, 2, 3] = values[0, 0, 0] = np.nan
  refused(good, "bad.nii has 2 voxels that are not finite", given={"post": str(save(tmp_path / "bad.nii", values))})
  flat = save(tmp_path / "flat.nii", np.full(SHAPE, 7, np.float32))
  refused(good, "flat.nii is constant", given={"pre": str(flat)})
  noise = RNG.random(SHAPE).astype(np.float32)
  refused(save(tmp_path / "a.nii", 1000 + noise / 5000), "a.nii is flat in FLAIR")  # four steps of float32
  refused(save(tmp_path / "b.nii", noise * np.float32(1e-12)), "b.nii is flat in FLAIR")
  refused(save(tmp_path / "c.nii", (noise - 0.5) * np.float32(3e38)), "c.nii is without bounds in FLAIR")
  assert read(save(tmp_path / "d.nii", noise / 1000)).image.max() < 0.001  # a map of small numbers is none of these
