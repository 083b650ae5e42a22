import { Plane, PLANES } from "./planes.js";

/** What the server says of a scan in its answer, and where its arrays begin. */
function headOf(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  return [JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))), 4 + length];
}

/** The content of `prediction.json` in an answer of the server. */
export const describedIn = (buffer) => headOf(buffer)[0].prediction;

/** What the server answered: what it says of the scan, and how many thresholds each voxel reaches. */
export class Result {
  #areas = new Map();

  /** @param {ArrayBuffer} buffer see `pack` in serving/transport.py */
  constructor(buffer) {
    const [head, arrays] = headOf(buffer);
    this.prediction = head.prediction;
    this.thresholds = head.thresholds;
    this.own = head.own;  // the index of the model's threshold among them
    this.plain = head.plain;  // whether the model's mask is all that reaches it
    this.shape = head.shape;
    this.affine = head.affine;  // from (column, row, slice) to mm in RAS; null where it is not known
    this.classes = head.classes;  // the name and colour of each
    this.overlapping = head.overlapping;  // whether a voxel may have several
    this.kept = head.kept;  // the folder in which the server keeps the prediction
    this.correction = null;  // by the reader, of the masks at one threshold
    const size = head.shape.reduce((product, side) => product * side, 1), packed = Math.ceil(size / 8);
    let start = arrays;
    const next = (count) => buffer.slice(start, start += count);
    this.channels = head.channels.map((channel) => {  // the first is the reference
      const content = next(channel.bytes * size);
      return { ...channel, stored: channel.bytes === 1 ? new Uint8Array(content) : new Uint16Array(content) };
    });
    this.levels = this.classes.map(() => new Uint8Array(next(size)));
    this.spread = head.disagreement && { most: head.disagreement, stored: new Uint8Array(next(size)) };
    this.bits = this.classes.map(() => new Uint8Array(next(packed)));
    const { spacing_mm: spacing, orientation } = this.prediction;
    this.planes = Object.fromEntries(PLANES.map((name) => [name, new Plane(name, head.shape, spacing, orientation)]));
    this.voxels = this.classes.map((_, kind) => this.#reach(this.planes.axial, (voxel) => this.levels[kind][voxel], (voxel) => this.marks(voxel, this.own, kind))
      .reduce((sums, counts) => sums.map((sum, at) => sum + counts[at]), new Array(this.thresholds.length).fill(0)));  // of each class at each threshold
  }

  /** Whether a voxel is in the mask of a class: as corrected, or else at a threshold, the model's own mask at its own. */
  marks(voxel, at, kind) {
    if (this.correction) return this.correction.masks[kind][voxel];
    return at === this.own ? (this.bits[kind][voxel >> 3] >> (7 - (voxel & 7))) & 1 : this.levels[kind][voxel] > at;
  }

  /** Of any class, how many thresholds a voxel reaches. */
  level(voxel) {
    return this.levels.reduce((most, level) => Math.max(most, level[voxel]), 0);
  }

  /** The values of a layer at a voxel as a share of its highest, 0..1, and that highest. */
  layer(name) {
    const probability = [0, ...this.thresholds];  // by how many thresholds a voxel reaches
    if (name === "probability") return { most: 1, share: (voxel) => probability[this.level(voxel)] };
    if (name === "entropy") {
      const bits = probability.map((p) => p > 0 ? -(p * Math.log2(p) + (1 - p) * Math.log2(1 - p)) : 0);
      return { most: 1, share: (voxel) => bits[this.level(voxel)] };
    }
    return { most: this.spread.most, share: (voxel) => this.spread.stored[voxel] / 255 };
  }

  /** How many voxels of a class there are, as corrected, or else at a threshold. */
  count(kind, at) {
    return this.correction ? this.correction.voxels[kind] : this.voxels[kind][at];
  }

  /** How many voxels of any class each slice of a plane has, as corrected, or else at a threshold. */
  areas(plane, at) {
    if (this.correction) return this.correction.areas[plane.name];
    if (!this.#areas.has(plane)) {
      this.#areas.set(plane, this.#reach(plane, (voxel) => this.level(voxel), (voxel) => this.classes.some((_, kind) => this.marks(voxel, this.own, kind))));
    }
    return this.#areas.get(plane).map((counts) => counts[at]);
  }

  /** For each slice of a plane the bar that is shown for it, 0..1: in the axial one the model's probability, else the highest of its voxels. */
  bars(plane) {
    if (plane.name === "axial") return this.prediction.slices.map(({ probability }) => probability);
    return Array.from({ length: plane.count }, (_, slice) => {
      let most = 0;
      plane.each(slice, (voxel) => { most = Math.max(most, this.level(voxel)); });
      return most ? this.thresholds[most - 1] : 0;
    });
  }

  /** The masks of all classes as corrected, or else at a threshold, one after another, 8 voxels a byte. */
  pack(at) {
    if (this.correction) return packed(this.correction.masks, 0);
    return at === this.own ? new Blob(this.bits) : packed(this.levels, at);
  }

  /** For each slice of a plane, how many voxels are in the mask at each threshold. */
  #reach(plane, level, marked) {
    return Array.from({ length: plane.count }, (_, slice) => {
      const reach = new Uint32Array(this.thresholds.length + 1), areas = new Uint32Array(this.thresholds.length);
      let own = 0, higher = 0;
      plane.each(slice, (voxel) => {
        reach[level(voxel)]++;
        own += Boolean(marked(voxel));
      });
      for (let at = this.thresholds.length - 1; at >= 0; at--) {
        higher += reach[at + 1];
        areas[at] = at === this.own ? own : higher;
      }
      return areas;
    });
  }
}

/** Arrays of voxels one after another, 8 in a byte: whether each is above a value. */
export function packed(arrays, value) {
  return new Blob(arrays.map((array) => {
    const bytes = new Uint8Array(Math.ceil(array.length / 8));
    for (let voxel = 0; voxel < array.length; voxel++) {
      if (array[voxel] > value) bytes[voxel >> 3] |= 128 >> (voxel & 7);
    }
    return bytes;
  }));
}
