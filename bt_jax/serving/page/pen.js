import { enclosed, underBrush } from "./brush.js";
import { Correction } from "./correction.js";
import { filled, find, number, tell } from "./dom.js";

const TOOLS = ["brush", "eraser", "bucket"];

/** The controls that correct the mask of the slice that is shown, by mouse and by finger. */
export class Pen {
  #last = null;  // where the pointer was, while a stroke is drawn

  /** @param {() => void} onChange called when the mask or the tool changes
   *  @param {(slice: number) => void} onSlice called with the slice of a stroke that is undone or done again
   */
  constructor(onChange, onSlice) {
    this.onChange = onChange;
    this.onSlice = onSlice;
    find("undo").addEventListener("click", () => this.undo());
    find("redo").addEventListener("click", () => this.redo());
    find("uncorrect").addEventListener("click", () => this.#edit((correction) => correction.reset()));
    for (const tool of document.querySelectorAll("[name=tool]")) tool.addEventListener("input", () => this.show());
    find("brush-size").addEventListener("input", () => this.show());
  }

  /** Offers the classes of a scan, whose mask is not corrected yet. */
  start(result) {
    this.result = result;
    this.#last = null;
    find("pen-class").replaceChildren(...result.classes.map(({ name }, kind) => Object.assign(filled("option", name), { value: kind })));
    find("pen-class").closest("label").hidden = result.classes.length === 1;
    this.show();
  }

  /** Lets only axial slices be corrected, which is what networks see. */
  allow(axial) {
    find("pen").disabled = !axial;
    if (!axial && this.draws) find("tool-move").checked = true;
    tell("pen-note", axial ? "" : "Axial slices alone can be corrected.");
    this.show();
  }

  get tool() {
    return document.querySelector("[name=tool]:checked").value;
  }

  /** Whether the tool draws. */
  get draws() {
    return TOOLS.includes(this.tool);
  }

  /** The diameter of brush and eraser in pixels across the slice. */
  get size() {
    return Number(find("brush-size").value);
  }

  /** Begins a stroke at a point of a slice, in its pixels.
   *
   * @param {{plane: Plane, slice: number, at: number}} view what is shown, and the index of the threshold
   */
  press(view, point) {
    this.result.correction ??= new Correction(this.result, view.at);
    this.result.correction.begin();
    this.view = view;
    tell("pen-note", "");
    if (this.tool === "bucket") this.#pour(point);
    else this.draw(this.#last = point);
  }

  /** Draws on to a point. */
  draw(point) {
    if (!this.#last) return;
    const { plane, slice } = this.view;
    const voxels = underBrush(plane, slice, this.#last, point, this.size);
    this.result.correction.mark(voxels, this.#kind, Number(this.tool === "brush"));
    this.#last = point;
    this.show();
    this.onChange();
  }

  release() {
    this.#last = null;
    this.#edit((correction) => correction.end());
  }

  /** Takes the stroke back that a second finger has ended. */
  cancel() {
    this.#last = null;
    this.#edit((correction) => correction.cancel());
  }

  undo() {
    this.#edit((correction) => this.#turn(correction.undo()));
  }

  redo() {
    this.#edit((correction) => this.#turn(correction.redo()));
  }

  /** Shows what can be undone, and what was corrected. */
  show() {
    const correction = this.result?.correction;
    find("undo").disabled = !correction?.canUndo;
    find("redo").disabled = !correction?.canRedo;
    find("uncorrect").disabled = find("keep").disabled = !correction?.changed;
    tell("brush-size-value", `${this.size} pixel${this.size === 1 ? "" : "s"}`);
    const slices = (correction?.differing ?? []).flatMap((count, index) => count ? [index + 1] : []);
    tell("corrected", !slices.length ? "" : `Corrected by hand in slice${slices.length > 1 ? "s" : ""} ${slices.join(", ")}: `
      + `${number(correction.added)} voxels added, ${number(correction.removed)} removed.`);
  }

  get #kind() {
    return Number(find("pen-class").value);
  }

  #turn(slice) {
    if (slice !== undefined) this.onSlice(slice);
  }

  #pour(point) {
    const { plane, slice } = this.view, { correction } = this.result, mask = correction.masks[this.#kind];
    const voxels = enclosed(plane, slice, point, (voxel) => mask[voxel]);
    if (voxels) correction.mark(voxels, this.#kind, 1);
    else tell("pen-note", "Nothing to fill here: draw a closed outline, and press inside it.");
  }

  #edit(change) {
    if (!this.result?.correction) return;
    change(this.result.correction);
    this.show();
    this.onChange();
  }
}
