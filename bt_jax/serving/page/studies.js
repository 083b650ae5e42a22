import { filled, find, number, tell } from "./dom.js";

/** Several studies of one upload, as a list: those that are predicted by falling uncertainty, then those that wait, then those that failed. */
export class Studies {
  #rows = [];  // of each study: name, sent, its row, and once it is predicted its answer and what is said of it
  #opened = null;

  /** @param {(answer: ArrayBuffer, sent: Object) => void} open shows an answer; throws where what is shown must stay
   *  @param {(error: Error) => void} fail shows an error
   */
  constructor(open, fail) {
    this.open = async (row) => {
      try {
        const answer = await row.answer.arrayBuffer();
        if (!this.#rows.includes(row)) return;  // other scans were sent meanwhile
        open(answer, row.sent);
        this.#opened = row;
        this.#show();
      } catch (error) {
        fail(error);
      }
    };
  }

  clear() {
    this.#rows = [];
    this.#opened = null;
    find("studies").hidden = find("to-studies").hidden = true;
  }

  /** Lists studies.
   *
   * @param {{name: string, sent: Object}[]} studies
   * @param {string[]} twice what was sent twice, a sentence each
   */
  list(studies, twice) {
    this.#rows = studies.map(({ name, sent }) => {
      const row = document.createElement("tr"), head = document.createElement("th"), button = filled("button", name);
      const one = { name, sent, row, button, answer: null, error: "", uncertainty: NaN };
      head.scope = "row";
      Object.assign(button, { type: "button", disabled: true });
      button.addEventListener("click", () => this.open(one));
      head.append(button, filled("small", "waits"));
      row.append(head, filled("td", ""), filled("td", ""));
      return one;
    });
    find("twice").hidden = !twice.length;
    find("twice").replaceChildren(...twice.map((text) => filled("li", text)));
    find("studies").hidden = false;
    find("to-studies").hidden = false;
    this.#show();
  }

  /** Predicts them one after another; one that cannot be predicted is listed with its error.
   *
   * @param {(sent: Object, position: number) => Promise<ArrayBuffer>} predict
   * @param {(answer: ArrayBuffer) => Object} described the content of `prediction.json` in an answer
   */
  async predict(predict, described) {
    for (const [position, one] of this.#rows.entries()) {
      this.#fill(one, "being predicted");
      try {
        const answer = await predict(one.sent, position), prediction = described(answer);
        one.answer = new Blob([answer]);  // which the browser may keep on disk
        one.uncertainty = prediction.uncertainty;
        this.#fill(one, prediction.looks_wrong ? "looks unlike the training scans" : "", number(one.uncertainty, 2), said(prediction));
        one.button.disabled = false;
      } catch (error) {
        one.error = error.message;
        this.#fill(one, one.error, "", "failed");
      }
      this.#show();
    }
    const [first, ...others] = this.#rows;
    if (first?.answer && !others.length && !this.#opened) await this.open(first);
  }

  #fill({ row }, remark, ...texts) {
    row.querySelector("small").textContent = remark;
    texts.forEach((text, column) => { row.children[column + 1].textContent = text; });
  }

  /** Sorts the rows, and says how far it is; the row in focus stays so. */
  #show() {
    const rank = (one) => one.answer ? 0 : one.error ? 2 : 1, focused = document.activeElement;
    const sorted = this.#rows.toSorted((one, other) => rank(one) - rank(other) || (one.answer ? other.uncertainty - one.uncertainty : 0));
    for (const one of sorted) {
      if (one === this.#opened) one.row.setAttribute("aria-current", "true");
      else one.row.removeAttribute("aria-current");
    }
    find("studies-rows").replaceChildren(...sorted.map(({ row }) => row));
    if (find("studies-rows").contains(focused)) focused.focus();
    const count = (wanted) => this.#rows.filter((one) => rank(one) === wanted).length;
    const parts = [`${number(count(0))} of ${number(this.#rows.length)} predicted`, count(2) ? `${number(count(2))} failed` : ""];
    tell("studies-count", `${parts.filter(Boolean).join(", ")}.${count(0) > 1 ? ` Look first at ${sorted[0].name}, of which the networks are least sure.` : ""}`);
  }
}

function said({ tumor, volume_ml: ml, voxels }) {
  if (!tumor) return "no tumour";
  return ml === null ? `${number(voxels)} voxels` : `${number(ml, 2)} ml`;
}
