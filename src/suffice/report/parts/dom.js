// Elements by id, and made of text that is never read as HTML.
// @ts-check

/** @param {string} id @returns {any} */
export const $ = id => document.getElementById(id);

/**
 * @param {string} tag @param {Record<string, any>} [properties] @param {...(Node | string)} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) /** @type {any} */ (element)[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** @param {number} share @returns {string} */
export const percent = share => `${(100 * share).toFixed(share < 0.0995 && share > 0 ? 1 : 0)}%`;

/** @param {string} text */
export function say(text) { $("status").textContent = text; }

/** What went wrong, in words. @param {unknown} error @returns {string} */
export const inWords = error => error instanceof Error ? error.message : String(error);

/** A verdict in a box. @param {"good" | "bad" | "alarm" | "plain"} kind @param {string} first @param {...string} more */
export function verdict(kind, first, ...more) {
  return h("div", {className: `verdict ${kind}`}, h("strong", {}, first), ...more.filter(Boolean).map(text => h("p", {}, text)));
}

/**
 * A table whose columns sort it.
 * @param {string[]} columns @param {any[][]} rows cells are text, numbers or elements
 */
export function table(columns, rows) {
  const body = h("tbody");
  const fill = () => body.replaceChildren(...rows.map(row => h("tr", {}, ...row.map(cell => h("td", cellOf(cell), shown(cell))))));
  /** @param {any} cell */
  const shown = cell => cell instanceof Node ? cell : cell?.text ?? String(cell ?? "");
  /** @param {any} cell */
  const cellOf = cell => cell?.className ? {className: cell.className} : {};
  /** @param {any} cell */
  const key = cell => cell instanceof Node ? cell.textContent ?? "" : cell?.sort ?? cell?.text ?? cell ?? "";
  let sorted = -1, down = false;
  const heads = columns.map((name, index) => h("th", {scope: "col"}, h("button", {type: "button", onclick: () => {
    down = sorted === index && !down; sorted = index;
    rows.sort((a, b) => (key(a[index]) < key(b[index]) ? -1 : key(a[index]) > key(b[index]) ? 1 : 0) * (down ? -1 : 1));
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== index ? "none" : down ? "descending" : "ascending"));
    fill();
  }}, name)));
  fill();
  return h("div", {className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Table"}, h("table", {}, h("thead", {}, h("tr", {}, ...heads)), body));
}
