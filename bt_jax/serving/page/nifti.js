const START = 352;  // bytes before the voxels: the header, and no extension
const MM = 2;  // the unit of space
const TYPES = new Map([[Uint8Array, 2], [Float32Array, 16]]);

/** A NIfTI-1 file of a volume, as its standard of 2004 has it.
 *
 * @param {Uint8Array|Float32Array} values slice by slice, each row by row
 * @param {number[]} shape slices, rows and columns
 * @param {number[][]} affine from (column, row, slice) to mm in RAS
 */
export function niftiOf(values, [slices, rows, columns], affine) {
  const file = new ArrayBuffer(START + values.byteLength), header = new DataView(file);
  const shorts = (start, ...numbers) => numbers.forEach((number, index) => header.setInt16(start + 2 * index, number, true));
  const floats = (start, ...numbers) => numbers.forEach((number, index) => header.setFloat32(start + 4 * index, number, true));
  const sides = [0, 1, 2].map((axis) => Math.hypot(...affine.slice(0, 3).map((row) => row[axis])));
  header.setInt32(0, 348, true);
  shorts(40, 3, columns, rows, slices, 1, 1, 1, 1);  // dim
  shorts(70, TYPES.get(values.constructor), 8 * values.BYTES_PER_ELEMENT);  // datatype, bitpix
  floats(76, 1, ...sides);  // pixdim
  floats(108, START, 1, 0);  // vox_offset, scl_slope, scl_inter
  header.setUint8(123, MM);  // xyzt_units
  shorts(252, 0, 1);  // qform_code, sform_code: as the scanner put it
  affine.slice(0, 3).forEach((row, index) => floats(280 + 16 * index, ...row));  // srow_x, srow_y, srow_z
  header.setUint32(344, 0x6e2b3100);  // magic: n+1
  new values.constructor(file, START).set(values);
  return file;
}

/** The affine of axial slices whose spacing alone is known: columns run to the left, rows to the back, slices to the head. */
export const affineOf = ([slices, rows, columns]) => [[-columns, 0, 0, 0], [0, -rows, 0, 0], [0, 0, slices, 0], [0, 0, 0, 1]];
