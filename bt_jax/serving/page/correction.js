const MOST = 200;  // strokes that can be undone

/** The masks of a scan as a reader corrects them, stroke by stroke, beginning with those that were predicted. */
export class Correction {
  #stroke = null;  // the voxels and classes that the present stroke has changed
  #done = [];
  #undone = [];
  #saved = null;  // the last stroke when the masks were last saved

  /** @param {Result} result
   *  @param {number} at the index of the threshold whose masks are corrected
   */
  constructor(result, at) {
    const [slices, rows, columns] = result.shape, size = slices * rows * columns;
    this.overlapping = result.overlapping;
    this.threshold = result.thresholds[at];
    this.predicted = result.classes.map((_, kind) => {
      const mask = new Uint8Array(size);
      for (let voxel = 0; voxel < size; voxel++) mask[voxel] = result.marks(voxel, at, kind);
      return mask;
    });
    this.masks = this.predicted.map((mask) => mask.slice());
    this.voxels = result.classes.map((_, kind) => result.voxels[kind][at]);
    // How many voxels of any class each slice of a plane has, and how many differ from the prediction.
    this.areas = Object.fromEntries(Object.values(result.planes).map((plane) => [plane.name, result.areas(plane, at)]));
    this.differing = new Array(slices).fill(0);
    this.added = this.removed = 0;
    this.slices = {
      axial: (voxel) => Math.floor(voxel / (rows * columns)),
      coronal: (voxel) => Math.floor(voxel / columns) % rows,
      sagittal: (voxel) => voxel % columns,
    };
  }

  get changed() {
    return this.added + this.removed > 0;
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /** Whether a change would be lost with the page. */
  get unsaved() {
    return this.changed && this.last !== this.#saved;
  }

  /** The last stroke, by which the state of the masks is known. */
  get last() {
    return this.#done.at(-1);
  }

  /** Notes that the masks are saved as they were after this stroke. */
  remember(stroke) {
    this.#saved = stroke;
  }

  begin() {
    this.#stroke = [];
  }

  /** Marks voxels as a class, or no longer as it; of classes that exclude each other, the others give way. */
  mark(voxels, kind, value) {
    for (const voxel of voxels) {
      if (value && !this.overlapping) {
        this.masks.forEach((mask, other) => { if (other !== kind && mask[voxel]) this.#change(voxel, other); });
      }
      if (this.masks[kind][voxel] !== value) this.#change(voxel, kind);
    }
  }

  end() {
    if (this.#stroke?.length) {
      this.#done.push(this.#stroke);
      this.#done.splice(0, this.#done.length - MOST);
      this.#undone = [];
    }
    this.#stroke = null;
  }

  /** Takes the present stroke back. */
  cancel() {
    (this.#stroke ?? []).reverse().forEach((change) => this.#toggle(...change));
    this.#stroke = null;
  }

  /** Takes the last stroke back; returns its slice, undefined where there is none. */
  undo() {
    return this.#replay(this.#done, this.#undone);
  }

  redo() {
    return this.#replay(this.#undone, this.#done);
  }

  /** Returns to the prediction, as one stroke, which can be undone. */
  reset() {
    this.begin();
    this.masks.forEach((mask, kind) => mask.forEach((value, voxel) => {
      if (value !== this.predicted[kind][voxel]) this.#change(voxel, kind);
    }));
    this.end();
  }

  #replay(from, to) {
    const stroke = from.pop();
    if (!stroke) return undefined;
    stroke.reverse().forEach((change) => this.#toggle(...change));
    to.push(stroke);
    return this.slices.axial(stroke[0][0]);
  }

  #change(voxel, kind) {
    this.#stroke.push([voxel, kind]);
    this.#toggle(voxel, kind);
  }

  #toggle(voxel, kind) {
    const any = () => this.masks.some((mask) => mask[voxel]), before = any();
    const value = this.masks[kind][voxel] ^= 1, differs = value !== this.predicted[kind][voxel];
    this.voxels[kind] += value ? 1 : -1;
    this.differing[this.slices.axial(voxel)] += differs ? 1 : -1;
    if (differs) this[value ? "added" : "removed"]++;
    else this[value ? "removed" : "added"]--;
    const change = any() - before;
    for (const plane in this.areas) this.areas[plane][this.slices[plane](voxel)] += change;
  }
}
