/** For each plane, the axes of the volume that run across it, down it and through it; the feet are at the bottom. */
const AXES = {
  axial: { across: "columns", down: "rows", through: "slices", upwards: false },
  coronal: { across: "columns", down: "slices", through: "rows", upwards: true },
  sagittal: { across: "rows", down: "slices", through: "columns", upwards: true },
};

const OPPOSITE = { R: "L", L: "R", A: "P", P: "A", S: "I", I: "S" };
const opposite = (letters) => [...letters].map((letter) => OPPOSITE[letter]).join("");

/** One of the three planes through a volume. */
export class Plane {
  /** @param {string} name axial, coronal or sagittal
   *  @param {number[]} shape slices, rows and columns
   *  @param {?number[]} spacing mm between them; null where it is not known
   *  @param {?Object<string, string>} orientation the direction of the patient that each axis runs to; null likewise
   */
  constructor(name, [slices, rows, columns], spacing, orientation) {
    const { across, down, through, upwards } = AXES[name];
    const sizes = { slices, rows, columns }, strides = { slices: rows * columns, rows: columns, columns: 1 };
    const [of_slices, of_rows, of_columns] = spacing ?? [1, 1, 1];
    const sides = { slices: of_slices, rows: of_rows, columns: of_columns };
    this.name = name;
    [this.width, this.height, this.count] = [sizes[across], sizes[down], sizes[through]];
    [this.pixelWidth, this.pixelHeight] = [sides[across], sides[down]];  // mm, where the spacing is known
    [this.right, this.back] = [strides[across], strides[through]];
    this.down = upwards ? -strides[down] : strides[down];
    this.top = upwards ? (this.height - 1) * strides[down] : 0;
    this.sides = orientation && {
      left: opposite(orientation[across]),
      right: orientation[across],
      top: upwards ? orientation[down] : opposite(orientation[down]),
      bottom: upwards ? opposite(orientation[down]) : orientation[down],
    };
  }

  /** The index in the volume of a pixel of one of the plane's slices. */
  voxel(slice, x, y) {
    return slice * this.back + this.top + y * this.down + x * this.right;
  }

  /** Calls `visit` with the index in the volume of each pixel of a slice, row by row. */
  each(slice, visit) {
    for (let y = 0; y < this.height; y++) {
      let voxel = this.voxel(slice, 0, y);
      for (let x = 0; x < this.width; x++, voxel += this.right) visit(voxel);
    }
  }
}

export const PLANES = Object.keys(AXES);
