import { draw } from "./picture.js";
import { Result } from "./result.js";
import { dropped, formOf, post, save } from "./sending.js";

const ROLES = ["pre", "flair", "post"];
const NAMES = { R: "right", L: "left", A: "front", P: "back", S: "head", I: "feet" };
const NONE = "—";
const find = (id) => document.getElementById(id);
const [stage, slider, threshold, strip, form] = ["stage", "slice", "threshold", "strip", "drop"].map(find);
const canvas = stage.querySelector("canvas");
const number = (value, digits = 0) => value.toLocaleString("en-GB", { maximumFractionDigits: digits, minimumFractionDigits: digits });
const tell = (id, text) => { find(id).textContent = text; };

let about;  // the server's model and limits
let sent;  // what was sent of the scan that is shown: the mask is asked for with it
let result;
let slice = 0;
let at = 0;  // the place of the threshold

// The scan: from a drop or a choice to the server and back.

async function predict(files, roles) {
  tell("error", "");
  find("error").hidden = true;
  find("busy").hidden = false;
  result = undefined;  // what is shown belongs to the scan before, whatever becomes of this one
  find("result").hidden = true;
  document.querySelectorAll("#drop button").forEach((button) => { button.disabled = true; });
  try {
    check([...files.map(({ file }) => file), ...Object.values(roles).filter((given) => given instanceof File)]);
    const answer = await post("/predict", formOf(files, roles), (share) => {
      if (share < 1) find("progress").value = share;
      else find("progress").removeAttribute("value");
      tell("doing", share < 1 ? `sending, ${number(100 * share)} %` : "predicting");
    });
    result = new Result(answer.response);
    sent = { files, roles };
    show();
  } catch (error) {
    fail(error);
  } finally {
    find("busy").hidden = true;
    document.querySelectorAll("#drop button").forEach((button) => { button.disabled = false; });
  }
}

function check(files) {
  const size = files.reduce((sum, file) => sum + file.size, 0);
  if (!files.length) throw new Error("there is no file: choose a scan");
  if (size > about.limit_bytes) throw new Error(`these files have ${number(size / 2 ** 20)} MB, the server takes ${number(about.limit_bytes / 2 ** 20)}`);
  if (files.length > about.limit_files) throw new Error(`these are ${number(files.length)} files, the server takes ${number(about.limit_files)}`);
}

function fail(error) {
  find("error").hidden = false;
  tell("error", error.message);
  find("error").scrollIntoView({ block: "center" });
}

const typed = () => Object.fromEntries(ROLES.map((role) => [role, find(`${role}-uid`).value.trim()]).filter(([, uid]) => uid));
const listed = (input) => [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));

for (const kind of ["files", "folder"]) {
  const input = find(kind);
  find(`choose-${kind}`).addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const files = listed(input);
    input.value = "";  // so that the same choice counts again
    predict(files, typed());
  });
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const chosen = ROLES.map((role) => [role, find(`${role}-file`).files[0]]).filter(([, file]) => file);
  predict([], Object.fromEntries(chosen));
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {  // a file beside the zone would replace the page
    event.preventDefault();
    form.classList.toggle("over", kind === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  if (find("busy").hidden) dropped(event.dataTransfer).then((files) => predict(files, typed())).catch(fail);
});

// The result: slices, the threshold, and what follows from it.

