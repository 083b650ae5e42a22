import { Contrast } from "./contrast.js";
import { filled, find, number, tell } from "./dom.js";
import { offerDownloads } from "./downloads.js";
import { Frame } from "./frame.js";
import { listen } from "./gestures.js";
import { offerKeeping } from "./keeping.js";
import { Pen } from "./pen.js";
import { draw, STOPS } from "./picture.js";
import { PLANES } from "./planes.js";
import { Result } from "./result.js";
import { acceptScans } from "./scan.js";
import { ThreeD } from "./three_d.js";

const NAMES = { R: "right", L: "left", A: "front", P: "back", S: "head", I: "feet" };
const NONE = "—";
const ZOOM = 1.5;  // by one press of a button
const [stage, slider, threshold, strip] = ["stage", "slice", "threshold", "strip"].map(find);
const canvas = stage.querySelector("canvas");
const frame = new Frame(), contrast = new Contrast(() => look());
const pen = new Pen(() => refresh(), (slice) => { slices.axial = slice; });
const threeD = new ThreeD(
  () => ({ result, slices: Object.fromEntries(PLANES.map((name) => [name, slices[name] ?? fullest(name)])) }),
  (there) => { slices = there; turnTo(plane.name); },
);

let sent;  // what was sent of the scan that is shown: the mask is asked for with it
let result;
let plane;
let slices = {};  // the slice that is shown in each plane
let at = 0;  // the index of the threshold

// What is shown of a scan, once.

function show(answer, files) {
  const shown = new Result(answer);
  contrast.start(shown.channels);
  [result, sent] = [shown, files];
  const { prediction } = result;
  find("result").hidden = false;
  tell("study", prediction.study);
  tell("probability", `probability ${number(prediction.probability, 3)}`);
  tell("own", number(result.thresholds[result.own], 2));
  find("cleaned").hidden = result.plain;
  find("warnings").hidden = !prediction.warnings.length;
  find("warnings").querySelector("ul").replaceChildren(...prediction.warnings.map((text) => filled("li", text)));
  const [count, height, width] = prediction.shape;
  const facts = {
    ...prediction.roles,
    grid: `${count} slices of ${height} × ${width} pixels`,
    spacing: prediction.spacing_mm ? `${prediction.spacing_mm.map((mm) => number(mm, 2)).join(" × ")} mm` : NONE,
  };
  find("facts").replaceChildren(...Object.entries(facts).map(([name, text]) => {
    const row = document.createElement("tr");
    row.append(filled("th", name), filled("td", text));
    row.firstChild.scope = "row";
    return row;
  }));
  // A box for each class, where there are several, with how much of it there is.
  find("classes").replaceChildren(...result.classes.length === 1 ? [] : result.classes.map(({ name, colour }) => {
    const label = document.createElement("label"), box = document.createElement("input"), key = filled("span", name);
    Object.assign(box, { type: "checkbox", checked: true });
    box.addEventListener("input", look);
    key.className = "key solid";
    key.style.setProperty("--prediction", colour);
    label.append(box, " ", key, " ", filled("small", ""));
    return label;
  }));
  tell("uncertainty", number(prediction.uncertainty, 2));
  const { format } = prediction.input;
  find("download-sc").hidden = find("dicom-note").hidden = format !== "dicom";
  find("download-sr").hidden = format !== "dicom" || !prediction.spacing_mm;
  // Some browsers show what is hidden in a list.
  Object.assign(find("layer").querySelector("[value=disagreement]"), { hidden: !result.spread, disabled: !result.spread });
  find("layer").value = "";
  const flat = !prediction.spacing_mm || count === 1;
  find("planes").disabled = flat;
  threeD.offer(!flat);
  tell("flat", flat ? `Only the axial plane: ${count === 1 ? "there is one slice" : "the files give no spacing, so that the others would be out of shape"}.` : "");
  threshold.max = result.thresholds.length - 1;
  at = result.own;
  slices = {};
  find("kept-correction").hidden = true;
  pen.start(result);
  find("axial").checked = true;
  turnTo("axial");
  find("result").scrollIntoView();
  stage.focus({ preventScroll: true });
}

/** The slice of a plane with the largest mask. */
const fullest = (name) => result.areas(result.planes[name], result.own).reduce((best, area, index, all) => area > all[best] ? index : best, 0);

