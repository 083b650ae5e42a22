/** What the server answered: what it says of the scan, and how many thresholds each voxel reaches. */
export class Result {
  /** @param {ArrayBuffer} buffer see `pack` in serving/transport.py */
  constructor(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    this.prediction = head.prediction;
    this.thresholds = head.thresholds;
    this.own = head.own;  // the place of the model's threshold among them
    this.plain = head.plain;  // whether the model's mask is all that reaches it
    [this.slices, this.height, this.width] = head.shape;
    this.pixels = this.height * this.width;
    this.reference = head.reference;
    this.classes = head.classes;  // the name and colour of each
    const size = this.slices * this.pixels, packed = Math.ceil(size / 8), start = 4 + length + size;
    this.flair = new Uint8Array(buffer, 4 + length, size);
    this.levels = this.classes.map((_, kind) => new Uint8Array(buffer, start + kind * size, size));
    this.bits = this.classes.map((_, kind) => new Uint8Array(buffer, start + this.classes.length * size + kind * packed, packed));
    this.voxels = this.classes.map(() => new Uint32Array(this.thresholds.length));  // of each class at each threshold
    this.areas = this.thresholds.map(() => new Uint32Array(this.slices));
    for (let slice = 0; slice < this.slices; slice++) this.#count(slice);
  }

  /** The directions of the patient at the four sides of the picture; null where they are not known. */
  sides() {
    const towards = this.prediction.orientation;
    const opposite = (letters) => [...letters].map((letter) => "RLAPSI"["LRPAIS".indexOf(letter)]).join("");
    return towards && { left: opposite(towards.columns), right: towards.columns, top: opposite(towards.rows), bottom: towards.rows };
  }

  /** Whether a voxel is in the mask of a class at a threshold, the model's own mask at its own. */
  marks(voxel, at, kind) {
    return at === this.own ? (this.bits[kind][voxel >> 3] >> (7 - (voxel & 7))) & 1 : this.levels[kind][voxel] > at;
  }

  /** The masks of all classes at a threshold, one after another, 8 voxels a byte. */
  pack(at) {
    if (at === this.own) return new Blob(this.bits);
    return new Blob(this.levels.map((level) => {
      const packed = new Uint8Array(Math.ceil(level.length / 8));
      for (let voxel = 0; voxel < level.length; voxel++) {
        if (level[voxel] > at) packed[voxel >> 3] |= 128 >> (voxel & 7);
      }
      return packed;
    }));
  }

  /** Counts the voxels of any class in a slice at each threshold, and adds those of each class to its own. */
  #count(slice) {
    const highest = (voxel) => this.levels.reduce((most, level) => Math.max(most, level[voxel]), 0);
    const any = this.#reach(slice, highest, (voxel) => this.classes.some((_, kind) => this.marks(voxel, this.own, kind)));
    any.forEach((area, at) => { this.areas[at][slice] = area; });
    this.classes.forEach((_, kind) => {
      const area = this.classes.length === 1 ? any
        : this.#reach(slice, (voxel) => this.levels[kind][voxel], (voxel) => this.marks(voxel, this.own, kind));
      area.forEach((count, at) => { this.voxels[kind][at] += count; });
    });
  }

  #reach(slice, level, marked) {
    const reach = new Uint32Array(this.thresholds.length + 1), areas = new Uint32Array(this.thresholds.length);
    const [start, stop] = [slice * this.pixels, (slice + 1) * this.pixels];
    let own = 0;
    for (let voxel = start; voxel < stop; voxel++) {
      reach[level(voxel)]++;
      own += Boolean(marked(voxel));
    }
    let higher = 0;
    for (let at = this.thresholds.length - 1; at >= 0; at--) {
      higher += reach[at + 1];
      areas[at] = at === this.own ? own : higher;
    }
    return areas;
  }
}