function show() {
  const { prediction } = result;
  find("result").hidden = false;
  tell("study", prediction.study);
  tell("probability", `probability ${number(prediction.probability, 3)}`);
  tell("own", number(result.thresholds[result.own], 2));
  find("cleaned").hidden = result.plain;
  find("warnings").hidden = !prediction.warnings.length;
  find("warnings").querySelector("ul").replaceChildren(...prediction.warnings.map((text) => filled("li", text)));
  const [, height, width] = prediction.shape;
  const facts = {
    ...prediction.roles,
    grid: `${prediction.shape[0]} slices of ${height} × ${width} pixels`,
    spacing: prediction.spacing_mm ? `${prediction.spacing_mm.map((mm) => number(mm, 2)).join(" × ")} mm` : NONE,
  };
  find("facts").replaceChildren(...Object.entries(facts).map(([name, text]) => {
    const row = document.createElement("tr");
    row.append(filled("th", name), filled("td", text));
    row.firstChild.scope = "row";
    return row;
  }));
  strip.replaceChildren(...prediction.slices.map(({ probability }, place) => {
    const mark = document.createElement("span"), bar = document.createElement("i");
    bar.style.height = `${100 * probability}%`;
    mark.addEventListener("click", () => go(place));
    mark.append(bar);
    return mark;
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
  const sides = result.sides();
  for (const [side, letters] of Object.entries(sides ?? { left: "", right: "", top: "", bottom: "" })) stage.querySelector(`.side.${side}`).textContent = letters;
  tell("sides", sides ? `${sides.left} is the patient's ${NAMES[sides.left[0]]}, at the left of the picture.` : "Left and right are not known: the files do not say how the head lies.");
  slider.max = result.slices;
  threshold.max = result.thresholds.length - 1;
  slice = result.areas[result.own].reduce((best, area, place, all) => area > all[best] ? place : best, 0);
  move(result.own);
  find("result").scrollIntoView();
  stage.focus({ preventScroll: true });
}

function filled(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

/** Moves the threshold to this place. */
function move(place) {
  at = place;
  const areas = result.areas[at], spacing = result.prediction.spacing_mm;
  const voxels = areas.reduce((sum, area) => sum + area, 0);
  const cubic = spacing && voxels * spacing[0] * spacing[1] * spacing[2];
  threshold.value = at;
  threshold.setAttribute("aria-valuetext", number(result.thresholds[at], 2));
  tell("threshold-value", number(result.thresholds[at], 2) + (at === result.own ? ", the model's own" : ""));
  tell("tumor", voxels ? "yes" : "no");
  tell("voxels", number(voxels));
  tell("marked", `in ${number(areas.filter((area) => area).length)} of ${number(result.slices)} slices`);
  tell("volume", spacing ? `${number(cubic / 1000, 2)} ml` : NONE);
  tell("cubic", spacing ? `${number(cubic)} mm³` : "the files tell no spacing");
  [...find("classes").children].forEach((label, kind) => {
    const count = result.voxels[kind][at], ml = spacing && count * spacing[0] * spacing[1] * spacing[2] / 1000;
    label.querySelector("small").textContent = spacing ? `${number(ml, 2)} ml` : `${number(count)} voxels`;
  });
  [...strip.children].forEach((mark, place) => mark.classList.toggle("marked", areas[place] > 0));
  look();
}

/** Shows the slice that is chosen, as it is at this threshold. */
function look() {
  const area = result.areas[at][slice], spacing = result.prediction.spacing_mm;
  const { name, probability } = result.prediction.slices[slice];
  const words = `Slice ${slice + 1} of ${result.slices} (${name}): ${area ? "marked" : "nothing marked"}; probability ${number(probability, 3)}`;
  tell("where", words);
  tell("area", spacing ? `${number(area * spacing[1] * spacing[2])} mm²` : NONE);
  tell("pixels", `${number(area)} pixels`);
  slider.value = slice + 1;
  slider.setAttribute("aria-valuetext", words);
  stage.setAttribute("aria-label", `${result.reference} slice ${slice + 1}`);
  [...strip.children].forEach((mark, place) => mark.classList.toggle("current", place === slice));
  const opacity = find("fill").checked ? Number(find("opacity").value) : 0;
  const boxes = [...find("classes").querySelectorAll("input")];
  const kinds = result.classes.map((_, kind) => kind).filter((kind) => !boxes.length || boxes[kind].checked);
  draw(canvas, result, { slice, at, kinds, outline: find("outline").checked, opacity });
}

/** Whether there is another slice that way; shows it if so. */
function go(place) {
  const there = Math.min(Math.max(place, 0), result.slices - 1);
  const other = there !== slice;
  slice = there;
  if (other) look();
  return other;
}

slider.addEventListener("input", () => go(Number(slider.value) - 1));
threshold.addEventListener("input", () => move(Number(threshold.value)));
find("reset").addEventListener("click", () => move(result.own));
find("previous").addEventListener("click", () => go(slice - 1));
find("next").addEventListener("click", () => go(slice + 1));
for (const id of ["outline", "fill", "opacity"]) find(id).addEventListener("input", look);
// At either end the wheel scrolls the page on.
stage.addEventListener("wheel", (event) => {
  if (event.deltaY && go(slice + Math.sign(event.deltaY))) event.preventDefault();
}, { passive: false });
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=text]");
  if (!result || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const steps = event.target.matches("input[type=range]") ? {} : { ArrowLeft: -1, ArrowRight: 1 };
  if (event.target === stage) Object.assign(steps, { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity });
  const layer = { o: "outline", f: "fill" }[event.key.toLowerCase()];
  if (steps[event.key]) {
    go(slice + steps[event.key]);
    event.preventDefault();
  } else if (layer) {
    find(layer).checked = !find(layer).checked;
    look();
  }
});

// Downloads.

/** A file's name with its study's before it, in characters that every file system takes. */
const named = (name) => [result.prediction.study, name].filter(Boolean).join("_").replace(/[^\p{L}\p{N}._-]+/gu, "_");

find("download-json").addEventListener("click", () => save(JSON.stringify(result.prediction, null, 2) + "\n", named("prediction.json")));
find("download-mask").addEventListener("click", async (event) => {
  event.target.disabled = true;
  try {
    const mask = formOf(sent.files, sent.roles), threshold = number(result.thresholds[at], 2);
    mask.append("mask", result.pack(at), "mask");
    const answer = await post("/mask", mask);
    const [, name] = answer.getResponseHeader("Content-Disposition").split("''");
    save(answer.response, named(`threshold_${threshold}_${decodeURIComponent(name)}`));
  } catch (error) {
    fail(error);
  } finally {
    event.target.disabled = false;
  }
});

about = await (await fetch("/about")).json();
tell("limit", `${number(about.limit_bytes / 2 ** 20)} MB`);
if (about.keeps) tell("keeps", "The server keeps the prediction and the mask of each scan; your files are deleted once it has answered.");
tell("model", about.model);