/** Shows another plane, at first its fullest slice. */
function turnTo(name) {
  plane = result.planes[name];
  slices[name] ??= fullest(name);
  const bars = result.bars(plane), { sides } = plane;
  strip.replaceChildren(...bars.map((height, index) => {
    const mark = document.createElement("span"), bar = document.createElement("i");
    bar.style.height = `${100 * height}%`;
    mark.addEventListener("click", () => go(index));
    mark.append(bar);
    return mark;
  }));
  tell("bars", name === "axial" ? "the probability of tumour in each slice" : "the highest probability of a voxel in each slice");
  for (const side of ["left", "right", "top", "bottom"]) stage.querySelector(`.side.${side}`).textContent = sides?.[side] ?? "";
  tell("sides", sides ? `${sides.left} is the patient's ${NAMES[sides.left[0]]}, at the left of the picture.` : "Left and right are not known: the files do not say how the head lies.");
  slider.max = plane.count;
  pen.allow(name === "axial");
  frame.reset();
  refresh();
}

/** Moves the threshold; a correction is of one threshold, and what was undone of it is forgotten. */
function move(index) {
  if (result.correction?.changed) return;
  at = index;
  result.correction = null;
  pen.show();
  refresh();
}

/** Shows the mask as it is now, and how large it is. */
function refresh() {
  const areas = result.areas(plane, at), spacing = result.prediction.spacing_mm;
  const axial = result.areas(result.planes.axial, at);
  const voxels = areas.reduce((sum, area) => sum + area, 0);
  const cubic = spacing && voxels * spacing[0] * spacing[1] * spacing[2];
  const changed = Boolean(result.correction?.changed);
  threshold.value = at;
  threshold.disabled = find("reset").disabled = changed;
  find("locked").hidden = !changed;
  threshold.setAttribute("aria-valuetext", number(result.thresholds[at], 2));
  tell("threshold-value", number(result.thresholds[at], 2) + (at === result.own ? ", the model's own" : ""));
  tell("tumor", voxels ? "yes" : "no");
  tell("voxels", number(voxels));
  tell("marked", `in ${number(axial.filter((area) => area).length)} of ${number(axial.length)} slices`);
  tell("volume", spacing ? `${number(cubic / 1000, 2)} ml` : NONE);
  tell("cubic", spacing ? `${number(cubic)} mm³` : "the files give no spacing");
  [...find("classes").children].forEach((label, kind) => {
    const count = result.count(kind, at), ml = spacing && count * spacing[0] * spacing[1] * spacing[2] / 1000;
    label.querySelector("small").textContent = spacing ? `${number(ml, 2)} ml` : `${number(count)} voxels`;
  });
  [...strip.children].forEach((mark, index) => mark.classList.toggle("marked", areas[index] > 0));
  threeD.stale = true;
  look();
}

/** Shows the slice that is chosen, as it is at this threshold. */
function look() {
  if (!result) return;
  const slice = slices[plane.name], area = result.areas(plane, at)[slice], axial = plane.name === "axial";
  const { name, probability } = axial ? result.prediction.slices[slice] : {};
  const title = axial ? "Slice" : `${plane.name[0].toUpperCase()}${plane.name.slice(1)} slice`;
  const words = `${title} ${slice + 1} of ${plane.count}${axial ? ` (${name})` : ""}: ${area ? "segmented" : "nothing segmented"}`
    + (axial ? `; probability ${number(probability, 3)}` : "");
  tell("where", words);
  tell("area", result.prediction.spacing_mm ? `${number(area * plane.pixelWidth * plane.pixelHeight)} mm²` : NONE);
  tell("pixels", `${number(area)} pixels`);
  tell("zoom", `${number(100 * frame.zoom)} %`);
  slider.value = slice + 1;
  slider.setAttribute("aria-valuetext", words);
  stage.setAttribute("aria-label", `${contrast.channel.title} slice ${slice + 1}`);
  stage.classList.toggle("still", frame.zoom > 1 || pen.tool !== "move");  // a finger on it does not scroll the page
  stage.classList.toggle("drawing", pen.draws);
  [...strip.children].forEach((mark, index) => mark.classList.toggle("current", index === slice));
  const opacity = find("fill").checked ? Number(find("opacity").value) : 0;
  const boxes = [...find("classes").querySelectorAll("input")];
  const kinds = result.classes.map((_, kind) => kind).filter((kind) => !boxes.length || boxes[kind].checked);
  const { channel, window } = contrast, layer = find("layer").value || null;
  find("scale").hidden = !layer;
  tell("most", layer ? number(result.layer(layer).most, 1) : "");
  const view = { plane, slice, at, channel, window, frame, kinds, outline: find("outline").checked, opacity, layer };
  if (threeD.open) threeD.draw(view);
  else draw(canvas, result, view);
}

