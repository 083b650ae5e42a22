import { filled, find, tell } from "./dom.js";
import { formOfMask, whileDisabled } from "./downloads.js";
import { packed } from "./result.js";
import { post } from "./sending.js";

/** Lets the user keep a correction at the server, which answers how to train from it.
 *
 * @param {() => {result: Result, sent: Object, at: number}} shown see `offerDownloads`
 */
export function offerKeeping(shown) {
  find("keep").addEventListener("click", ({ target }) => whileDisabled(target, async () => {
    const { result } = shown(), { correction } = result, { last } = correction;
    const form = formOfMask(shown());
    form.append("predicted", packed(correction.predicted, 0), "predicted");
    form.append("kept", result.kept);
    const answer = await post("/keep", form);
    const { line, command } = JSON.parse(new TextDecoder().decode(answer.response));
    correction.remember(last);
    if (shown().result !== result) return;  // another scan is shown meanwhile
    tell("kept-line", `Kept: ${line}.`);
    // A line breaks between words only, not at the hyphens of one.
    find("kept-command").replaceChildren(...command.split(" ").flatMap((word) => [filled("span", word), " "]));
    find("kept-correction").hidden = false;
  }));
}
