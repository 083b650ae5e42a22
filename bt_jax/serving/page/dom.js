export const find = (id) => document.getElementById(id);

export const tell = (id, text) => { find(id).textContent = text; };

export const number = (value, digits = 0) => value.toLocaleString("en-GB", { maximumFractionDigits: digits, minimumFractionDigits: digits });

/** An element of this kind with a text. */
export function filled(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}