/** Whether there is another slice that way; shows it if so. */
function go(index) {
  const slice = Math.min(Math.max(index, 0), plane.count - 1), other = slice !== slices[plane.name];
  slices[plane.name] = slice;
  if (other) look();
  return other;
}

const turn = (count) => go(slices[plane.name] + count);

function enlarge(factor, x, y) {
  frame.enlarge(factor, x, y);
  look();
}

function wholePicture() {
  frame.reset();
  look();
}

slider.addEventListener("input", () => go(Number(slider.value) - 1));
threshold.addEventListener("input", () => move(Number(threshold.value)));
find("reset").addEventListener("click", () => move(result.own));
find("previous").addEventListener("click", () => turn(-1));
find("next").addEventListener("click", () => turn(1));
find("enlarge").addEventListener("click", () => enlarge(ZOOM));
find("reduce").addEventListener("click", () => enlarge(1 / ZOOM));
find("whole").addEventListener("click", wholePicture);
for (const id of ["outline", "fill", "opacity", "layer"]) find(id).addEventListener("input", look);
for (const tool of document.querySelectorAll("[name=tool]")) tool.addEventListener("input", look);
for (const name of PLANES) find(name).addEventListener("input", () => turnTo(name));
find("ramp").style.background = `linear-gradient(90deg, ${STOPS.join(", ")})`;

/** The point of the slice, in its pixels, under a point of what is shown. */
function pixel(x, y) {
  const [across, down] = frame.under(x, y);
  return [across * plane.width, down * plane.height];
}

/** Shows how large the brush is, where the pointer is. */
function hover(x, y) {
  const share = pen.size / plane.width * frame.zoom;
  Object.assign(find("ring").style, { left: `${100 * x}%`, top: `${100 * y}%`, width: `${100 * share}%` });
}

listen(find("frame"), {
  tool: () => pen.tool,
  draws: () => pen.draws,
  press: (x, y) => pen.press({ plane, slice: slices[plane.name], at }, pixel(x, y)),
  draw: (x, y) => pen.draw(pixel(x, y)),
  release: () => pen.release(),
  cancel: () => pen.cancel(),
  hover,
  zoomed: () => frame.zoom > 1,
  turn,
  enlarge,
  move: (x, y) => { frame.move(x, y); look(); },
  brighten: (x, y) => contrast.drag(x, y),
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=text], select");
  if (!result || typing || event.altKey) return;
  if (event.ctrlKey || event.metaKey) {
    const again = { z: event.shiftKey ? "redo" : "undo", y: "redo" }[event.key.toLowerCase()];
    if (again) {
      pen[again]();
      event.preventDefault();
    }
    return;
  }
  const steps = threeD.open || event.target.matches("input[type=range], input[type=radio]") ? {} : { ArrowLeft: -1, ArrowRight: 1 };
  if (event.target === stage) Object.assign(steps, { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity });
  const layer = { o: "outline", f: "fill" }[event.key.toLowerCase()];
  const other = { "+": () => enlarge(ZOOM), "-": () => enlarge(1 / ZOOM), 0: wholePicture }[event.key];
  if (steps[event.key]) {
    turn(steps[event.key]);
    event.preventDefault();
  } else if (layer) {
    find(layer).checked = !find(layer).checked;
    look();
  } else if (other && !threeD.open) other();
});

const seen = () => ({ result, sent, at });
offerDownloads(seen);
offerKeeping(seen);

/** Refuses to drop a correction that is not saved. */
function checkSaved() {
  if (result?.correction?.unsaved) throw new Error(`the correction of ${result.prediction.study} is not saved: download or keep it, or go back to the prediction, first`);
}

window.addEventListener("beforeunload", (event) => { if (result?.correction?.unsaved) event.preventDefault(); });

const about = await (await fetch("/about")).json();
tell("limit", `${number(about.limit_bytes / 2 ** 20)} MB`);
if (about.keeps) tell("keeps", "The server keeps the prediction and the mask of each scan; your files are deleted once it has answered.");
find("keep").hidden = !about.keeps;
tell("keeping", about.keeps
  ? "Keeping a correction stores the scan's images and the corrected mask at the server, as data to train from."
  : "The server was started without a folder to keep in: a corrected mask can be downloaded, and is not kept.");
tell("model", about.model);
acceptScans(about, () => {
  checkSaved();
  result = undefined;  // it belongs to the scan before, whatever becomes of this one
  find("result").hidden = true;
}, show, checkSaved);
