import { find } from "./dom.js";
import { clearError, fail } from "./scan.js";
import { formOf, post, save } from "./sending.js";

/** Two decimals, or up to four where they are needed. */
const decimals = (value) => value.toFixed(4).replace(/0{1,2}$/, "");

/** A file's name with its study's before it, in characters that every file system takes. */
const named = (study, name) => [study, name].filter(Boolean).join("_").replace(/[^\p{L}\p{N}._-]+/gu, "_");

/** A form of a scan and of the mask that is shown of it. */
export function formOfMask({ result, sent, at }) {
  const form = formOf(sent);
  form.append("mask", result.pack(at), "mask");
  form.append("threshold", String(result.thresholds[at]));
  form.append("sha256", result.prediction.input.sha256);
  if (result.correction?.changed) form.append("corrected", "by hand");
  return form;
}

/** Calls for a button that waits for the server, and is disabled meanwhile; what is wrong is shown. */
export async function whileDisabled(button, call) {
  button.disabled = true;
  clearError();
  try {
    await call();
  } catch (error) {
    fail(error);
  } finally {
    button.disabled = false;
  }
}

/** Lets the user download the mask, the prediction, and of DICOM what shows and measures the mask.
 *
 * @param {() => {result: Result, sent: Object, at: number}} shown what is shown, what was sent of it, and the index of the threshold
 */
export function offerDownloads(shown) {
  find("download-json").addEventListener("click", () => {
    const { prediction } = shown().result;
    save(JSON.stringify(prediction, null, 2) + "\n", named(prediction.study, "prediction.json"));
  });
  const offer = (button, also) => find(button).addEventListener("click", ({ target }) => whileDisabled(target, async () => {
    const { result, at } = shown(), { correction } = result, changed = correction?.changed, last = correction?.last;
    const form = formOfMask(shown());
    if (also) form.append("also", also);
    const answer = await post("/mask", form);
    const [, name] = answer.getResponseHeader("Content-Disposition").split("''");
    const threshold = `threshold_${decimals(result.thresholds[at])}${changed ? "_corrected" : ""}`;
    save(answer.response, named(result.prediction.study, `${threshold}_${decodeURIComponent(name)}`));
    if (also !== "sc") correction?.remember(last);  // all others hold the mask
  }));
  offer("download-mask");
  offer("download-sc", "sc");
  offer("download-sr", "sr");
}
