import { filled, find, number, tell } from "./dom.js";

/** The intensities shown as black and as white, for each sequence of a scan, and the controls for them. */
export class Contrast {
  #windows = new Map();

  /** @param {() => void} onChange called when what is shown changes */
  constructor(onChange) {
    this.onChange = onChange;
    find("channel").addEventListener("input", () => this.#choose(Number(find("channel").value)));
    find("preset").addEventListener("input", () => this.#preset(find("preset").value));
    find("reset-window").addEventListener("click", () => this.#preset(this.#usual()));
    for (const id of ["level", "width"]) {
      find(id).addEventListener("input", () => this.#set(Number(find("level").value), Number(find("width").value)));
    }
  }

  /** Offers the sequences of a scan, the first of which is shown. */
  start(channels) {
    this.channels = channels;
    this.#windows = new Map(channels.map((channel) => [channel, between(Object.values(channel.presets)[0])]));
    find("channel").replaceChildren(...channels.map(({ title }, index) => Object.assign(filled("option", title), { value: index })));
    find("channel").closest("label").hidden = channels.length === 1;
    this.#choose(0);
  }

  /** Intensities shown as black and as white. */
  get window() {
    return this.#windows.get(this.channel);
  }

  /** Moves level and width by shares of the whole range. */
  drag(x, y) {
    const { low, high } = this.window, span = this.#span();
    this.#set((low + high) / 2 + y * span, high - low + x * span);
  }

  #choose(index) {
    this.channel = this.channels[index];
    const { presets, lowest, highest, step } = this.channel;
    find("preset").replaceChildren(...[...Object.keys(presets), "own"].map((name) => filled("option", name)));
    Object.assign(find("level"), { min: lowest, max: highest, step: "any" });
    Object.assign(find("width"), { min: step, max: this.#span(), step: "any" });
    this.#show();
  }

  #usual() {
    return Object.keys(this.channel.presets)[0];
  }

  #preset(name) {
    if (name in this.channel.presets) this.#windows.set(this.channel, between(this.channel.presets[name]));
    this.#show();
  }

  #set(level, width) {
    const { lowest, highest, step } = this.channel;
    const middle = Math.min(Math.max(level, lowest), highest), half = Math.min(Math.max(width, step), this.#span()) / 2;
    this.#windows.set(this.channel, { low: middle - half, high: middle + half });
    this.#show();
  }

  #span() {
    return this.channel.highest - this.channel.lowest;
  }

  #show() {
    const { low, high } = this.window, span = this.#span();
    const digits = Math.min(Math.max(2 - Math.floor(Math.log10(span)), 0), 8);
    const same = ([black, white]) => black === low && white === high;
    find("preset").value = Object.entries(this.channel.presets).find(([, range]) => same(range))?.[0] ?? "own";
    find("level").value = (low + high) / 2;
    find("width").value = high - low;
    tell("window-value", `black ${number(low, digits)}, white ${number(high, digits)}`);
    this.onChange();
  }
}

const between = ([low, high]) => ({ low, high });
