import { find, number, tell } from "./dom.js";
import { describedIn } from "./result.js";
import { dropped, formOf, post } from "./sending.js";
import { Studies } from "./studies.js";

const ROLES = ["pre", "flair", "post"];
const form = find("drop");

/** Lets the user drop or choose scans, and sends them to be predicted.
 *
 * @param {{limit_bytes: number, limit_files: number}} about the server's limits
 * @param {() => void} onStart called when files are chosen, as what is shown belongs to the scan before; throws where it must stay
 * @param {(answer: ArrayBuffer, sent: {files: Object[], roles: Object}) => void} onAnswer
 * @param {() => void} onOpen called before another study of the same upload is shown; throws where this one must stay
 */
export function acceptScans(about, onStart, onAnswer, onOpen) {
  const studies = new Studies((answer, sent) => { onOpen(); onAnswer(answer, sent); }, fail);

  /** Predicts what is chosen or dropped, whose folders are gone through first; `sending` is a promise of the files. */
  async function predict(sending, roles) {
    clearError();
    find("busy").hidden = false;
    document.querySelectorAll("#drop button").forEach((button) => { button.disabled = true; });
    try {
      onStart();
      studies.clear();
      const files = await sending;
      check([...files.map(({ file }) => file), ...Object.values(roles).filter((given) => given instanceof File)]);
      const answer = await post("/predict", formOf({ files, roles }), (share) => progress(share, "predicting"));
      if (answer.getResponseHeader("Content-Type").startsWith("application/json")) await predictAll(answer.response, files, roles);
      else onAnswer(answer.response, { files, roles });
      clearError();  // of what was dropped meanwhile
    } catch (error) {
      fail(error);
    } finally {
      find("busy").hidden = true;
      document.querySelectorAll("#drop button").forEach((button) => { button.disabled = false; });
    }
  }

  /** Predicts the studies that the server found in what was sent, each with the files that it needs. */
  async function predictAll(answer, files, roles) {
    const found = JSON.parse(new TextDecoder().decode(answer));
    studies.list(found.studies.map(({ name, sha256, files: needed }) => ({
      name, sent: { files: needed?.map((index) => files[index]) ?? files, roles, sha256 },
    })), found.twice);
    find("studies").scrollIntoView();
    await studies.predict(async (sent, position) => {
      const form = formOf(sent), doing = `predicting ${number(position + 1)} of ${number(found.studies.length)}`;
      form.append("sha256", sent.sha256);
      return (await post("/predict", form, (share) => progress(share, doing))).response;
    }, describedIn);
  }

  function progress(share, doing) {
    if (share < 1) find("progress").value = share;
    else find("progress").removeAttribute("value");
    tell("doing", share < 1 ? `sending, ${number(100 * share)} %` : doing);
  }

  function check(files) {
    const size = files.reduce((sum, file) => sum + file.size, 0);
    if (!files.length) throw new Error("there is no file: choose a scan");
    if (size > about.limit_bytes) throw new Error(`these files have ${number(size / 2 ** 20)} MB, the server takes ${number(about.limit_bytes / 2 ** 20)}`);
    if (files.length > about.limit_files) throw new Error(`these are ${number(files.length)} files, the server takes ${number(about.limit_files)}`);
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
    if (find("busy").hidden) predict(dropped(event.dataTransfer), typed());
    else fail(new Error("scans are still being predicted: drop these again when that is done"));
  });
}

/** Takes the last error away. */
export function clearError() {
  tell("error", "");
  find("error").hidden = true;
}

/** Shows an error beside the form, in view. */
export function fail(error) {
  find("error").hidden = false;
  tell("error", error.message);
  find("error").scrollIntoView({ block: "center" });
}
