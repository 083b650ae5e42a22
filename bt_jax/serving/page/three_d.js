import { find, number, tell } from "./dom.js";
import { affineOf, niftiOf } from "./nifti.js";

const USE = "A click moves the cross, after which the wheel turns slices there; dragging the head turns it. "
  + "The mask is filled as shown, and is corrected in the slices.";

/** The scan and its mask in three planes and in 3-D, drawn by NiiVue, which is fetched when this is first asked for. */
export class ThreeD {
  #viewer = null;  // NiiVue's, once it was asked for
  #asked = null;  // the result that is to be shown
  #result = null;  // the one that is shown; null while slices are
  #channel = null;
  #toMm = null;  // from (column, row, slice)

  /** @param {() => {result: Result, slices: Object<string, number>}} shown the scan, and the slice of each plane
   *  @param {(slices: Object<string, number>) => void} onChange called when the view opens or closes, with the slices at its cross
   */
  constructor(shown, onChange) {
    this.stale = true;  // whether the masks have changed since they were drawn
    this.onChange = onChange;
    find("three-d").addEventListener("click", () => this.#result ? this.#close() : this.#open(shown()));
  }

  /** Whether the view is shown in place of the slices. */
  get open() {
    return Boolean(this.#result);
  }

  /** Offers the view of another scan, whose slices are shown at first. */
  offer(possible) {
    this.#asked = null;
    this.#show(null);
    find("three-d").disabled = !possible;
    tell("three-d-note", "");
  }

  /** Draws the scan as its slices are shown, see `draw` in picture.js; nothing while they are. */
  draw({ at, channel, window, kinds, opacity }) {
    if (!this.#result) return;
    const [scan, ...masks] = this.#viewer.volumes;
    if (channel !== this.#channel) scan.img.set(intensities(channel));
    if (this.stale) masks.forEach((mask, kind) => mask.img.set(maskOf(this.#result, at, kind)));
    [this.#channel, this.stale] = [channel, false];
    [scan.cal_min, scan.cal_max] = [window.low, window.high];
    masks.forEach((mask, kind) => { mask.opacity = kinds.includes(kind) ? opacity : 0; });
    this.#viewer.updateGLVolume();
  }

  async #open({ result, slices }) {
    this.#asked = result;
    find("three-d").disabled = true;
    tell("three-d-note", "loading");
    try {
      checkWebGL(result.shape);
      find("three-d-view").hidden = false;  // a canvas that is hidden has no size
      this.#viewer ??= await attached((mm) => this.#say(mm));
      await this.#load(result);
      if (this.#asked !== result) return;  // there is another scan meanwhile
      this.#show(result);
      const [x, y, z] = [slices.sagittal, slices.coronal, slices.axial], { x: right, y: front, z: up } = this.#toMm.transformPoint({ x, y, z });
      this.#viewer.scene.crosshairPos = this.#viewer.mm2frac([right, front, up], 0, true);
      this.onChange(slices);
      this.#viewer.createOnLocationChange();
      tell("three-d-note", USE);
    } catch (error) {
      this.offer(true);
      tell("three-d-note", error.message);
    }
    find("three-d").disabled = false;
  }

  #close() {
    const slices = this.#slices(this.#viewer.frac2mm(this.#viewer.scene.crosshairPos, 0, true));
    this.#show(null);
    tell("three-d-note", "");
    this.onChange(slices);
  }

  #show(result) {
    this.#result = result;
    tell("three-d", this.open ? "Back to the slices" : "Three planes and 3-D");
    find("three-d-view").hidden = !this.open;
    find("slices").hidden = find("planes").hidden = this.open;
  }

  /** Hands NiiVue the scan and a mask of each class, in the patient's own space. */
  async #load(result) {
    const { NVImage } = await niivue(), viewer = this.#viewer, { affine, shape } = result;
    const known = affine ?? affineOf(result.prediction.spacing_mm);
    this.#toMm = new DOMMatrix([0, 1, 2, 3].flatMap((column) => known.map((row) => row[column])));
    const volume = (values, name, colours, ...range) => NVImage.new(niftiOf(values, shape, known), `${name}.nii`, colours, 1, null, ...range);
    const [first] = result.channels;
    const masks = await Promise.all(result.classes.map(({ name, colour }, kind) => {
      const [R, G, B] = [1, 3, 5].map((start) => [0, parseInt(colour.slice(start, start + 2), 16)]);
      viewer.addColormap(`class ${kind}`, { R, G, B, A: [0, 255], I: [0, 255] });
      return volume(maskOf(result, result.own, kind), name, `class ${kind}`, 0, 1);
    }));
    const scan = await volume(intensities(first), "scan", "gray");
    while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
    [scan, ...masks].forEach((one) => viewer.addVolume(one));
    viewer.opts.isOrientationTextVisible = Boolean(affine);
    [this.#channel, this.stale] = [first, true];
  }

  /** The slices at a point in mm. */
  #slices([x, y, z]) {
    const { x: column, y: row, z: slice } = this.#toMm.inverse().transformPoint({ x, y, z });
    const [slices, rows, columns] = this.#result.shape;
    const inside = (index, count) => Math.min(Math.max(Math.round(index), 0), count - 1);
    return { axial: inside(slice, slices), coronal: inside(row, rows), sagittal: inside(column, columns) };
  }

  #say(mm) {
    if (!this.#result) return;
    const slices = this.#slices(mm), { planes } = this.#result;
    const words = Object.entries(slices).map(([name, index]) => `${name} slice ${number(index + 1)} of ${number(planes[name].count)}`);
    tell("three-d-where", `The cross: ${words.join(", ")}.`);
  }
}

const niivue = () => import("./niivue/niivue.js");

function checkWebGL(shape) {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) throw new Error("This browser has no WebGL 2, which the view in 3-D needs: the slices show the same.");
  const most = gl.getParameter(gl.MAX_3D_TEXTURE_SIZE), longest = Math.max(...shape);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  if (longest > most) throw new Error(`The scan has ${number(longest)} voxels along an axis, and this browser draws ${number(most)}: the slices show the same.`);
}

/** NiiVue on the page's canvas, with the patient's right at the left, as in the slices; it calls back with where its cross is, in mm. */
async function attached(onMove) {
  const { DRAG_MODE, MULTIPLANAR_TYPE, Niivue, SHOW_RENDER } = await niivue();
  // The page's own keys, files dropped on it and window stay the page's, and the wheel with Ctrl the browser's.
  class Viewer extends Niivue {
    keyDownListener() {}
    keyUpListener() {}
    resetBriCon() {}
    dragEnterListener() {}
    dragOverListener() {}
    async dropListener() {}
    wheelListener(event) {
      if (document.activeElement === this.canvas && !event.ctrlKey && !event.metaKey) super.wheelListener(event);
    }
  }
  const viewer = new Viewer({
    logLevel: "error", dragMode: DRAG_MODE.pan, isRadiologicalConvention: true, sagittalNoseLeft: true,
    multiplanarShowRender: SHOW_RENDER.ALWAYS, multiplanarLayout: MULTIPLANAR_TYPE.GRID, backColor: [0, 0, 0, 1],
    fontColor: [1, 1, 1, 1], crosshairColor: [0.4, 0.7, 1, 0.8], crosshairWidth: 0.5,
  });
  viewer.onLocationChange = ({ mm }) => onMove(mm);
  return viewer.attachToCanvas(find("three-d-canvas"));
}

const intensities = ({ stored, lowest, step }) => Float32Array.from(stored, (value) => lowest + step * value);

const maskOf = (result, at, kind) => result.levels[kind].map((_, voxel) => Number(result.marks(voxel, at, kind)));
