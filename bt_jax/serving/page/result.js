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
    const size = this.slices * this.pixels;
    this.flair = new Uint8Array(buffer, 4 + length, size);
    this.level = new Uint8Array(buffer, 4 + length + size, size);
    this.bits = new Uint8Array(buffer, 4 + length + 2 * size);
    this.areas = this.thresholds.map(() => new Uint32Array(this.slices));
    for (let slice = 0; slice < this.slices; slice++) this.#count(slice);
  }

  /** Whether a voxel is in the mask at a threshold, the model's own mask at its own. */
  marks(voxel, at) {
    return at === this.own ? (this.bits[voxel >> 3] >> (7 - (voxel & 7))) & 1 : this.level[voxel] > at;
  }

  /** The mask at a threshold, 8 voxels a byte. */
  pack(at) {
    if (at === this.own) return this.bits;
    const packed = new Uint8Array(Math.ceil(this.level.length / 8));
    for (let voxel = 0; voxel < this.level.length; voxel++) {
      if (this.level[voxel] > at) packed[voxel >> 3] |= 128 >> (voxel & 7);
    }
    return packed;
  }

  #count(slice) {
    const reach = new Uint32Array(this.thresholds.length + 1);
    const [start, stop] = [slice * this.pixels, (slice + 1) * this.pixels];
    let own = 0;
    for (let voxel = start; voxel < stop; voxel++) {
      reach[this.level[voxel]]++;
      own += this.marks(voxel, this.own);
    }
    let higher = 0;
    for (let at = this.thresholds.length - 1; at >= 0; at--) {
      higher += reach[at + 1];
      this.areas[at][slice] = at === this.own ? own : higher;
    }
  }
}
